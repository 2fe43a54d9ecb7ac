"""`flagrelease doctor` on a host with a real engine."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from flagrelease.loading import load_chips
from flagrelease.settings import Settings
from runtime.docker_engine import connect
from runtime.doctor_containers import examine_containers

pytestmark = pytest.mark.needs("docker")
CHIPS = load_chips()


def test_the_engine_and_its_disk_are_found(tmp_path: Path) -> None:
    findings = {each.name: each for each in examine_containers(CHIPS["cpu"], Settings(home=tmp_path))}
    with closing(connect()) as client:
        about = client.api.info()
    assert findings["container engine"].ok
    assert about["ServerVersion"] in findings["container engine"].found
    assert about["DockerRootDir"] in findings["disk for images"].found
    assert "GPU runtime" not in findings


def test_a_chip_that_wants_gpus_needs_a_runtime_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = {each.name: each for each in examine_containers(CHIPS["nvidia"], Settings(home=tmp_path))}["GPU runtime"]
    with closing(connect()) as client:
        assert found.ok is ("nvidia" in client.api.info()["Runtimes"])


@pytest.mark.parametrize(
    ("base", "ok", "said"),
    [
        ("flagrelease-no-such-image:1", False, "is not on this host"),
        ("registry.example/team/base:1", True, "to be pulled"),
    ],
)
def test_a_base_image_that_no_registry_has_must_be_here(tmp_path: Path, base: str, ok: bool, said: str) -> None:
    host = Settings(home=tmp_path, base_images={"metax": base})
    found = next(each for each in examine_containers(CHIPS["metax"], host) if each.name == "base image")
    assert (found.ok, said in found.found) == (ok, True)


def test_a_chip_without_a_base_image_says_how_to_name_one(tmp_path: Path) -> None:
    found = next(
        each for each in examine_containers(CHIPS["zhenwu"], Settings(home=tmp_path)) if each.name == "base image"
    )
    assert not found.ok
    assert 'FLAGRELEASE_BASE_IMAGES=\'{"zhenwu": ' in found.remedy
