"""Images of cells, with a real engine and real registries: built once, pushed, removed, and pulled by digest."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from docker.models.images import Image

from flagrelease.errors import ImageError, RegistryError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.matrix import ResolvedCell
from flagrelease.settings import Settings, settings
from runtime.docker_engine import LONG_S, connect
from runtime.image.build import BuiltImage, build_image
from runtime.image.dockerfile import quoted
from runtime.image.provide import share
from runtime.image.recipe import shared_name
from runtime.image.registry import pull, push
from runtime.image.sbom import bill_of_materials
from tests.conftest import CLOSED_REGISTRY, REGISTRY, ROOT
from tests.integration.images import (
    TEAM,
    base_with_python,
    cell_of,
    host_of,
    python_base,
    remove,
    stand_in_wheels,
    tiny_base,
)
from tests.unit.test_image_dockerfile import HOSTILE

pytestmark = pytest.mark.needs("docker")
OPEN_TEAM, CLOSED_TEAM = f"{REGISTRY}/{TEAM}", f"{CLOSED_REGISTRY}/{TEAM}"
# As infra/engine/start.sh sets it.
LOGIN = {"registry_user": "ci", "registry_password": "ci-password"}


def ignore(_: str) -> None:
    """A log that nobody reads."""


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    with closing(connect(LONG_S)) as client:
        yield client


@pytest.fixture(scope="module")
def base(client: docker.DockerClient) -> Iterator[str]:
    """A tiny base of this run's own, so that nothing of an earlier run is found."""
    name = tiny_base(client, f"{TEAM}/base:{uuid.uuid4().hex}", {"etc/run": uuid.uuid4().hex})
    yield name
    remove(client, name)


def image_of(client: docker.DockerClient, built: BuiltImage) -> Image:
    return client.images.get(built.id)


# One build of the real image of the small cell: the slow part of this file.


@pytest.fixture(scope="module")
def cpu_host(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return host_of(tmp_path_factory.mktemp("cpu"), python_base(), OPEN_TEAM)


@pytest.fixture(scope="module")
def cpu_cell() -> ResolvedCell:
    """The small cell with its own packages; its image is this file's own, as other tests may be using the cell's."""
    packages = resolve(load_matrix(ROOT / "matrix.yaml"), load_chips(), "smollm2-cpu").cell.versions.packages
    return cell_of("smollm2-cpu", packages=packages, chip_display=f"CPU {uuid.uuid4().hex}")


@pytest.mark.needs("registry")
def test_the_cpu_image_is_built_pushed_removed_and_pulled_by_digest(
    client: docker.DockerClient, cpu_host: Settings, cpu_cell: ResolvedCell
) -> None:
    said: list[str] = []
    built = build_image(client, cpu_cell, cpu_host, said.append, ["smollm2-cpu", "other-cpu"])
    labels = image_of(client, built).labels
    assert labels["io.flagos.flagrelease.key"] == built.key
    assert labels["io.flagos.flagrelease.chip"] == "cpu"
    assert labels["org.opencontainers.image.created"] == built.created
    assert labels["org.opencontainers.image.version"] in built.tag
    assert labels["org.opencontainers.image.source"].startswith("https://")
    assert labels["org.opencontainers.image.revision"]
    assert labels["org.opencontainers.image.base.name"] == python_base()
    assert json.loads(labels["io.flagos.flagrelease.packages"]) == {"xllamacpp": "2026.10.11549"}
    assert built.name.startswith(f"{OPEN_TEAM}/flagrelease_cpu_smollm2_135m_instruct:xllamacpp2026.10.11549-20")

    about = image_of(client, built).attrs["Config"]
    assert about["User"] == "10001:10001"
    assert about["Healthcheck"]["Test"][0] == "CMD"

    document = json.loads(bill_of_materials(client, built.id, "flagrelease_cpu"))
    assert (
        bill_of_materials(client, built.id, "flagrelease_cpu").decode()
        == json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    )
    listed = {component["name"]: component["version"] for component in document["components"]}
    assert listed["xllamacpp"] == "2026.10.11549"
    assert listed["libc6"]
    assert not client.containers.list(all=True, filters={"ancestor": built.id})

    pushed = push(client, built.name, cpu_host, said.append)
    client.images.remove(built.id, force=True)
    pulled = pull(client, pushed.reference, cpu_host, ignore)
    assert pulled.id == built.id
    assert pushed.reference in pulled.attrs["RepoDigests"]
    # What was pulled is as good as what was built.
    assert build_image(client, cpu_cell, cpu_host, ignore).reused
    # The server is there, and starts without a name, rights or a writable disk.
    usage = client.containers.run(built.id, network_mode="none", read_only=True, cap_drop=["ALL"], remove=True)
    assert b"--served-name" in usage
    remove(client, built.id)


@pytest.mark.needs("registry")
def test_what_one_host_built_another_pulls(client: docker.DockerClient, base: str, tmp_path: Path) -> None:
    host = host_of(tmp_path, base, OPEN_TEAM)
    cells = [cell_of("qwen3-metax", display=f"Model {uuid.uuid4().hex}") for _ in range(2)]
    first = build_image(client, cells[0], host, ignore)
    share(client, first, shared_name("metax", first.key, OPEN_TEAM), host, ignore)
    # Another host has neither the image nor its layers, and the cell has another name.
    for tag in image_of(client, first).tags:
        client.images.remove(tag, force=True)
    second = build_image(client, cells[1], host, ignore)
    assert (second.id, second.reused, second.repository) == (first.id, True, f"{OPEN_TEAM}/{cells[1].image_name}")
    remove(client, second.id)


def test_a_second_build_builds_nothing_and_a_changed_pin_builds_one(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    base = base_with_python(client, f"{TEAM}/pins:{uuid.uuid4().hex}", on_import="exit 0")
    host = host_of(tmp_path, base, wheels=stand_in_wheels(tmp_path / "wheels", "flag-gems==3.0", "flag-gems==3.1"))
    first, again, changed = (
        build_image(client, cell_of("qwen3-metax", packages=[f"flag-gems=={version}"]), host, ignore)
        for version in ("3.0", "3.0", "3.1")
    )
    assert (first.reused, again.reused, changed.reused) == (False, True, False)
    assert (first.id, first.key, first.tag) == (again.id, again.key, again.tag)
    assert first.key != changed.key
    for built, version in ((first, "3.0"), (changed, "3.1")):
        packages = image_of(client, built).labels["io.flagos.flagrelease.packages"]
        assert json.loads(packages) == {"flag-gems": version}
        assert built.tag.startswith(f"flag-gems{version}-")
    remove(client, base)


def test_twelve_cells_with_three_distinct_inputs_build_three(
    client: docker.DockerClient, base: str, tmp_path: Path
) -> None:
    host = host_of(tmp_path, base)
    cells = [
        cell_of(name, display=f"Model {number}")
        for number in range(4)
        for name in ("minicpmv4-metax", "step3-nvidia", "qwen3-metax")
    ]
    built = [build_image(client, cell, host, ignore) for cell in cells]
    assert [image.reused for image in built] == [False] * 3 + [True] * 9
    assert len({image.id for image in built}) == 3
    # Each cell's name leads to its image.
    assert len({image.repository for image in built}) == 8
    for image in built:
        assert client.images.get(image.name).id == image.id


def test_two_builders_at_once_build_one(client: docker.DockerClient, base: str, tmp_path: Path) -> None:
    cell, host = cell_of("qwen3-metax", chip_display="built by two"), host_of(tmp_path, base)
    with ThreadPoolExecutor(2) as two:
        built = list(two.map(lambda _: build_image(client, cell, host, ignore), range(2)))
    assert sorted(image.reused for image in built) == [False, True]
    assert built[0].id == built[1].id


def test_a_changed_and_committed_container_is_not_taken_for_the_image(
    client: docker.DockerClient, base: str, tmp_path: Path
) -> None:
    cell, host = cell_of("qwen3-metax", chip_display="committed"), host_of(tmp_path, base)
    built = build_image(client, cell, host, ignore)
    container = client.containers.create(built.id, ["sh", "-c", "echo changed by hand"])
    try:
        committed = container.commit()
    finally:
        container.remove(force=True)
    for tag in image_of(client, built).tags:
        client.images.remove(tag)
    assert committed.labels["io.flagos.flagrelease.key"] == built.key
    again = build_image(client, cell, host, ignore)
    assert not again.reused
    assert again.id != committed.id


def test_hostile_values_arrive_as_they_are(client: docker.DockerClient, base: str, tmp_path: Path) -> None:
    display = " ".join(HOSTILE)
    cell = cell_of("qwen3-metax", display="$(id); rm -rf / \"'", chip_display=display)
    built = build_image(client, cell, host_of(tmp_path, base), ignore)
    assert image_of(client, built).labels["org.opencontainers.image.title"] == f"FlagRelease image for {display}"
    assert built.repository == "flagrelease_metax_id_rm_rf"


def test_the_builder_reads_a_quoted_value_as_it_is(client: docker.DockerClient, base: str, tmp_path: Path) -> None:
    values = {f"v{number}": value for number, value in enumerate([*HOSTILE, *map("".join, pairwise(HOSTILE))])}
    words = [f"{quoted(name)}={quoted(value)}" for name, value in values.items()]
    environment = [f"{name}={quoted(value)}" for name, value in values.items()]
    text = f"ARG BASE\nFROM ${{BASE}}\nLABEL {' '.join(words)}\nENV {' '.join(environment)}\n"
    (tmp_path / "Dockerfile").write_text(text)
    image, _ = client.images.build(path=str(tmp_path), buildargs={"BASE": base}, rm=True)
    try:
        assert {name: image.labels[name] for name in values} == values
        assert {f"{name}={value}" for name, value in values.items()} <= set(image.attrs["Config"]["Env"])
    finally:
        remove(client, str(image.id))


def test_a_failing_step_is_named_with_its_last_lines_and_has_no_network(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    fails = "echo first; echo network interfaces: $(ls /sys/class/net) >&2; exit 1"
    name = base_with_python(client, f"{TEAM}/failing:{uuid.uuid4().hex}", on_import=fails)
    host = host_of(tmp_path, name, wheels=stand_in_wheels(tmp_path / "wheels", "xllamacpp==1.0"))
    with pytest.raises(ImageError) as failed:
        build_image(client, cell_of("smollm2-cpu", packages=["xllamacpp==1.0"]), host, ignore)
    assert 'RUN ["python3", "-c", "import xllamacpp"]' in failed.value.message
    said = failed.value.message.partition("last lines:\n")[2].splitlines()
    # Nobody promises an order between what is written to two streams.
    assert sorted(line.strip() for line in said) == ["first", "network interfaces: lo"]
    remove(client, name)


def test_a_package_that_no_index_has_is_named(client: docker.DockerClient, tmp_path: Path) -> None:
    host = host_of(tmp_path, python_base())
    with pytest.raises(ImageError, match=r"flag-gems==0\.0\.1") as missing:
        build_image(client, cell_of("qwen3-metax", packages=["flag-gems==0.0.1"]), host, ignore)
    assert "FLAGRELEASE_WHEELS" in missing.value.remedy


def test_a_base_that_cannot_be_had_is_named(client: docker.DockerClient, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"base image 127.0.0.1:5999/x/base:1 is not here and cannot be pulled"):
        build_image(client, cell_of("qwen3-metax"), host_of(tmp_path, "127.0.0.1:5999/x/base:1"), ignore)


@pytest.mark.needs("registry")
class TestRegistry:
    @pytest.fixture
    def cell(self) -> ResolvedCell:
        return cell_of("qwen3-metax", chip_display="pushed")

    def built(self, client: docker.DockerClient, cell: ResolvedCell, host: Settings) -> BuiltImage:
        return build_image(client, cell, host, ignore)

    def test_a_base_is_known_by_its_digest(self, client: docker.DockerClient, base: str, tmp_path: Path) -> None:
        repository = f"{OPEN_TEAM}/base"
        client.api.tag(base, repository, "1", force=True)
        pushed = push(client, f"{repository}:1", host_of(tmp_path, base), ignore)
        by_tag = build_image(client, cell_of("qwen3-metax"), host_of(tmp_path, f"{repository}:1"), ignore)
        by_digest = build_image(client, cell_of("qwen3-metax"), host_of(tmp_path, pushed.reference), ignore)
        local = build_image(client, cell_of("qwen3-metax"), host_of(tmp_path, base), ignore)
        assert by_tag.base == by_digest.base == pushed.reference
        # The same content under any name is the same input.
        assert by_tag.key == by_digest.key == local.key

    def test_the_login_comes_from_the_environment_and_goes_nowhere_else(
        self, client: docker.DockerClient, base: str, cell: ResolvedCell, tmp_path: Path
    ) -> None:
        host = host_of(tmp_path, base, CLOSED_TEAM, **LOGIN)
        said: list[str] = []
        built = build_image(client, cell, host, said.append)
        pushed = push(client, built.name, host, said.append)
        assert pull(client, pushed.reference, host, ignore).id == built.id
        everything = json.dumps([image_of(client, built).attrs, image_of(client, built).history(), said, repr(host)])
        assert LOGIN["registry_password"] not in everything + built.dockerfile

    def test_the_login_of_docker_itself_is_used(
        self, base: str, cell: ResolvedCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secret = base64.b64encode(b"ci:ci-password").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {CLOSED_REGISTRY: {"auth": secret}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        host = host_of(tmp_path, base, CLOSED_TEAM)
        with closing(connect()) as client:
            assert push(client, self.built(client, cell, host).name, host, ignore).digest.startswith("sha256:")

    def test_wrong_and_missing_credentials(
        self, base: str, cell: ResolvedCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        wrong = {"registry_user": "ci", "registry_password": "not the password"}
        with closing(connect()) as client:
            for login in ({}, wrong):
                host = host_of(tmp_path, base, CLOSED_TEAM, **login)
                with pytest.raises(RegistryError, match=f"the registry {CLOSED_REGISTRY} refused the login") as refused:
                    push(client, self.built(client, cell, host).name, host, ignore)
                assert "not the password" not in str(refused.value)
                assert refused.value.exit_code == 29

    def test_a_registry_that_is_down(
        self, client: docker.DockerClient, base: str, cell: ResolvedCell, tmp_path: Path
    ) -> None:
        host = host_of(tmp_path, base, f"127.0.0.1:5999/{TEAM}")
        with pytest.raises(RegistryError, match=r"the registry 127.0.0.1:5999 does not answer"):
            push(client, self.built(client, cell, host).name, host, ignore)

    def test_a_registry_that_holds_something_else(
        self,
        client: docker.DockerClient,
        base: str,
        cell: ResolvedCell,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        host = host_of(tmp_path, base, OPEN_TEAM)
        built = self.built(client, cell, host)
        other = build_image(client, cell_of("qwen3-metax", chip_display="another"), host, ignore)
        send = client.api.push

        def push_twice(repository: str, **options: Any) -> Any:
            """Somebody else pushes the same tag before it is read back."""
            pushed = list(send(repository, **options))
            client.api.tag(other.id, repository, options["tag"], force=True)
            list(send(repository, **options))
            client.api.tag(built.id, repository, options["tag"], force=True)
            return pushed

        monkeypatch.setattr(client.api, "push", push_twice)
        with pytest.raises(RegistryError, match="is not what was pushed: the registry holds sha256:"):
            push(client, built.name, host, ignore)

    def test_an_image_that_is_not_there(self, client: docker.DockerClient, tmp_path: Path, base: str) -> None:
        with pytest.raises(RegistryError, match="there is no such image"):
            pull(client, f"{OPEN_TEAM}/nothing@sha256:{'0' * 64}", host_of(tmp_path, base), ignore)

    def test_the_commands(
        self,
        client: docker.DockerClient,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        from flagrelease.cli import image

        # Without its packages, which no index has: what is left is small.
        matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
        for cell in matrix["cells"]:
            cell.pop("versions", None)
        (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(matrix))
        monkeypatch.setenv("FLAGRELEASE_MATRIX", str(tmp_path / "matrix.yaml"))
        monkeypatch.setenv("FLAGRELEASE_HOME", str(tmp_path))
        monkeypatch.setenv("FLAGRELEASE_REGISTRY", OPEN_TEAM)
        monkeypatch.setenv("FLAGRELEASE_BASE_IMAGES", json.dumps({"metax": python_base()}))
        settings.cache_clear()
        image.push("minicpmv4-metax", as_json=True)
        document = json.loads(capsys.readouterr().out)
        image.build("minicpmv4-metax")
        said = capsys.readouterr().out
        settings.cache_clear()
        assert document["pushed"]["reference"] == f"{document['image']['repository']}@{document['pushed']['digest']}"
        assert document["image"]["name"] in said
        assert "nothing was built" in said
        for path in document["evidence"].values():
            assert path in said
        dockerfile, bill = (Path(path).read_text() for path in document["evidence"].values())
        assert dockerfile.startswith("# Made by FlagRelease.")
        assert json.loads(bill)["bomFormat"] == "CycloneDX"
        labels = client.images.get(document["image"]["name"]).labels
        assert labels["io.flagos.flagrelease.cells"] == "minicpmv4-metax robobrain2-7b-metax"
        remove(client, document["image"]["name"])

    def test_pushing_without_a_registry_says_how_to_name_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from flagrelease.cli import image

        monkeypatch.delenv("FLAGRELEASE_REGISTRY", raising=False)
        settings.cache_clear()
        with pytest.raises(RegistryError, match="no registry is configured"):
            image.push("smollm2-cpu")
        settings.cache_clear()
