"""Two files of answers are judged as a release is; what is wrong with a file is said with its line."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evaluation.baseline import SHIPPED
from evaluation.compare import NEVER_TOLD
from evaluation.hygiene import hygiene
from flagrelease import cli
from flagrelease.loading import load_matrix
from tests.conftest import ROOT
from tests.unit.evaluations import evaluation
from tests.unit.policies import THRESHOLDS

TIME = "2026-01-02T03-04-05.678901"
Rows = Sequence[Mapping[str, Any]]
SELDOM_TOLD = {"answer lengths", "cut answers", "empty answers", "extraction", "generation", "prompts"}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def scores(n: int, lost: int = 0, won: int = 0) -> list[int]:
    """Scores of n items, right and wrong by turns, with so many of the right ones lost and wrong ones won."""
    values = [1, 0] * (n // 2)
    values[: 2 * lost : 2] = [0] * lost
    values[1 : 2 * won + 1 : 2] = [1] * won
    return values


def items(values: Sequence[float], **more: Any) -> list[dict[str, Any]]:
    return [{"benchmark": "sums", "item": f"question {i}", "score": value, **more} for i, value in enumerate(values)]


def samples(
    values: Sequence[float], filters: Sequence[str] = ("none",), metric: str = "exact_match", **more: Any
) -> list[dict[str, Any]]:
    """Lines as lm-eval 0.4.13 writes them for a generative task: all docs of a filter, then those of the next."""
    return [
        {
            "doc_id": i,
            "doc": {"question": f"{i} + {i}", "answer": str(2 * i)},
            "target": str(2 * i),
            "arguments": {"gen_args_0": {"arg_0": f"{i} + {i} =", "arg_1": {"until": ["\n"], "do_sample": False}}},
            "resps": [[f" {2 * i}"]],
            "filtered_resps": [str(2 * i)],
            "filter": name,
            "metrics": [metric],
            "doc_hash": sha(f"{i} + {i}"),
            "prompt_hash": sha(f"{i} + {i} ="),
            "target_hash": sha(str(2 * i)),
            metric: float(value),
            **more,
        }
        for name in filters
        for i, value in enumerate(values)
    ]


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


class Run:
    """`flagrelease compare` in this process: its exit code and what it wrote."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        self.out = self.err = ""

    def __call__(self, baseline: Path | Rows, candidate: Path | Rows, *options: str) -> int:
        paths = [
            side if isinstance(side, Path) else write(self.folder / name, side)
            for name, side in (("base.jsonl", baseline), ("cand.jsonl", candidate))
        ]
        self._monkeypatch.setattr(sys, "argv", ["flagrelease", "compare", *map(str, paths), *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)

    def json(self, baseline: Path | Rows, candidate: Path | Rows, *options: str) -> dict[str, Any]:
        self(baseline, candidate, *options, "--json")
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def compare(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(home, monkeypatch, capsys)


@pytest.mark.parametrize("make", [items, samples])
@pytest.mark.parametrize(
    ("n", "lost", "won", "code", "verdict"),
    [
        (1000, 0, 0, 0, "CONSISTENT"),
        (1000, 60, 0, 1, "REGRESSED"),
        (400, 20, 15, 2, "INCONCLUSIVE"),
        (100, 0, 0, 2, "INCONCLUSIVE"),
    ],
)
def test_both_formats_are_judged_alike(
    compare: Run, make: Callable[..., Rows], *, n: int, lost: int, won: int, code: int, verdict: str
) -> None:
    assert compare(make(scores(n)), make(scores(n, lost, won))) == code
    assert compare.out.startswith(verdict)
    assert f"{n} × 1" in compare.out
    assert "not checked, as the files do not tell: weights; " in compare.out


def test_a_baseline_compares_with_itself(compare: Run) -> None:
    path = next(SHIPPED.glob("smollm2-*/items.jsonl"))
    assert compare(path, path) == 0
    found = compare.json(path, path)
    assert found["verdict"] == "CONSISTENT"
    assert [row["verdict"] for row in found["benchmarks"]] == ["CONSISTENT"] * 5
    assert found["baseline"] == found["candidate"] == str(path)
    assert found["not_checked"] == [
        *NEVER_TOLD,
        "generation",
        "answer lengths: hellaswag_100 (100 of 100 items), truthfulqa_mc1_100 (100 of 100 items)",
        "cut answers: hellaswag_100, truthfulqa_mc1_100",
    ]


def test_the_names_of_what_is_not_checked_are_the_gate_s(compare: Run) -> None:
    one = evaluation([])
    policy = load_matrix(ROOT / "matrix.yaml").policy
    names = {check.name for check in hygiene(one, one, policy)}
    found = compare.json(items(scores(300)), items(scores(300)))
    unchecked = set(found["not_checked"])
    assert unchecked == {*NEVER_TOLD, *SELDOM_TOLD}
    assert {check["name"] for check in found["hygiene"]} == names - unchecked


@pytest.mark.parametrize(
    ("baseline", "candidate", "check"),
    [
        (items(scores(300)), items(scores(300))[4:], "unanswered items: sums: 4 of 300"),
        (items(scores(298)), items(scores(300)), "unknown items: sums: 2 that the baseline does not have"),
        (
            items(scores(300), prompt="1 + 1"),
            items(scores(300), prompt="1+1"),
            f"prompts: sums: 300 items, such as question 0: candidate {sha('1+1')[:12]}, baseline {sha('1 + 1')[:12]}",
        ),
        (
            items(scores(300), finish_reason="stop"),
            items(scores(300), finish_reason="length"),
            "cut answers: sums: cut at the token limit: candidate 100.0% of answers, baseline 0.0%",
        ),
        (items(scores(300), answer="4"), items(scores(300), answer=" "), "empty answers: sums: no answer of the cand"),
        (
            [*items(scores(300)), {"benchmark": "more", "item": "1", "score": 1}],
            items(scores(300)),
            "benchmarks: the candidate did not run more",
        ),
        (
            [*items(scores(300)), *items([1], repeat=1)],
            items(scores(300)),
            "answer counts: sums: the baseline has 301 answers, not 300 items × 2 repeats",
        ),
        (
            samples(scores(300)),
            samples(scores(300), metric="acc"),
            "task: samples: candidate filter none, metric acc, baseline filter none, metric exact_match",
        ),
        (
            samples(scores(300)),
            samples(
                scores(300), arguments={"gen_args_0": {"arg_0": "", "arg_1": {"until": ["\n"], "do_sample": True}}}
            ),
            "generation: samples: do_sample: candidate True, baseline False",
        ),
    ],
)
def test_what_is_not_comparable_is_invalid(compare: Run, baseline: Rows, candidate: Rows, check: str) -> None:
    assert compare(baseline, candidate) == 3
    assert compare.out.startswith("INVALID")
    assert f"failed check: {check}" in compare.out


def test_a_text_and_its_hash_are_the_same_prompt(compare: Run) -> None:
    assert compare(items(scores(1000), prompt="1 + 1"), items(scores(1000), prompt=sha("1 + 1"))) == 0


def test_prompts_are_compared_where_both_tell_them(compare: Run) -> None:
    base, candidate = items(scores(300), prompt="a"), items(scores(300), prompt="a")
    del candidate[7]["prompt"]
    assert "prompts: sums (1 of 300 items)" in compare.json(base, candidate)["not_checked"]
    candidate[8]["prompt"] = "b"
    found = compare.json(base, candidate)
    assert [check["name"] for check in found["hygiene"] if not check["passed"]] == ["prompts"]


def test_an_answer_that_is_not_told_is_not_an_empty_one(compare: Run) -> None:
    base, candidate = items(scores(300), answer="4"), items(scores(300), answer="4")
    for row in candidate[:10]:
        del row["answer"]
    found = compare.json(base, candidate)
    assert found["benchmarks"][0]["missing"] == 0
    assert "empty answers: sums (10 of 300 items)" in found["not_checked"]
    for row in candidate[:10]:
        row["answer"] = ""
    assert compare(base, candidate) == 3
    assert "unanswered items: sums: 10 of 300" in compare.out


def test_repeats_are_averaged(compare: Run) -> None:
    base = [row for repeat in (0, 1) for row in items(scores(300), repeat=repeat)]
    candidate = [*items(scores(300)), *items(scores(300, lost=30), repeat=1)]
    (row,) = compare.json(base, candidate)["benchmarks"]
    assert (row["n"], row["repeats"], row["lost"]) == (300, 2, 30)
    assert row["difference"] == pytest.approx(-0.05)


def test_a_policy_of_one_s_own(compare: Run) -> None:
    lenient = compare.folder / "policy.yaml"
    values = THRESHOLDS | {"alpha": 0.1, "margin_points": 20, "margin_points_small": 20, "pooled_margin_points": 20}
    reasons = "".join(f"  {name}: chosen for a test\n" for name in values)
    lenient.write_text("".join(f"{name}: {value}\n" for name, value in values.items()) + f"reasons:\n{reasons}")
    assert compare(items(scores(1000)), items(scores(1000, lost=60)), "--policy", str(lenient)) == 0
    assert "80 % interval" in compare.out
    lenient.write_text(lenient.read_text().replace("large_n: 700", "larg_n: 700"))
    assert compare(items(scores(10)), items(scores(10)), "--policy", str(lenient)) == 11
    assert "policy.yaml:5: larg_n: unknown key; did you mean `large_n`?" in compare.err


def test_a_folder_of_sample_logs(compare: Run) -> None:
    for side, lost in (("a", 0), ("b", 60)):
        folder = compare.folder / side
        write(folder / f"samples_gsm8k_cot_{TIME}.jsonl", samples(scores(1000, lost)))
        write(folder / f"samples_arc_easy_{TIME}.jsonl", samples(scores(1000), metric="acc"))
        (folder / f"results_{TIME}.json").write_text("{}")
    found = compare.json(compare.folder / "a", compare.folder / "b")
    assert {row["benchmark"]: row["verdict"] for row in found["benchmarks"]} == {
        "arc_easy": "CONSISTENT",
        "gsm8k_cot": "REGRESSED",
    }
    assert found["not_checked"] == [
        "task (beyond filter and metric)" if name == "task" else name for name in NEVER_TOLD
    ] + ["answer lengths", "cut answers", "extraction"]


def test_log_likelihood_samples(compare: Run) -> None:
    multiple: dict[str, Any] = {
        "arguments": {f"gen_args_{i}": {"arg_0": "the sky is", "arg_1": f" {word}"} for i, word in enumerate("ab")},
        "resps": [[["-1.25", "True"]], [["-2.5", "False"]]],
        "filtered_resps": [["-1.25", "True"], ["-2.5", "False"]],
        "metrics": ["acc", "acc_norm"],
        "acc_norm": 0.0,
    }
    rows = samples(scores(1000), metric="acc", **multiple)
    assert compare(rows, rows) == 25
    assert "has 2 metrics to choose from: acc, acc_norm" in compare.err
    assert "--metric NAME" in compare.err
    found = compare.json(rows, rows, "--metric", "acc")
    assert (found["verdict"], found["benchmarks"][0]["baseline"]) == ("CONSISTENT", 0.5)
    assert "generation" not in found["not_checked"]


def test_one_of_several_filters_is_chosen(compare: Run) -> None:
    rows = samples(scores(400), filters=("strict-match", "flexible-extract"))
    assert compare(rows, rows) == 25
    assert "has 2 filters to choose from: strict-match, flexible-extract" in compare.err
    assert compare(rows, rows, "--filter", "none") == 25
    assert "has no filter none; it has: strict-match, flexible-extract" in compare.err
    assert compare.json(rows, rows, "--filter", "strict-match")["benchmarks"][0]["n"] == 400


def test_a_question_that_a_data_set_holds_twice_is_two_items(compare: Run) -> None:
    rows = samples(scores(300))
    rows[1]["doc_hash"] = rows[0]["doc_hash"]
    found = compare.json(rows, rows)
    assert found["verdict"] == "CONSISTENT"
    assert found["benchmarks"][0]["n"] == 300


GOOD: list[dict[str, Any]] = items([1, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cand.jsonl: the file is empty"),
        ("\n \n", "cand.jsonl: the file is empty"),
        ('{"benchmark": "sums", "item": "1", "score": 1}\n{"benchmark": ', "cand.jsonl:2: not valid JSON: Expecting"),
        ("[" * 100_000, "cand.jsonl:1: not valid JSON: "),
        ("[1]\n", "cand.jsonl:1: expected a JSON object"),
        ('{"benchmark": "sums", "item": "1", "scor": 1}\n', "cand.jsonl:1: scor: unknown key; did you mean `score`?"),
        ('{"benchmark": "sums", "score": 1}\n', "cand.jsonl:1: item: is missing"),
        (
            '\n{"benchmark": "sums", "item": "1", "score": 1.5}\n',
            "cand.jsonl:2: score: must be less than or equal to 1",
        ),
        ('{"benchmark": "sums", "item": "1", "score": NaN}\n', "cand.jsonl:1: score: "),
        ('{"benchmark": "sums", "item": "1", "score": "1"}\n', "cand.jsonl:1: score: expected a number"),
        (
            '{"benchmark": "sums", "item": "1", "score": 1}\n' * 2,
            "cand.jsonl:2: repeat 0 of item 1 of sums is there twice, first on line 1",
        ),
        (
            '{"benchmark": "sums", "item": "1", "score": 1, "repeat": 1000000000}\n',
            "the repeats of sums are numbered 1000000000",
        ),
        ('{"benchmark": "other", "item": "1", "score": 1}\n', "no benchmark is in both: "),
        (json.dumps(samples([1])[0]) + "\n", "cand.jsonl of the kind `lm-eval sample logs`"),
        ("\udcff\n", "cand.jsonl:1: not valid JSON: 'utf-8' codec can't decode"),
    ],
)
def test_a_bad_item_file_is_one_message(compare: Run, text: str, message: str) -> None:
    path = compare.folder / "cand.jsonl"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert compare(GOOD, path) == 25
    assert compare.out == ""
    assert compare.err.count("error:") == 1
    assert message in compare.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exact_match": 3.5}, "exact_match is 3.5, not a score from 0 to 1"),
        ({"exact_match": [1, 2]}, "exact_match is [1, 2], not a score from 0 to 1"),
        ({"metrics": []}, "has 0 metrics to choose from"),
        ({"doc_hash": 5}, "doc_hash: expected text"),
        ({"doc_id": 0}, "cand.jsonl:2: doc_id 0 with filter none is there twice, first on line 1"),
    ],
)
def test_a_bad_sample_log_is_one_message(compare: Run, changes: dict[str, Any], message: str) -> None:
    assert compare(samples([1, 0]), samples([1, 0], **changes)) == 25
    assert compare.err.count("error:") == 1
    assert message in compare.err


def test_paths_that_hold_nothing(compare: Run) -> None:
    assert compare(GOOD, compare.folder / "nothing.jsonl") == 25
    assert "nothing.jsonl: cannot be read: No such file or directory" in compare.err
    folder = compare.folder / "logs"
    folder.mkdir()
    assert compare(GOOD, folder) == 25
    assert "has no sample logs" in compare.err
    write(folder / f"samples_gsm8k_{TIME}.jsonl", samples([1]))
    write(folder / "samples_gsm8k_2026-02-02T03-04-05.678901.jsonl", samples([1]))
    assert compare(GOOD, folder) == 25
    assert "several sample logs of gsm8k" in compare.err


def test_choices_that_an_item_file_does_not_have(compare: Run) -> None:
    assert compare(GOOD, GOOD, "--metric", "acc") == 25
    assert "leave out --filter and --metric" in compare.err
