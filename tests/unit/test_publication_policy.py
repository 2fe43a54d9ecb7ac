"""Which verdicts go to the hubs, by the matrix: what is shipped, what may be written, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagrelease.errors import MatrixError
from flagrelease.loading import load_matrix
from flagrelease.publication_policy import PublicationPolicy
from flagrelease.verdicts import Verdict
from tests.unit.test_bad_matrices import GOOD


def policy(tmp_path: Path, text: str) -> PublicationPolicy:
    path = tmp_path / "matrix.yaml"
    path.write_text(f"{GOOD}\n{text}\n")
    return load_matrix(path).publication


def rules(found: PublicationPolicy) -> dict[str, tuple[str, bool]]:
    return {str(verdict): (found.of(verdict).hubs, found.of(verdict).approval) for verdict in Verdict}


def test_what_is_shipped_shows_the_public_what_is_consistent(tmp_path: Path) -> None:
    assert rules(policy(tmp_path, "")) == {
        "CONSISTENT": ("public", False),
        "INCONCLUSIVE": ("private", False),
        "REGRESSED": ("record", False),
        "INVALID": ("never", False),
    }


def test_a_matrix_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    found = policy(tmp_path, "publication: {CONSISTENT: {approval: true}, REGRESSED: {hubs: private, approval: true}}")
    assert rules(found) == {
        "CONSISTENT": ("public", True),
        "INCONCLUSIVE": ("private", False),
        "REGRESSED": ("private", True),
        "INVALID": ("never", False),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("publicaton: {}", "publicaton: unknown key; did you mean `publication`?"),
        ("publication: {CONSISTANT: {}}", "publication.CONSISTANT: unknown key; did you mean `CONSISTENT`?"),
        ("publication: {consistent: {}}", "publication.consistent: unknown key; did you mean `CONSISTENT`?"),
        (
            "publication: {CONSISTENT: {aproval: true}}",
            "publication.CONSISTENT.aproval: unknown key; did you mean `approval`?",
        ),
        (
            "publication: {CONSISTENT: {hubs: privat}}",
            "publication.CONSISTENT.hubs: expected `public`, `private`, `record` or `never`, found the text `privat`; "
            "did you mean `private`?",
        ),
        ("publication: {CONSISTENT: {hubs: no}}", "expected `public`, `private`, `record` or `never`, found `false`"),
        (
            "publication: {REGRESSED: {hubs: public}}",
            "publication.REGRESSED.hubs: expected `private`, `record` or `never`, found the text `public`",
        ),
        ("publication: {INVALID: {hubs: private}}", "publication.INVALID: unknown key"),
        ("publication: {CONSISTENT: public}", "publication.CONSISTENT: expected a mapping"),
        ("publication: {CONSISTENT: {approval: 1}}", "publication.CONSISTENT.approval: expected `true` or `false`"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(MatrixError) as raised:
        policy(tmp_path, text)
    assert told in str(raised.value)
