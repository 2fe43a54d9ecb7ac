"""Whoever finds a release can check it: what is changed is found and named, whoever changed what else with it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from evaluation import baseline as baselines
from evaluation.recompute import recompute
from flagrelease.errors import PublishError
from flagrelease.provenance.dsse import sign
from flagrelease.provenance.keys import SigningKey
from flagrelease.provenance.report import Report, State
from flagrelease.provenance.verify import verify_folder
from flagrelease.publish.interface import manifest, manifest_json, revision
from flagrelease.records import Publication, digest
from tests.unit.command_line import Run
from tests.unit.published_release import BASELINE, answers, publish, released, world

KEY, OTHER = (SigningKey(Ed25519PrivateKey.generate()) for _ in range(2))


_load = cache(baselines.load)


@pytest.fixture(autouse=True)
def _baseline_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it takes most of the time of a check."""
    monkeypatch.setattr(baselines, "load", _load)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = world(tmp_path_factory.mktemp("world"))
    return publish(here, released(here, answers()), KEY)


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "downloaded"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def check(folder: Path, key: SigningKey | None = KEY) -> Report:
    return verify_folder(folder, None if key is None else key.public, recompute)


def check_files(folder: Path, key: SigningKey | None = KEY) -> Report:
    """As `check`, but for the statistics, which take most of the time."""
    return verify_folder(folder, None if key is None else key.public, lambda *_: [])


def states(report: Report) -> dict[str, State]:
    return {each.name: each.state for each in report.checks}


def edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    after = change(before)
    assert after != before
    path.write_text(after)


def restate(folder: Path, key: SigningKey | None, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """What somebody does who changed files: hash them again, change the statement, sign it with a key of theirs."""
    path = folder / "release.json"
    stated = json.loads(path.read_bytes())
    if key:
        (folder / "release.pub").write_bytes(key.public.pem)
    for subject in stated["subject"]:
        subject["digest"]["sha256"] = hashlib.sha256((folder / subject["name"]).read_bytes()).hexdigest()
    change(stated)
    path.write_text(json.dumps(stated))
    if key:
        (folder / "release.dsse.json").write_bytes(sign(path.read_bytes(), key))
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    listed = Publication(publisher="folder", target="a/b", revision=revision(files), files=manifest(files))
    (folder / "manifest.json").write_bytes(manifest_json(listed))


def test_a_publication_is_proven_as_far_as_files_can(folder: Path) -> None:
    report = check(folder)
    assert report.ok
    assert report.problems == []
    assert set(states(report).values()) == {State.PROVEN}
    assert list(states(report)) == ["signature", "files", "card", "verdict", "answers", "gate"]
    assert (report.cell, report.release, report.verdict) == ("smollm2-cpu", 1, "CONSISTENT")
    assert report.key is not None
    assert (report.key.id, report.key.given) == (KEY.public.id, True)
    assert f"from these answers and those of the baseline {BASELINE}" in report.proven[-1]
    assert any("on cpu" in line and "flagrelease release smollm2-cpu" in line for line in report.not_proven)


def test_without_a_key_at_hand_it_says_that_origin_is_not_proven(folder: Path) -> None:
    report = check_files(folder, None)
    assert report.ok
    assert report.key is not None
    assert not report.key.given
    assert any(line.startswith("origin: the key lies beside") for line in report.not_proven)
    assert not any("which you gave" in line for line in report.proven)
    assert not any("origin" in line for line in check_files(folder).not_proven)


FILES = [
    "README.md",
    "differences.svg",
    "evidence/items.jsonl",
    "evidence/a.log",
    "evidence/verdict.json",
    "release.pub",
]


@pytest.mark.parametrize("name", [*FILES, "release.json", "release.dsse.json", "manifest.json"])
@pytest.mark.parametrize("key", [KEY, None], ids=["key given", "key beside"])
def test_one_changed_byte_names_the_file(folder: Path, name: str, key: SigningKey | None) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    report = check_files(folder, key)
    assert not report.ok
    assert any(problem.startswith(f"{name}: ") for problem in report.problems)
    named = {problem.partition(": ")[0] for problem in report.problems}
    # The card names the evidence; the key beside is what the signature is checked with.
    with_it = (
        {"README.md"} if name.startswith("evidence") else {"release.dsse.json"} if name == "release.pub" else set()
    )
    assert named <= {name, "manifest.json"} | with_it


@pytest.mark.parametrize("name", [*FILES, "release.json", "release.dsse.json"])
def test_a_removed_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    report = check_files(folder)
    assert not report.ok
    assert any(re.match(rf"{re.escape(name)}: is (missing|not what was signed)", each) for each in report.problems)


@pytest.mark.parametrize(
    "name", ["weights.bin", "modeling.py", "evidence/more.log", ".env", ".cache/x", "a/.git/config", "README.MD"]
)
def test_an_added_file_is_named(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("x")
    (folder / "manifest.json").unlink()
    assert f"{name}: was added, it is not among the published files" in check_files(folder).problems


def test_what_is_no_file_is_named_and_not_waited_for(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe")
    problems = check_files(folder).problems
    assert {"linked: it is no file", "pipe: it is no file"} <= set(problems)
    assert any(problem.startswith("gone: it cannot be read") for problem in problems)


def test_what_a_hub_leaves_is_no_addition(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    for name in (".gitattributes", ".cache/huggingface/download/README.md.metadata", ".git/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    report = check_files(folder)
    assert report.ok
    assert any(
        line.endswith(".gitattributes, .cache/huggingface, .git") or ".gitattributes" in line
        for line in report.not_proven
    )


def test_a_models_own_files_are_not_looked_at_and_said(folder: Path) -> None:
    (folder / "weights").mkdir()
    names = ("config.json", "configuration.json", "weights/model-1-of-2.safetensors", "model.gguf", "tokenizer.json")
    for name in names:
        (folder / name).write_text("x")
    report = check_files(folder)
    assert report.ok
    (said,) = [line for line in report.not_proven if line.startswith("the model's own files")]
    assert all(name in said for name in names)
    (folder / "evidence/more.safetensors").write_text("x")
    assert "evidence/more.safetensors: was added, it is not among the published files" in check_files(folder).problems


def test_a_models_file_that_was_published_is_looked_at(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    restate(folder, KEY, lambda stated: stated["subject"].append({"name": "config.json", "digest": {"sha256": "0"}}))
    assert any(problem.startswith("config.json: is not the file") for problem in check_files(folder).problems)


def test_what_was_not_downloaded_is_no_addition_unless_it_could_be_one(folder: Path) -> None:
    beside = ["model.safetensors", ".gitattributes", "evidence/more.log", "modeling.py", "weights.bin"]
    report = verify_folder(folder, KEY.public, lambda *_: [], place="FlagRelease/x (hub, main)", beside=beside)
    assert report.place == "FlagRelease/x (hub, main)"
    assert report.problems == [
        f"{name}: was added, it is not among the published files"
        for name in ("evidence/more.log", "modeling.py", "weights.bin")
    ]
    assert any(line.endswith("were not looked at: model.safetensors") for line in report.not_proven)
    assert any(line.endswith("was not looked at: .gitattributes") for line in report.not_proven)


def test_attributes_that_were_published_are_looked_at(folder: Path) -> None:
    (folder / ".gitattributes").write_text("*.jsonl text")
    restate(folder, KEY, lambda stated: stated["subject"].append({"name": ".gitattributes", "digest": {"sha256": "0"}}))
    assert any(problem.startswith(".gitattributes: is not the file") for problem in check_files(folder).problems)


def test_a_hubs_cache_of_links_is_read_through_them(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert check_files(folder).ok


def test_another_key_is_told_from_a_broken_signature(folder: Path) -> None:
    (problem,) = check_files(folder, OTHER).problems
    assert problem == (
        f"release.dsse.json: it is signed by the key {KEY.public.id}, not by the one given, {OTHER.public.id}"
    )
    assert check_files(folder, OTHER).key is None


def test_a_stripped_signature_is_no_smaller_matter(folder: Path) -> None:
    for name in ("release.dsse.json", "release.pub"):
        (folder / name).unlink()
    restated = json.loads((folder / "release.json").read_bytes())
    restated["subject"] = [subject for subject in restated["subject"] if subject["name"] != "release.pub"]
    (folder / "release.json").write_text(json.dumps(restated))
    restate(folder, None)
    for key in (KEY, None):
        assert check_files(folder, key).problems == [
            "release.dsse.json: is missing, so nobody vouches for this release"
        ]


def a_score(folder: Path) -> str:
    """A score of the candidate as the results table prints it."""
    found = re.search(r"\| [^|]+ \| [\d.]+ \([^)]*\) \| ([\d.]+) ", (folder / "README.md").read_text())
    assert found
    return found[1]


def test_a_number_edited_in_the_card_is_named(folder: Path) -> None:
    score = a_score(folder)
    edit(folder / "README.md", lambda text: text.replace(f" {score} (", " 99.000 (", 1))
    problems = check_files(folder).problems
    assert any(problem.startswith("README.md: is not the file that was published") for problem in problems)
    assert any("candidate: it prints 99.000" in problem and f"stated is {score}" in problem for problem in problems)


def test_a_number_edited_in_card_and_statement_breaks_the_signature(folder: Path) -> None:
    score = a_score(folder)
    edit(folder / "README.md", lambda text: text.replace(f" {score} (", " 99.000 (", 1))
    restate(folder, None)
    assert "release.json: is not what was signed" in check_files(folder).problems
    envelope = json.loads((folder / "release.dsse.json").read_bytes())
    envelope["payload"] = base64.b64encode((folder / "release.json").read_bytes()).decode()
    (folder / "release.dsse.json").write_text(json.dumps(envelope))
    restate(folder, None)
    for key in (KEY, None):
        assert any(
            problem.startswith("release.dsse.json: its signature is not by")
            for problem in check_files(folder, key).problems
        )


def first(pattern: str, instead: str) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, instead, text, count=1)


def without_results(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if " × 1 |" not in line and "n × repeats" not in line)


EDITS: dict[str, tuple[str, Callable[[str], str]]] = {
    "the verdict": ("verdict: it prints REGRESSED", first(r"\| CONSISTENT", "| REGRESSED")),
    "the front matter's verdict": (
        "front matter says verdict: REGRESSED",
        first("verdict: CONSISTENT", "verdict: REGRESSED"),
    ),
    "the evidence's hash": ("front matter says evidence_sha256", first(r"evidence_sha256: \w", "evidence_sha256: x")),
    "a score more": (
        "`model-index` is not",
        first(r"    - type: score", "    - {type: score, value: 99}\n    - type: score"),
    ),
    "the model index": ("`model-index` says 99.5", first(r"value: [\d.]+", "value: 99.5")),
    "a bound": ("candidate: it prints", first(r"(\| [\d.]+ \([^)]+\) \| [\d.]+ \()[\d.]+", r"\g<1>1.5")),
    "a difference": ("interval: it prints", first(r"−[\d.]+ to", "−0.01 to")),
    "n": ("n × repeats: it prints 2500", first(r"\| 250 × 1 \|", "| 2500 × 1 |")),
    "a row's name": ("has no row", first(r"\n\| (\w+)( [^|]*\| [\d.]+ \()", r"\n| Another\2")),
    "the table": ("0 tables", without_results),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_card_that_says_otherwise_is_wrong_whoever_signed_it(folder: Path, what: str) -> None:
    words, change = EDITS[what]
    edit(folder / "README.md", change)
    restate(folder, KEY)
    report = check_files(folder)
    assert states(report)["signature"] is states(report)["files"] is State.PROVEN
    assert states(report)["card"] is State.WRONG
    assert any(problem.startswith("README.md: ") and words in problem for problem in report.problems), report.problems


def test_swapped_evidence_is_named(folder: Path) -> None:
    items, log = folder / "evidence/items.jsonl", folder / "evidence/a.log"
    content = items.read_bytes()
    items.write_bytes(log.read_bytes())
    log.write_bytes(content)
    named = {problem.partition(": ")[0] for problem in check_files(folder).problems}
    assert {"evidence/items.jsonl", "evidence/a.log"} <= named


def test_answers_that_give_other_scores_are_wrong_whoever_signed_them(folder: Path) -> None:
    path = folder / "evidence/items.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    first = json.loads(lines[0])
    changed = json.dumps(first | {"score": 1 - first["score"]}) + "\n"
    path.write_text("".join([changed, *lines[1:]]))
    hashes = {
        each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in sorted((folder / "evidence").iterdir())
    }
    edit(folder / "README.md", lambda text: re.sub(r"evidence_sha256: \w+", f"evidence_sha256: {digest(hashes)}", text))
    restate(folder, KEY)
    report = check(folder)
    assert states(report) == dict.fromkeys(("signature", "files", "card", "verdict"), State.PROVEN) | dict.fromkeys(
        ("answers", "gate"), State.WRONG
    )
    assert any(
        re.match(r"evidence/items.jsonl: .*: score computed from the answers is", each) for each in report.problems
    )


GATES: dict[str, Callable[[dict[str, Any]], None]] = {
    "verdict": lambda gate: gate.update(verdict="INCONCLUSIVE"),
    "lower": lambda gate: gate["benchmarks"][0].update(lower=-0.001),
    "p_value": lambda gate: gate["benchmarks"][0].update(p_value=0.5),
    "mean difference": lambda gate: gate["pooled"].update(lower=0.5),
    "hygiene check benchmarks": lambda gate: gate["hygiene"][3].update(name="benchmarks", passed=False),
}


@pytest.mark.parametrize("what", GATES)
def test_a_verdict_that_does_not_follow_is_wrong_whoever_signed_it(folder: Path, what: str) -> None:
    restate(folder, KEY, lambda stated: GATES[what](stated["predicate"]["flagrelease_measured"]["gate"]))
    report = check(folder)
    assert states(report)["gate"] is states(report)["verdict"] is State.WRONG
    assert any(problem.startswith("release.json: ") and what in problem for problem in report.problems), report.problems


def test_another_baseline_under_the_same_id_is_noticed(folder: Path) -> None:
    restate(folder, KEY, lambda stated: stated["predicate"]["flagrelease_measured"].update(baseline_sha256="0" * 64))
    assert f"release.json: it was compared with another baseline {BASELINE}" in check(folder).problems


def test_a_baseline_that_is_not_at_hand_is_not_proven_and_not_wrong(folder: Path) -> None:
    def rename(stated: dict[str, Any]) -> None:
        stated["predicate"]["flagrelease_measured"]["gate"]["baseline_id"] = "smollm2-vllm-000000000000"

    for name in ("README.md", "evidence/verdict.json"):
        edit(folder / name, lambda text: text.replace(BASELINE, "smollm2-vllm-000000000000"))
    restate(folder, KEY, rename)
    report = check(folder)
    assert states(report)["gate"] is State.NOT_PROVEN
    assert any("smollm2-vllm-000000000000 are not at hand" in line for line in report.not_proven)
    assert states(report)["answers"] is State.PROVEN


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 50_000, b'{"score": 2}\n', b"\xff\n", b"null\n"])
@pytest.mark.parametrize("name", ["evidence/items.jsonl", "evidence/evaluation.json", "evidence/verdict.json"])
def test_hostile_evidence_is_wrong_and_breaks_nothing(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    restate(folder, KEY)
    report = check(folder)
    assert any(problem.startswith(f"{name}: ") for problem in report.problems)


def test_a_release_against_published_scores_is_checked_too(tmp_path: Path) -> None:
    here = world(tmp_path)
    folder = publish(here, released(here, answers(), cell_id="qwen3-metax"), KEY)
    report = check(folder)
    assert report.problems == []
    assert report.verdict == "INCONCLUSIVE"
    assert any("operators that ran: taken as the server told" in line for line in report.not_proven)


def test_answers_that_were_asked_for_again_are_the_ones_computed(tmp_path: Path) -> None:
    here = world(tmp_path)
    folder = publish(here, released(here, answers(), again=answers(lost=5)), KEY)
    assert check(folder).problems == []
    shutil.copy(folder / "evidence/items.jsonl", folder / "evidence/items-again.jsonl")
    assert any(problem.startswith("evidence/items-again.jsonl: ") for problem in check(folder).problems[1:])


def test_what_is_no_publication_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="no folder") as raised:
        check(tmp_path / "nowhere")
    assert "organisation/name --hub" in raised.value.remedy
    with pytest.raises(PublishError, match="it has neither"):
        check(tmp_path)
    (tmp_path / "release.json").write_text("{}")
    with pytest.raises(PublishError, match="no statement that this FlagRelease can read"):
        check(tmp_path)


def test_the_command(folder: Path, tmp_path: Path, run: Run) -> None:
    public = tmp_path / "public.pem"
    public.write_bytes(KEY.public.pem)
    assert run("verify", str(folder), "--key", str(public)) == 0
    assert run.out.startswith("NOTHING IS WRONG  ")
    assert len(run.out.splitlines()) < 30
    for words in ("signed by the key", "Proven:", "Not proven:", "whose the key is"):
        assert words in run.out
    (folder / "evidence/a.log").write_text("\x1b[2Jother")
    (folder / "\x1b[31mred").write_text("x")
    assert run("verify", str(folder), "--json") == 1
    found = json.loads(run.out)
    assert found["ok"] is False
    assert any(problem.startswith("evidence/a.log: ") for problem in found["problems"])
    assert {each["name"]: each["state"] for each in found["checks"]}["files"] == "wrong"
    assert run("verify", str(folder)) == 1
    assert "\x1b" not in run.out
    assert run("verify", str(tmp_path / "nowhere")) == PublishError.exit_code
    assert run("verify", str(folder), "--key", str(tmp_path / "nowhere")) == 13
    assert "No such file" in run.err
