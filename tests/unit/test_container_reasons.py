"""The engine's words and the way a container ended, as errors that say what to do; and what can be seen before."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagrelease.errors import (
    EngineError,
    FlagReleaseError,
    PortError,
    PreflightError,
    ServerError,
    ServerSettingsError,
    WeightsError,
)
from runtime.launch.container_preflight import host_path
from runtime.launch.container_reasons import Exit, reason, start_failure
from runtime.launch.container_spec import ContainerSpec
from runtime.launch.docker_run import parse

CONTAINER = parse(["--memory=96m", "-v", "/nfs/models:/models"], image="registry/x:1", command=["vllm", "serve"])

# As engines 20.10, 26 and 28 write them.
WORDS = [
    ("No such image: registry/x:1", PreflightError, "the image registry/x:1 is not on this host"),
    (
        'error gathering device information while adding custom device "/dev/kfd": no such file or directory',
        PreflightError,
        "no device /dev/kfd on this host",
    ),
    ('could not select device driver "" with capabilities: [[gpu]]', PreflightError, "has no GPU runtime"),
    ('could not select device driver "nvidia" with capabilities: [[gpu]]', PreflightError, "has no GPU runtime"),
    ("Unknown runtime specified nvidia", PreflightError, "has no runtime nvidia"),
    ("unknown or invalid runtime name: nvidia", PreflightError, "has no runtime nvidia"),
    ("Unable to find group video: no matching entries in group file", PreflightError, "has no group video"),
    ("unable to find user nobodies: no matching entries in passwd file", PreflightError, "has no user nobodies"),
    (
        'OCI runtime create failed: runc create failed: unable to start container process: exec: "vllm": executable '
        "file not found in $PATH: unknown",
        PreflightError,
        "registry/x:1 has no such command: vllm",
    ),
    (
        'failed to create task for container: exec: "/opt/run.sh": stat /opt/run.sh: no such file or directory',
        PreflightError,
        "has no such command: /opt/run.sh",
    ),
    (
        "driver failed programming external connectivity on endpoint x: Error starting userland proxy: listen tcp4 "
        "127.0.0.1:8000: bind: address already in use",
        PortError,
        "a port that the container publishes is in use",
    ),
    ("Bind for 0.0.0.0:8000 failed: port is already allocated", PortError, "is in use by another program"),
    (
        "runc create failed: unable to start container process: unable to apply caps: operation not permitted",
        PreflightError,
        "may not give registry/x:1 the rights",
    ),
    ("Minimum memory limit allowed is 6MB", PreflightError, "memory limit 96m is below the engine's minimum of 6MB"),
    ("write /var/lib/docker/x: no space left on device", EngineError, "disk is full"),
    ("something new", EngineError, "failed while starting a container of registry/x:1: something new"),
]


@pytest.mark.parametrize(("words", "error", "expected"), WORDS)
def test_what_the_engine_says_of_a_start(words: str, error: type[FlagReleaseError], expected: str) -> None:
    found = start_failure(words, CONTAINER)
    assert type(found) is error
    assert expected in found.message
    assert found.remedy


ENDS = [
    (Exit(137, out_of_memory=True), "", ServerError, "ran out of memory (its memory limit of 96m)"),
    (Exit(1, out_of_memory=True), "", ServerError, "ran out of memory"),
    (Exit(137, out_of_memory=False), "", ServerError, "ended by signal SIGKILL (by hand, or out of the host's memory)"),
    (Exit(139, out_of_memory=False), "", ServerError, "ended by signal SIGSEGV"),
    (Exit(200, out_of_memory=False), "", ServerError, "ended by signal number 72"),
    (Exit(127, out_of_memory=False), "sh: flagscale: not found", ServerSettingsError, "a command was not found"),
    (Exit(126, out_of_memory=False), "", ServerSettingsError, "a command may not be executed"),
    (Exit(0, out_of_memory=False), "", ServerSettingsError, "ended without an error"),
    (Exit(2, out_of_memory=False), "vllm: error: unrecognized", ServerSettingsError, "did not take its arguments"),
    (Exit(3, out_of_memory=False), "Traceback", ServerError, "crashed with exit code 3"),
    (Exit(1, out_of_memory=False), "OSError: [Errno 98] address already in use", PortError, "its port taken"),
    (
        Exit(1, out_of_memory=False),
        "OSError: Can't load the model: /models/Qwen3-8B does not exist",
        WeightsError,
        "did not find /models/Qwen3-8B in the container",
    ),
    (
        Exit(1, out_of_memory=False),
        "Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/models/Qwen3-8B'.",
        WeightsError,
        "did not find /models/Qwen3-8B",
    ),
    (Exit(1, out_of_memory=False), "loading /models/Qwen3-8B\nKeyError: 'x'", ServerError, "crashed with exit code 1"),
]


@pytest.mark.parametrize(("end", "log", "error", "expected"), ENDS)
def test_why_a_container_ended(end: Exit, log: str, error: type[FlagReleaseError], expected: str) -> None:
    found = reason(end, CONTAINER, log, paths=["/models/Qwen3-8B"])
    assert found.error is error
    assert expected in found.what
    assert found.remedy


def test_without_a_limit_it_was_the_hosts_memory() -> None:
    found = reason(Exit(137, out_of_memory=True), ContainerSpec(image="x"), "")
    assert "the memory of this host" in found.what


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/models/Qwen3-8B", Path("/nfs/models/Qwen3-8B")),
        ("/models", Path("/nfs/models")),
        ("/models/own/x", Path("/home/own/x")),
        ("/modelsx", None),
        ("/opt/x", None),
    ],
)
def test_where_a_path_of_the_container_lies(path: str, expected: Path | None) -> None:
    spec = parse(["-v", "/nfs/models:/models", "-v", "/home/own/:/models/own/:ro"], image="x")
    assert host_path(spec, path) == expected
