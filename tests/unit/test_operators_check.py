"""What a check leaves in evidence and store, whose chip it counts for, and what the command refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select

from flagrelease.errors import EvidenceError, PreflightError, StoreError, UnknownNameError, WeightsError
from flagrelease.operators import check, environment
from flagrelease.operators.cases import OPERATORS, Case
from flagrelease.operators.check import Plan
from flagrelease.operators.environment import Environment, Loaded, loaded
from flagrelease.operators.shapes import SMALL_MODEL
from flagrelease.settings import settings
from flagrelease.store import Store
from flagrelease.store.conformance import newest, passed
from flagrelease.store.models import ConformanceRow
from tests.conftest import ROOT
from tests.unit.command_line import Run

HERE = Environment(Path(sys.executable), Path("flag_gems"), "5.0.2", "2.13.0", "3.5.1", "1.26.4", "0.1.0")
MODULES: dict[str, str | None] = {**{name: f"flag_gems.ops.{name}" for name in OPERATORS}, "mm": "_metax.ops.mm"}
METAX = Loaded("metax", ("nvidia", "metax", "ascend"), MODULES, "MetaX C550")
CONFIG = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 128}
Host = Callable[..., None]


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    assert home.exists()
    return Run(monkeypatch, capsys)


@pytest.fixture
def asked() -> list[str]:
    """Operators that were asked, in that order."""
    return []


@pytest.fixture
def host(run: Run, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host with a made-up device; its operators are right in every case but `wrong`."""

    def made(device: str = "cuda", found: Environment = HERE, took: Loaded = METAX, wrong: str | None = None) -> None:
        def ask(plan: Plan, operator: str, cases: list[Case], place: Path) -> None:
            asked.append(operator)
            outcome = "differs" if operator == wrong else "matches"
            lines = [{"case": each.name, "group": each.group, "outcome": outcome, "reason": outcome} for each in cases]
            (place / f"{operator}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
            assert plan.device == device

        monkeypatch.setattr(environment, "environment", lambda: found)
        monkeypatch.setattr(check, "device_of", lambda _: device)
        monkeypatch.setattr(check, "loaded", lambda _found, _operators, _device: took)
        monkeypatch.setattr(check, "_ask", ask)

    assert run
    yield made
    settings.cache_clear()


def files() -> dict[str, dict[str, Any]]:
    """The files of evidence, by their hash."""
    folder = Path(settings().evidence_url)
    return {path.name: json.loads(path.read_text()) for path in folder.rglob("*") if path.is_file()}


def rows() -> dict[str, tuple[object, ...]]:
    """The rows of the store, by operator."""
    with closing(Store.open(settings().store_url)) as store, store.session() as session:
        found = session.scalars(select(ConformanceRow))
        return {row.operator: (row.id, row.created_at, row.chip, row.verdict, row.sha256) for row in found}


def test_results_are_stored_for_the_chip_and_a_second_run_stores_nothing_new(
    run: Run, host: Host, asked: list[str]
) -> None:
    host()
    assert run("operators", "check", "--chip", "metax", "--operator", "mm", "--operator", "add", "--json") == 0
    told = json.loads(run.out)
    assert (told["chip"], told["device"], told["interpreter"], told["vendor"]) == ("metax", "cuda", False, "metax")
    assert told["device_name"] == "MetaX C550"
    (about,) = settings().work_path.rglob("about.json")
    assert json.loads(about.read_text())["device_name"] == "MetaX C550"
    assert {each["operator"]: (each["verdict"], each["own"]) for each in told["operators"]} == {
        "mm": ("matches", "metax.ops.mm"),
        "add": ("matches", None),
    }
    (kept,), before = files().values(), rows()
    # Of experts, which the model lacks, it is known without asking.
    by_operator = {each["operator"]: each for each in kept["operators"]}
    assert {name: by_operator.pop(name)["verdict"] for name in ("topk_softmax", "moe_sum")} == dict.fromkeys(
        ("topk_softmax", "moe_sum"), "not runnable here"
    )
    assert {**kept, "operators": by_operator} == {
        **told,
        "operators": {each["operator"]: each for each in told["operators"]},
    }
    assert {row[4] for row in before.values()} == set(files())
    with closing(Store.open(settings().store_url)) as store:
        assert passed(store, "metax", "5.0.2", "mm") is True
    assert run("operators", "check", "--chip", "metax", "--operator", "add", "--operator", "mm") == 0
    assert asked == ["mm", "add"]
    assert (len(files()), rows()) == (1, before)
    assert "Own one of metax" in run.out
    assert "metax.ops.mm" in run.out
    assert "on cuda of Metax" in run.out


def test_what_was_asked_earlier_stays_in_the_newest_file(run: Run, host: Host) -> None:
    host(wrong="add")
    assert run("operators", "check", "--chip", "metax", "--operator", "mm") == 0
    assert run("operators", "check", "--chip", "metax", "--operator", "add") == 1
    with closing(Store.open(settings().store_url)) as store:
        found = newest(store, "metax", "5.0.2", "SmolLM2-135M's shapes")
    assert found is not None
    assert (found.verdicts["mm"], found.verdicts["add"], len(found.files)) == ("matches", "differs", 1)
    assert {"mm", "add"} <= {each["operator"] for each in files()[found.files[0]]["operators"]}
    # Without the chip's name they are results of no chip, and the chip keeps its own.
    before = rows()
    assert run("operators", "check", "--operator", "add") == 1
    with closing(Store.open(settings().store_url)) as store:
        assert newest(store, "metax", "5.0.2", "SmolLM2-135M's shapes") == found
    assert before.items() <= {**rows(), **before}.items()


def test_of_an_operator_that_was_interrupted_nothing_is_stored(run: Run, host: Host) -> None:
    host()
    assert run("operators", "check", "--operator", "mm", "--operator", "add") == 0
    (file,) = settings().work_path.rglob("mm.jsonl")
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    before = set(files())
    assert run("operators", "check", "--operator", "add") == 0
    (new,) = set(files()) - before
    named = {each["operator"] for each in files()[new]["operators"]}
    assert ("add" in named, "mm" in named) == (True, False)


def test_a_folder_of_the_matrix_is_its_model(run: Run, host: Host, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host()
    matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    matrix["models"]["qwen3"]["source"]["local_dir"] = str(home / "weights")
    (home / "matrix.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False))
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(home / "matrix.yaml"))
    settings.cache_clear()
    (home / "weights").mkdir()
    (home / "weights/config.json").write_text(json.dumps(CONFIG))
    for name in ("qwen3", home / "weights", home / "weights/config.json"):
        assert run("operators", "check", "--chip", "metax", "--operator", "mm", "--model", name, "--json") == 0
        assert json.loads(run.out)["shapes"]["model"] == "qwen3"
    assert len(files()) == 1


def test_the_interpreter_counts_for_the_cpu_alone_and_shows_nothing_of_it(run: Run, host: Host) -> None:
    host("cpu")
    assert run("operators", "check", "--chip", "cpu", "--operator", "mm") == 0
    assert "Own one" not in run.out
    assert rows()["mm"][2:4] == ("cpu", "matches")
    with closing(Store.open(settings().store_url)) as store:
        assert passed(store, "cpu", "5.0.2", "mm") is None


@pytest.mark.parametrize(
    ("device", "asked_for", "code", "said"),
    [
        ("cuda", ["--chip", "metaks"], UnknownNameError, "unknown chip `metaks`\n  -> did you mean `metax`?"),
        ("cuda", ["--chip", "Tianshu"], UnknownNameError, "unknown chip `Tianshu`"),
        ("cuda", ["--chip", ""], UnknownNameError, "unknown chip ``\n  -> known are: arm, "),
        ("cpu", ["--chip", "metax"], PreflightError, "which shows nothing of Metax\n  -> on a host with Metax"),
        ("cuda", ["--chip", "metax", "--device", "cpu"], PreflightError, "which shows nothing of Metax"),
        ("cuda", ["--chip", "ascend"], PreflightError, "this host is cuda, and torch calls those of Ascend npu"),
        ("cuda", ["--chip", "cpu"], PreflightError, "this host is cuda, and torch calls those of CPU cpu"),
        ("cuda", ["--chip", "nvidia"], PreflightError, "for one of metax, not of nvidia\n"),
        ("cuda", ["--chip", "nvidia"], PreflightError, "the chip that this host has: run it on a host with Nvidia\n"),
        ("cpu", ["--device", "cuda"], PreflightError, "no cuda on this host\n  -> without one: flagrelease operators"),
        ("cuda", ["--operator", "rmsnorm"], UnknownNameError, "the operator 'rmsnorm'\n  -> did you mean rms_norm"),
        ("cuda", ["--operator", ""], UnknownNameError, "the operator ''\n  -> one of: abs, add"),
    ],
)
def test_what_cannot_be_checked_is_refused_and_leaves_nothing(
    run: Run, host: Host, *, device: str, asked_for: list[str], code: type[UnknownNameError], said: str
) -> None:
    host(device)
    assert run("operators", "check", *asked_for) == code.exit_code
    assert said in run.err
    assert not settings().home_path.exists()


def test_results_of_one_vendors_device_are_not_taken_for_anothers(run: Run, host: Host, asked: list[str]) -> None:
    # Two hosts with one work folder; torch calls both devices cuda.
    host()
    assert run("operators", "check", "--chip", "metax", "--operator", "mm") == 0
    host(took=replace(METAX, vendor="nvidia", modules={}))
    assert run("operators", "check", "--chip", "nvidia", "--operator", "mm") == 0
    # One that FlagGems was told to take for another's.
    host(took=replace(METAX, name="NVIDIA H20"))
    assert run("operators", "check", "--chip", "metax", "--operator", "mm") == 0
    assert asked == ["mm", "mm", "mm"]
    assert len(files()) == 3


def test_a_vendor_that_flaggems_does_not_know_cannot_be_told_from_others(run: Run, host: Host) -> None:
    host(took=replace(METAX, vendor="nvidia"))
    assert run("operators", "check", "--chip", "zhenwu", "--operator", "mm") == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no config.json"),
        ("{}", "has no hidden_size\n  -> name the config.json of a language model"),
        ("[]", "holds no object"),
        (json.dumps({**CONFIG, "vocab_size": 0}), "vocab_size is 0"),
    ],
)
def test_a_model_without_sizes_is_refused(run: Run, host: Host, home: Path, content: str | None, said: str) -> None:
    host()
    (home / "model").mkdir()
    if content is not None:
        (home / "model/config.json").write_text(content)
    assert run("operators", "check", "--model", home / "model") == WeightsError.exit_code
    assert said in run.err


def test_another_version_of_flaggems_is_said_and_none_is_refused(run: Run, host: Host) -> None:
    host(found=replace(HERE, flag_gems="5.1.0"))
    assert run("operators", "check", "--chip", "metax", "--operator", "mm") == 0
    assert "note: FlagGems 5.1.0 is installed, and the operators were chosen for 5.0.2" in run.out
    with closing(Store.open(settings().store_url)) as store:
        assert (passed(store, "metax", "5.1.0", "mm"), passed(store, "metax", "5.0.2", "mm")) == (True, None)
    host(found=replace(HERE, flag_gems=None))
    assert run("operators", "check", "--operator", "mm") == PreflightError.exit_code
    assert "lacks flag_gems\n  -> in a checkout: make operators" in run.err


@pytest.mark.parametrize(("name", "code"), [("FLAGRELEASE_STORE", StoreError), ("FLAGRELEASE_EVIDENCE", EvidenceError)])
def test_results_that_cannot_be_stored_are_told_and_not_asked_again(
    run: Run,
    host: Host,
    *,
    asked: list[str],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: type[StoreError],
) -> None:
    host()
    (home / "a file").write_text("no database")
    place = home / "a file"
    monkeypatch.setenv(name, f"sqlite:///{place}" if name == "FLAGRELEASE_STORE" else str(place))
    settings.cache_clear()
    assert run("operators", "check", "--chip", "metax", "--operator", "mm") == code.exit_code
    assert "matches" in run.out
    assert "the results are not stored: " in run.err
    assert "then the same command again, which asks nothing anew: they are in" in run.err
    monkeypatch.delenv(name)
    settings.cache_clear()
    assert run("operators", "check", "--chip", "metax", "--operator", "mm") == 0
    assert asked == ["mm"]
    assert rows()["mm"][2:4] == ("metax", "matches")


@pytest.mark.parametrize(
    ("flag_gems", "triton", "said"),
    [("5.0.2", "3.6.0", False), ("5.0.2", "3.7.0", True), ("5.0.1", "3.10.0+fl", True), ("5.1.0", "3.7.0", False)],
)
def test_a_triton_that_flaggems_launches_wrongly_is_said_of_a_device(
    flag_gems: str, triton: str, *, said: bool
) -> None:
    found = replace(HERE, flag_gems=flag_gems, triton=triton)
    assert any("launches kernels as Triton" in note for note in Plan(found, "cuda", SMALL_MODEL, ()).notes()) == said
    assert not any("launches" in note for note in Plan(found, "cpu", SMALL_MODEL, ()).notes())


def test_whose_functions_are_checked_is_asked_of_flaggems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As FlagGems lays itself out: the vendor's modules lie on the path by their own name.
    for name, text in {
        "flag_gems/__init__.py": "from flag_gems.ops import abs, add, mm\nfrom _metax.ops import mm\n"
        "vendor_name = 'metax'\n"
        "print('[Note] no fused operators were found')\n",
        "flag_gems/ops.py": "def add(): ...\ndef mm(): ...\ndef abs(x): return x\n",
        "torch.py": "from types import SimpleNamespace\n"
        "cuda = SimpleNamespace(get_device_name=lambda _: 'MetaX C550')\n"
        "def ones(*_, device): return SimpleNamespace(cpu=lambda: device)\n"
        "import atexit, os\natexit.register(os.abort)\n",
        "flag_gems/runtime/__init__.py": "",
        "flag_gems/runtime/common.py": "from enum import Enum\nvendors = Enum('vendors', ['NVIDIA', 'METAX'])\n",
        "_metax/ops.py": "def mm(): ...\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = loaded(HERE, ["add", "mm", "not there"], "cuda")
    assert (found.vendor, found.vendors, found.name) == ("metax", ("nvidia", "metax"), "MetaX C550")
    assert loaded(HERE, ["add"], "npu").name is None
    assert [found.own(name) for name in ("add", "mm", "not there")] == [None, "metax.ops", None]
    launch = tmp_path / "flag_gems/ops.py"
    sound = launch.read_text()
    # The later launches of a kernel are others than its first one.
    launch.write_text(
        sound + "import os\ncalls = []\ndef abs(x): return os.abort() if calls else calls.append(1) or x\n"
    )
    with pytest.raises(PreflightError, match=r"cannot be used on this host's cuda: .* does not answer: SIGABRT"):
        loaded(HERE, ["add"], "cuda")
    launch.write_text(sound + "def abs(x): raise RuntimeError('Failed to find C compiler')\n")
    with pytest.raises(PreflightError, match="Failed to find C compiler") as raised:
        loaded(HERE, ["add"], "cuda")
    assert "Python.h" in raised.value.remedy
    (tmp_path / "flag_gems/__init__.py").write_text("raise RuntimeError('no device was found')")
    with pytest.raises(PreflightError, match="no device was found"):
        loaded(HERE, ["add"], "cuda")
