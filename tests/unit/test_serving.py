"""How a cell with a container is served: which image, what is mounted, which command, and what its card says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.errors import ImageNotFound

from flagrelease.errors import ImageError, MatrixError, PreflightError, RegistryError, WeightsError
from flagrelease.records import CellImage, Stage
from flagrelease.settings import Settings, settings
from flows import serving
from flows.job import Job, make_job, make_plan
from runtime import weights
from runtime.image import provide
from runtime.image.recipe import Pin
from runtime.launch.container_spec import ContainerSpec
from runtime.launch.interface import ServerSpec
from runtime.preflight import check_host
from tests.conftest import ROOT

pytestmark = pytest.mark.needs("llama_cpp")
IMAGE = CellImage(
    name="registry.example.org/team/flagrelease_cpu_smollm2:1",
    id=f"sha256:{'a' * 64}",
    key="b" * 64,
    digest=f"sha256:{'c' * 64}",
    base="base",
    versions={"xllamacpp": "1.2.3", "vllm": "0.13.0"},
)


class StandInLauncher:
    """Takes the place of the container launcher: notes what it is asked to start, and starts nothing."""

    container: ContainerSpec
    paths: list[str]
    spec: ServerSpec

    def __call__(self, container: ContainerSpec, *, paths: list[str], **_: object) -> StandInLauncher:
        self.container, self.paths = container, paths
        return self

    @contextmanager
    def start(self, spec: ServerSpec, _: object) -> Iterator[None]:
        self.spec = spec
        yield


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> StandInLauncher:
    stand_in = StandInLauncher()
    monkeypatch.setattr(serving, "ContainerLauncher", stand_in)
    return stand_in


def job_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Job:
    """The small cell in a container, with changes of its entry in matrix.yaml."""
    matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    (cell,) = (cell for cell in matrix["cells"] if cell["model"] == "smollm2")
    cell["engines"]["llama_cpp"]["weights"] = "as_is"
    cell |= {"launcher": "container", **changes.pop("cell", {})}
    matrix["models"]["smollm2"] |= changes
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(matrix, allow_unicode=True, sort_keys=False))
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
    monkeypatch.setenv("FLAGRELEASE_HOME", str(folder / "home"))
    settings.cache_clear()
    return make_job("smollm2-cpu", None, settings())


def test_the_container_is_the_one_that_the_card_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: StandInLauncher
) -> None:
    job = job_of(tmp_path, monkeypatch)
    with serving.start_server(job, settings(), print, image=IMAGE, port=9999):
        pass
    container, command = launcher.container, launcher.spec.command
    assert container.image == "registry.example.org/team/flagrelease_cpu_smollm2@" + f"sha256:{'c' * 64}"
    assert container.network == "host"
    (mount,) = container.mounts
    assert (mount.target, mount.modes) == ("/models/smollm2/smollm2.gguf", ("ro",))
    assert Path(mount.source).is_file()
    assert launcher.paths == [mount.target]
    assert command.argv[:2] == ["python3", "/opt/flagrelease/llama_cpp_server.py"]
    assert {"--model=/models/smollm2/smollm2.gguf", "--host=127.0.0.1", "--port=9999"} < set(command.argv)
    assert command.environment["FLAGRELEASE_PORT"] == "9999"
    # The card's reader types the same, for everybody to reach, at the port that the card prints.
    (typed,) = serving.typed_lines(job)
    assert typed.split() == [
        word.replace("127.0.0.1", "0.0.0.0").replace("9999", "9010")  # noqa: S104
        for word in command.argv
    ]


def test_an_image_that_was_built_for_another_engine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: StandInLauncher
) -> None:
    job = job_of(tmp_path, monkeypatch)
    image = IMAGE.model_copy(update={"versions": {"vllm": "0.13.0"}})
    with pytest.raises(ImageError, match="has no xllamacpp, which"):
        serving.start_server(job, settings(), print, image=image)
    assert not hasattr(launcher, "spec"), "something was started"


def test_a_container_with_its_own_network_is_listened_to_on_all_of_its_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: StandInLauncher
) -> None:
    options = ["--init", "-v", "/anywhere:/models/"]
    container = {"image": "team/image", "name": "own", "options": options, "command": ["sleep", "1"]}
    job = job_of(tmp_path, monkeypatch, cell={"container": container})
    with serving.start_server(job, settings(), print, image=IMAGE):
        pass
    assert "--host=0.0.0.0" in launcher.spec.command.argv
    assert launcher.spec.host == "127.0.0.1"
    assert launcher.container.init


def test_a_downloaded_checkpoint_is_mounted_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: StandInLauncher
) -> None:
    folder = tmp_path / "models"
    source = {"hub": "modelscope", "repository": "team/model", "local_dir": str(folder)}
    job = job_of(tmp_path, monkeypatch, weights=None, source=source, cell={"engine": "vllm", "versions": {"vllm": "1"}})
    with pytest.raises(PreflightError, match="not on this host") as caught:
        weights.check(job.cell.model)
    assert caught.value.remedy.endswith(f"modelscope download --model team/model --local_dir {folder}")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="holds no checkpoint"):
        weights.check(job.cell.model)
    (folder / "model.safetensors").write_text("weights")
    found = weights.check(job.cell.model)
    (folder / "README.md").write_text("said of the model")
    assert weights.check(job.cell.model) == found
    with serving.start_server(job, settings(), print, image=IMAGE):
        pass
    assert [(mount.source, mount.target) for mount in launcher.container.mounts] == [(str(folder), str(folder))]
    assert launcher.spec.command.argv[:3] == ["vllm", "serve", str(folder)]
    (folder / "model.safetensors").write_text("other weights")
    assert weights.check(job.cell.model).sha256 != found.sha256


def test_another_revision_is_mounted_where_the_card_puts_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: StandInLauncher
) -> None:
    folder = tmp_path / "models@v1.1"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("weights")
    source = {"hub": "modelscope", "repository": "team/model", "local_dir": str(tmp_path / "models")}
    job_of(tmp_path, monkeypatch, weights=None, source=source, cell={"engine": "vllm", "versions": {"vllm": "1"}})
    job = make_job("smollm2-cpu", None, settings(), revision="v1.1")
    with serving.start_server(job, settings(), print, image=IMAGE):
        pass
    mounts = [(mount.source, mount.target) for mount in launcher.container.mounts]
    assert mounts == [(str(folder), str(tmp_path / "models"))]
    assert launcher.spec.command.argv[:3] == ["vllm", "serve", str(tmp_path / "models")]


def test_a_checkpoint_that_a_container_cannot_read_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "models", tmp_path / "blobs"
    folder.mkdir()
    elsewhere.mkdir()
    source = {"hub": "modelscope", "repository": "team/model", "local_dir": str(folder)}
    changes = {"weights": None, "cell": {"engine": "vllm", "versions": {"vllm": "1"}}}
    model = job_of(tmp_path, monkeypatch, source=source, **changes).cell.model
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}')
    (folder / "1.safetensors").write_text("one")
    with pytest.raises(WeightsError, match=r"is not whole: 2\.safetensors not there"):
        weights.check(model)
    (elsewhere / "2").write_text("two")
    (folder / "2.safetensors").symlink_to(elsewhere / "2")
    with pytest.raises(WeightsError, match="a link out of the folder"):
        weights.check(model)
    (folder / "2.safetensors").unlink()
    (folder / "2.safetensors").write_text("two")
    found = weights.check(model).sha256
    pinned = {**source, "sha256": found}
    assert weights.check(job_of(tmp_path, monkeypatch, source=pinned, **changes).cell.model).sha256 == found
    other = {**source, "sha256": "0" * 64}
    with pytest.raises(WeightsError, match="holds other weights"):
        weights.check(job_of(tmp_path, monkeypatch, source=other, **changes).cell.model)


def test_other_weights_and_options_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(repository: str = "team/model", **cell: Any) -> tuple[str, str]:
        source = {"hub": "modelscope", "repository": repository}
        job = job_of(tmp_path, monkeypatch, weights=None, source=source, cell={"engine": "vllm", **cell})
        plan = make_plan(job)
        return plan.keys[Stage.BUILD], plan.keys[Stage.EVALUATE]

    options = ["--network=host", "-v", "/models:/models"]
    container = {"image": "a", "name": "b", "options": options, "command": ["sleep", "1"]}
    first = keys(container=container)
    assert keys("team/other", container=container)[0] != first[0]
    build, evaluate = keys(container={**container, "options": [*options, "-e", "VLLM_ATTENTION_BACKEND=XFORMERS"]})
    assert build == first[0]
    assert evaluate != first[1]


def test_a_container_that_does_not_see_the_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container = {"image": "a", "name": "own", "options": ["--network=host"], "command": ["sleep", "1"]}
    job = job_of(tmp_path, monkeypatch, cell={"container": container})
    with pytest.raises(MatrixError, match="does not see /models/smollm2") as caught:
        check_host(job.cell, job.engine.name)
    assert caught.value.remedy == "add to its options: -v /models/smollm2:/models/smollm2:ro"


def test_a_container_that_nobody_reaches_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container = {"image": "a", "name": "own", "options": ["-v", "/models:/models"], "command": ["sleep", "1"]}
    job = job_of(tmp_path, monkeypatch, cell={"container": container})
    with pytest.raises(MatrixError, match="nobody outside its container reaches port 9010") as caught:
        check_host(job.cell, job.engine.name)
    assert caught.value.remedy.endswith("--network=host, or -p 9010:9010")


def test_a_home_that_no_mount_can_name_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: StandInLauncher
) -> None:
    folder = tmp_path / "a:b"
    folder.mkdir()
    job = job_of(folder, monkeypatch, cell={"engines": {"llama_cpp": {"weights": "float16"}}})
    monkeypatch.setattr(serving, "model_path", lambda *_: folder / "model.gguf")
    with pytest.raises(PreflightError, match="cannot be mounted into a container"):
        serving.start_server(job, settings(), print, image=IMAGE)
    assert not hasattr(launcher, "spec")


@pytest.mark.parametrize("name", ["two\nlines", "hidden\u200b"])
def test_a_command_that_no_card_can_print_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with pytest.raises(MatrixError, match="no card can print"):
        serving.typed_lines(job_of(tmp_path, monkeypatch, cell={"served_name": name}))


class StandInEngine:
    """Takes the place of a container engine that has, or lacks, one image."""

    def __init__(self, found: str | None) -> None:
        self.images, self._found = self, found

    def get(self, reference: str) -> object:
        if self._found is None:
            raise ImageNotFound(reference)
        return self

    @property
    def id(self) -> str | None:
        return self._found

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(
    ("here", "pushed", "registry", "expected"),
    [
        (IMAGE.id, True, None, True),
        (None, False, None, False),
        (None, True, IMAGE.id, True),
        (None, True, "another", False),
        (None, True, None, False),
    ],
)
def test_an_image_that_vanished_is_pulled_or_built_again(
    monkeypatch: pytest.MonkeyPatch, here: str | None, pushed: bool, registry: str | None, expected: bool
) -> None:
    def pull(*_: object) -> StandInEngine:
        if registry is None:
            raise RegistryError("gone", remedy="")
        return StandInEngine(registry)

    monkeypatch.setattr(provide, "connect", lambda _: StandInEngine(here))
    monkeypatch.setattr(provide, "pull", pull)
    image = IMAGE if pushed else IMAGE.model_copy(update={"digest": None})
    assert provide.at_hand(image, Settings(), print) is expected


def test_an_image_of_another_registry_is_made_again() -> None:
    assert not provide.at_hand(IMAGE, Settings(registry="registry.example.org/another"), print)


def test_what_is_pinned_hides_the_version_of_the_base() -> None:
    listed = {"components": [{"name": "vllm", "version": v, "bom-ref": f"pkg:pypi/vllm@{v}"} for v in ("0.11", "0.9")]}
    pins = [Pin(component="vllm", package="vllm", version="0.11")]
    assert provide._versions(json.dumps(listed).encode(), pins) == {"vllm": "0.11"}


def test_only_what_is_in_the_image_changes_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(**cell: Any) -> str:
        return make_plan(job_of(tmp_path, monkeypatch, cell=cell)).keys[Stage.BUILD]

    first = key()
    assert key(served_name="another") == first
    assert key(versions={"packages": ["xllamacpp==0.0.1"]}) != first
    monkeypatch.setenv("FLAGRELEASE_BASE_IMAGES", '{"cpu": "registry.example.org/base:1"}')
    assert key() != first


def test_weights_are_copied_once(tmp_path: Path, home: Path) -> None:
    assert home.exists()
    source, target = tmp_path / "model.gguf", tmp_path / "there" / "model.gguf"
    source.write_text("weights")
    assert weights.put(source, target)
    assert not weights.put(source, target)
    target.write_text("damaged")
    assert weights.put(source, target)
    assert target.read_text() == "weights"
    assert [path.name for path in target.parent.iterdir()] == ["model.gguf"]
