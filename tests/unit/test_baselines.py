"""Baselines never change: whole or not at all, known by their content; published scores come in as printed."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from evaluation import baseline as baselines
from evaluation.baseline import baseline_id, is_imported, keep, listed, load, load_imported, noise_floors, save
from evaluation.catalogue import load_benchmarks
from evaluation.published import read_published
from evaluation.run import aggregate
from flagrelease.errors import BaselineError, FlagReleaseError, MatrixError, OutputError, UnknownNameError
from flagrelease.loading import load_matrix
from flagrelease.records import (
    BenchmarkRun,
    CanaryPrompt,
    CanaryReference,
    CanaryStatistics,
    Evaluation,
    ImportedBaseline,
    Item,
    NoiseFloor,
    Published,
    TopToken,
)
from flagrelease.store import Store
from tests.conftest import ROOT
from tests.unit.evaluations import provenance

MATRIX = ROOT / "matrix.yaml"
IMPORTED = {
    "minimax": "minimax-published-dc95b26909db",
    "minicpmv4": "minicpmv4-published-594e0a6cb992",
    "robobrain2-7b": "robobrain2-7b-published-2c695bf2b508",
    "qwen3": "qwen3-published-9a0ba8f956fe",
    "step3": "step3-published-a32a3dd48b51",
}


def run(name: str, n: int, repeats: int = 1) -> BenchmarkRun:
    return BenchmarkRun(
        benchmark=name,
        dataset_sha256="d",
        task_sha256="t",
        few_shot=0,
        generation={"temperature": 0.0, "until": None},
        api="chat",
        harness="lm_eval",
        items=n,
        repeats=repeats,
    )


def item(name: str, number: int, score: float, repeat: int = 0) -> Item:
    return Item(
        benchmark=name, item=f"{number:064d}", repeat=repeat, score=score, prompt="p", answer="ü\n|", extracted="x"
    )


def measured() -> Evaluation:
    """A baseline with everything that one can have, its items in no order."""
    reference = CanaryReference(
        prompts=[
            CanaryPrompt(
                prompt=[1, 2],
                continuation=[3, 4],
                positions=[0, 1],
                logprobs=[-0.1, -2.5],
                top=[[TopToken(token=3, logprob=-0.1)], [TopToken(token=9, logprob=-0.5)]],
            )
        ],
        floor=CanaryStatistics(positions=2, mean_abs_logprob=0.01, top1_agreement=1, kl=0.001),
        how="served again",
    )
    return Evaluation(
        provenance=provenance(),
        benchmarks=[run("words", 3), run("sums", 2, repeats=2)],
        items=[
            *(item("words", number, number % 2) for number in (2, 0, 1)),
            *(item("sums", number, 0.25, repeat) for number in (1, 0) for repeat in (1, 0)),
        ],
        floors=[NoiseFloor(benchmark="words", n=3, flips=1, discordance=1 / 3, how="served again")],
        canary=reference,
    )


def imported() -> ImportedBaseline:
    score = Published(benchmark="gpqa", score=0.507, printed="0.507")
    return ImportedBaseline(model="m", label="H100-CUDA", source="a card", scores=[score])


@pytest.mark.parametrize("baseline", [measured(), imported()], ids=["measured", "imported"])
def test_a_baseline_comes_back_from_files_and_store(tmp_path: Path, baseline: Evaluation | ImportedBaseline) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    identifier = keep(baseline, store, tmp_path / "baselines")
    assert keep(baseline, store, None) == identifier
    if isinstance(baseline, ImportedBaseline):
        assert is_imported(identifier)
        assert load_imported(identifier, tmp_path / "baselines") == baseline
        assert store.imported_baseline(identifier) == baseline
    else:
        assert not is_imported(identifier)
        assert load(identifier, tmp_path / "baselines") == baseline
        # The store orders items in its own way; it is the same baseline all the same.
        stored = store.evaluation(store.known_evaluation(baseline_id=identifier))
        assert stored.items != baseline.items
        assert baseline_id(stored) == identifier
        assert store.known_evaluation(baseline_id=identifier).results == aggregate(baseline)


def test_a_field_that_is_added_one_day_changes_no_id() -> None:
    class Later(Evaluation):
        added: str | None = None

    whole = measured()
    assert baseline_id(Later(**dict(whole))) == baseline_id(whole)
    assert baseline_id(Later(**dict(whole), added="x")) != baseline_id(whole)


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("baseline.json", '"threads": 1', '"threads": 2'),
        ("baseline.json", '"flips": 1', '"flips": 0'),
        ("items.jsonl", '"score":1.0', '"score":0.0'),
        ("canary.json", "-2.5", "-2.4"),
        ("imported.json", "0.507", "0.907"),
    ],
)
def test_a_changed_file_is_noticed(tmp_path: Path, file: str, before: str, after: str) -> None:
    baseline = imported() if file == "imported.json" else measured()
    own = save(baseline, tmp_path)
    text = (own / file).read_text()
    assert before in text
    (own / file).write_text(text.replace(before, after))
    read = load_imported if file == "imported.json" else load
    with pytest.raises(BaselineError, match="another hash"):
        read(own.name, tmp_path)
    # Saving does not put it right silently: somebody has to look.
    with pytest.raises(BaselineError, match="another hash"):
        save(baseline, tmp_path)


def test_one_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    own = save(measured(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in own.iterdir()}
    assert save(measured(), tmp_path) == own
    assert {path: path.stat().st_mtime_ns for path in own.iterdir()} == before


class Killed(BaseException):
    """Stands for the end of the process: nothing is cleaned up after it."""


@pytest.mark.parametrize("method", ["write_bytes", "rename"])
def test_a_crash_in_the_middle_leaves_no_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    original, calls = getattr(Path, method), []

    def die(self: Path, *arguments: object) -> object:
        calls.append(self)
        if method == "rename" or len(calls) == 2:
            raise Killed
        return original(self, *arguments)

    monkeypatch.setattr(Path, method, die)
    with pytest.raises(Killed):
        save(measured(), tmp_path)
    monkeypatch.undo()
    assert listed(tmp_path) == {}
    assert not (tmp_path / baseline_id(measured())).exists()
    # What was left behind is in nobody's way.
    other = measured().model_copy(update={"floors": []})
    own = save(other, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [own.name]
    assert load(own.name, tmp_path) == other


def test_a_full_disk_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, _: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"cannot write the baseline .*No space left"):
        save(measured(), tmp_path)
    assert listed(tmp_path) == {}


def test_missing_and_mistaken_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="there is no baseline m-e-000000000000"):
        load("m-e-000000000000", tmp_path)
    identifier = save(imported(), tmp_path).name
    with pytest.raises(BaselineError, match="is published scores without items"):
        load(identifier, tmp_path)
    with pytest.raises(BaselineError, match="was measured"):
        load_imported(save(measured(), tmp_path).name, tmp_path)


def test_a_broken_one_does_not_hide_the_others(tmp_path: Path) -> None:
    good, bad = save(imported(), tmp_path), save(measured(), tmp_path)
    about = json.loads((bad / "baseline.json").read_text())
    del about["provenance"]["harnesses"]
    (bad / "baseline.json").write_text(json.dumps(about))
    (tmp_path / "README.md").write_text("not a baseline")
    found = listed(tmp_path)
    assert found[good.name] == imported()
    assert found[bad.name] == f"the baseline {bad.name} cannot be read: harnesses: Field required"
    assert len(found) == 2


def test_the_noise_floor_counts_what_changed() -> None:
    first = Evaluation(
        provenance=provenance(),
        benchmarks=[run("one", 4), run("two", 2, repeats=2)],
        items=[
            *(item("one", number, 1) for number in range(4)),
            *(item("two", number, repeat, repeat) for number in range(2) for repeat in range(2)),
        ],
    )
    changed = {("one", 2): 0.5}
    again = first.model_copy(
        update={
            "items": [
                answer.model_copy(update={"score": changed.get((answer.benchmark, int(answer.item)), answer.score)})
                for answer in first.items
                if (answer.benchmark, int(answer.item)) != ("one", 3)
            ]
        }
    )
    one, two = noise_floors(first, again, "served again")
    # One score fell by a half, one answer is missing and so scores 0.
    assert (one.benchmark, one.n, one.flips, one.how) == ("one", 4, 2, "served again")
    assert one.discordance == pytest.approx((0.5**2 + 1) / 4)
    # Each item was right in one repeat of two, both times: the mean stays, single repeats differ in half of the pairs.
    assert (two.n, two.flips, two.discordance) == (2, 0, 0.5)


@pytest.mark.parametrize("model", IMPORTED)
def test_the_published_baselines_are_what_the_cards_print(model: str) -> None:
    found = read_published(model, MATRIX, load_benchmarks(), file=None, source=None)
    assert baseline_id(found) == IMPORTED[model]
    assert load_imported(IMPORTED[model]) == found
    matrix = load_matrix(MATRIX)
    (cell,) = (cell for cell in matrix.cells if cell.model == model)
    assert cell.published is not None
    assert [score.printed for score in found.scores] == [row.baseline for row in cell.published.rows]
    divisor = 100 if cell.published.scale == "percent" else 1
    for score in found.scores:
        assert score.score == pytest.approx(float(score.printed) / divisor)
        assert score.n is None
    assert {score.benchmark for score in found.scores} == set(matrix.suites[matrix.models[model].suite])


def test_what_is_shipped_can_be_read() -> None:
    assert set(IMPORTED.values()) <= set(listed())


FILE = """\
label: H100-CUDA
source: https://example.org/card
scale: percent
scores:
  MMLU: "77.750"
  GPQA_0fewshot_@avg1: 64.26
  musr: "-"
n: {MMLU: 12032}
"""


def read_file(tmp_path: Path, text: str, source: str | None = None, name: str = "qwen3") -> ImportedBaseline:
    path = tmp_path / "scores.yaml"
    path.write_text(text)
    return read_published(name, MATRIX, load_benchmarks(), file=path, source=source)


def test_scores_from_a_file(tmp_path: Path) -> None:
    found = read_file(tmp_path, FILE, name="qwen3-metax")
    assert (found.model, found.label, found.source) == ("qwen3", "H100-CUDA", "https://example.org/card")
    assert [(score.benchmark, score.score, score.printed, score.n) for score in found.scores] == [
        ("mmlu_pro", 0.7775, "77.750", 12032),
        ("gpqa", 0.6426, "64.26", None),
    ]
    as_json = '{"label": "L", "scale": "ratio", "scores": {"MuSR": 0.5}}'
    assert read_file(tmp_path, as_json, source="told").source == "told"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "GPQA_0",
            "GPQQA_0",
            r"scores.yaml:6: scores.GPQQA_0.*: no benchmark is called .*`GPQA_0fewshot_@avg1`\?",
        ),
        ('"77.750"', '"177.750"', r"scores.yaml:5: .*177.750 is not a score as a percent: .* between 0 and 100"),
        ("scale: percent", "scale: ratio", r"64.26 is not a score as a ratio: it must lie between 0 and 1"),
        ("scale: percent", "scale: points", r"scores.yaml:3: scale: "),
        ("musr:", "MMLU-Pro:", r"scores.yaml:7: .*`MMLU-Pro` is mmlu_pro, which has a score already"),
        ('"-"', "Evaluating", r"`Evaluating` is not a number"),
        ('"-"', '"NaN"', r"`NaN` is not a number"),
        ("{MMLU:", "{mmlu:", r"scores.yaml:8: n.mmlu: has no score"),
        ("source:", "origin:", r"scores.yaml:2: origin: unknown key"),
        ("source: https://example.org/card\n", "", r"source: is missing"),
    ],
)
def test_a_wrong_file_of_scores_is_refused(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert before in FILE
    with pytest.raises(MatrixError, match=message):
        read_file(tmp_path, FILE.replace(before, after))


def test_all_wrong_rows_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(MatrixError) as error:
        read_file(tmp_path, FILE.replace("MMLU:", "NLU:").replace("64.26", "-1"))
    assert "no benchmark is called `NLU`" in error.value.message
    assert "-1 is not a score" in error.value.message


def test_a_wrong_row_of_the_matrix_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    text = MATRIX.read_text().replace("metric: OCRBench,", "metric: OCRBunch,", 1)
    path.write_text(text)
    line = next(number for number, row in enumerate(text.splitlines(), start=1) if "OCRBunch" in row)
    with pytest.raises(MatrixError, match=rf"matrix.yaml:{line}: .*no benchmark is called `OCRBunch`.*`OCRBench`"):
        read_published("minicpmv4", path, load_benchmarks(), file=None, source=None)


def second_card(text: str) -> str:
    """The matrix with a second cell of qwen3 that has a published table."""
    cell = text[text.index("  - model: qwen3\n") : text.index("  - model: step3\n")]
    return text + "\n" + cell.replace("chip: metax", "chip: nvidia")


def test_the_card_must_be_one(tmp_path: Path) -> None:
    benchmarks = load_benchmarks()
    cases: list[tuple[str, type[FlagReleaseError], str]] = [
        ("smollm2", BaselineError, "smollm2 has no published table"),
        ("qwen4", UnknownNameError, "there is no model or cell `qwen4`"),
        ("qwen3", BaselineError, "several cells: qwen3-metax, qwen3-nvidia"),
    ]
    path = tmp_path / "matrix.yaml"
    path.write_text(second_card(MATRIX.read_text()))
    for name, kind, message in cases:
        with pytest.raises(kind, match=message):
            read_published(name, path, benchmarks, file=None, source=None)
    found = read_published("qwen3-nvidia", path, benchmarks, file=None, source="another card")
    assert (found.model, found.source) == ("qwen3", "another card")


def test_no_two_benchmarks_share_a_name() -> None:
    owners: dict[str, str] = {}
    for benchmark in load_benchmarks().values():
        for name in {benchmark.key, benchmark.display, *benchmark.aliases}:
            assert owners.setdefault(name.casefold(), benchmark.key) == benchmark.key, name


def test_baselines_are_read_from_where_the_package_lies() -> None:
    assert baselines.SHIPPED == ROOT / "evaluation/baselines"
    assert baselines.CHECKOUT == baselines.SHIPPED
