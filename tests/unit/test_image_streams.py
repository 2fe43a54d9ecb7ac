"""What the engine says while it builds, pushes and pulls, and what was found in an image, without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from flagrelease.errors import EngineError, FlagReleaseError, ImageError, RegistryError
from flagrelease.settings import Settings
from runtime.docker_engine import connect
from runtime.image.base import repository_of
from runtime.image.build import follow
from runtime.image.registry import credentials_for, follow_transfer
from runtime.image.sbom import cyclonedx
from runtime.image.wheels import python_options

NAME = "registry.example.org/team/image:1"
UNSPOKEN = "hunter2 is secret"
# As engine 20.10 sends it.
FAILED_BUILD: list[dict[str, Any]] = [
    {"stream": "Step 1/2 : FROM base"},
    {"stream": "\n"},
    {"stream": " ---> 6fda3470d4ee\n"},
    {"stream": 'Step 2/2 : RUN ["python3", "-c", "import xllamacpp"]'},
    {"stream": " ---> Running in 8c7b783478f9\n"},
    {"stream": "\x1b[91mTraceback (most recent call last):\n\x1b[0m"},
    {"stream": "\x1b[91mImportError: libgomp.so.1: cannot open\n\x1b[0m"},
    {"errorDetail": {"code": 1, "message": "The command returned a non-zero code: 1"}, "error": "The command …"},
]


def ignore(_: str) -> None:
    """A log that nobody reads."""


def test_a_failed_build_names_the_step_and_its_last_lines() -> None:
    with pytest.raises(ImageError) as failed:
        follow(FAILED_BUILD, ignore)
    assert "Step 2/2 : RUN" in failed.value.message
    assert failed.value.message.endswith(
        "its last lines:\n    Traceback (most recent call last):\n    ImportError: libgomp.so.1: cannot open"
    )


def test_a_build_logs_its_steps_without_noise_and_gives_the_id() -> None:
    said: list[str] = []
    stream = [*FAILED_BUILD[:5], {"aux": {"ID": "sha256:1"}}, {"stream": "Successfully built 1\n"}]
    assert follow(stream, said.append) == "sha256:1"
    assert said == [
        "build: Step 1/2 : FROM base",
        'build: Step 2/2 : RUN ["python3", "-c", "import xllamacpp"]',
        "build: Successfully built 1",
    ]


def test_a_build_that_just_ends_is_the_engines_fault() -> None:
    with pytest.raises(EngineError, match=r"went away while building an image, in Step 2/2"):
        follow(FAILED_BUILD[:-1], ignore)


@pytest.mark.parametrize(
    ("reason", "error", "words"),
    [
        ("no basic auth credentials", RegistryError, "refused the login"),
        ("unauthorized: authentication required", RegistryError, "docker login registry.example.org"),
        ("requested access to the resource is denied", RegistryError, "refused the login"),
        ("dial tcp 127.0.0.1:5999: connect: connection refused", RegistryError, "does not answer"),
        ("lookup registry.example.org on 10.0.0.1:53: no such host", RegistryError, "does not answer"),
        ("An image does not exist locally with the tag: x", RegistryError, "does not exist"),
        ("manifest for x not found: manifest unknown", RegistryError, "no such image"),
        ("write /var/lib/docker/tmp/x: no space left on device", EngineError, "disk is full"),
    ],
)
def test_a_failed_push_is_found_in_the_stream(reason: str, error: type[FlagReleaseError], words: str) -> None:
    stream: list[dict[str, Any]] = [{"status": "Preparing"}, {"errorDetail": {"message": reason}, "error": reason}]
    with pytest.raises(error) as refused:
        follow_transfer(stream, "push", NAME, ignore)
    assert words in str(refused.value)


def test_a_transfer_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter(range(0, 100, 3))
    monkeypatch.setattr("runtime.image.registry.time.monotonic", lambda: next(clock))
    stream: list[dict[str, Any]] = [
        {"status": "Pushing", "id": "a", "progressDetail": {"current": 1_000_000, "total": 4_000_000}},
        {"status": "Pushing", "id": "b", "progressDetail": {"current": 1_000_000, "total": 2_000_000}},
        {"status": "Pushed", "id": "b", "progressDetail": {}},
        {"aux": {"Tag": "1", "Digest": "sha256:0", "Size": 9}},
    ]
    said: list[str] = []
    assert follow_transfer(stream, "push", NAME, said.append) == {"Tag": "1", "Digest": "sha256:0", "Size": 9}
    assert said[:2] == ["push: 1 of 4 MB in 1 layers", "push: 2 of 6 MB in 2 layers"]


def with_login(**values: Any) -> Settings:
    return Settings(registry="registry.example.org/team", **values)


def test_a_login_is_for_its_own_registry_only() -> None:
    host = with_login(registry_user="me", registry_password=SecretStr(UNSPOKEN))
    assert credentials_for(NAME, host) == {"username": "me", "password": UNSPOKEN}
    for other in ("other.example.org/team/base:1", "python:3.11", "registry.example.org.evil.example/x"):
        assert credentials_for(other, host) is None
    assert credentials_for(NAME, with_login()) is None
    assert UNSPOKEN not in repr(host)


def test_half_a_login_is_an_error() -> None:
    with pytest.raises(RegistryError, match="FLAGRELEASE_REGISTRY_PASSWORD is missing"):
        credentials_for(NAME, with_login(registry_user="me"))
    with pytest.raises(RegistryError, match="FLAGRELEASE_REGISTRY_USER is missing") as half:
        credentials_for(NAME, with_login(registry_password=SecretStr(UNSPOKEN)))
    assert UNSPOKEN not in str(half.value)


def test_names_without_tag_and_digest() -> None:
    for reference in ("localhost:5000/a/b", "localhost:5000/a/b:1", "localhost:5000/a/b:1@sha256:0"):
        assert repository_of(reference) == "localhost:5000/a/b"
    assert repository_of("python:3.11") == "python"


def test_wheels_are_chosen_for_the_python_of_the_base() -> None:
    options = python_options('["cpython", 3, 10, "aarch64", "glibc", "2.17"]')
    assert "--python-version=3.10" in options
    assert "--abi=cp310" in options
    assert {"--platform=manylinux_2_17_aarch64", "--platform=manylinux2014_aarch64"} <= set(options)
    assert not any("2_18" in option for option in options)
    with pytest.raises(ImageError, match="glibc"):
        python_options('["cpython", 3, 12, "x86_64", "", ""]')


def test_the_bill_of_materials_is_the_same_for_the_same_image() -> None:
    found: dict[str, Any] = {
        "system": {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian GNU/Linux 12"},
        "python": "3.11.2",
        "packages": [
            {"name": "xllamacpp", "version": "2026.1", "licence": None},
            {"name": "Flag_Gems", "version": "5.0.2+maca", "licence": "Apache-2.0"},
        ],
        "system_packages": [{"name": "libc6", "version": "2:2.36-9+deb12u13", "architecture": "amd64"}],
    }
    document = cyclonedx(found, "sha256:1", "flagrelease_cpu_x")
    turned = found | {"packages": found["packages"][::-1]}
    assert cyclonedx(turned, "sha256:1", "flagrelease_cpu_x") == document
    about = json.loads(document)
    assert (about["bomFormat"], about["specVersion"]) == ("CycloneDX", "1.5")
    assert [component.get("purl") for component in about["components"]] == [
        None,
        "pkg:deb/debian/libc6@2:2.36-9%2Bdeb12u13?arch=amd64&distro=debian-12",
        "pkg:pypi/flag-gems@5.0.2%2Bmaca",
        "pkg:pypi/xllamacpp@2026.1",
    ]
    assert about["components"][2]["licenses"] == [{"expression": "Apache-2.0"}]


def test_no_engine_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(
        EngineError, match=r"no container engine answers at unix://.*none.sock: No such file"
    ) as missing:
        connect()
    assert "infra/engine/start.sh" in missing.value.remedy
    assert missing.value.exit_code == 27
