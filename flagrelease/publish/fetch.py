"""Bringing a publication from a hub into a folder, to be checked there: of its repository only what it is made of."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from flagrelease.errors import OutputError, PublishError
from flagrelease.publish.guards import TARGET
from flagrelease.publish.hub_calls import Caller, HubUnavailableError
from flagrelease.publish.hub_client import HubClient, RemoteState
from flagrelease.publish.hub_reading import Reader

REPOSITORY = re.compile(rf"({TARGET.pattern})(?:@([\w.-]+))?", re.ASCII)
"""`organisation/name`, or `organisation/name@revision`."""
LARGEST = 2 << 30
"""Bytes that are fetched at most: evidence is texts, whatever a repository says."""


class Fetched(NamedTuple):
    """What came from a hub."""

    place: str
    """Repository, hub and state, for people."""
    beside: list[str]
    """Files of the repository that were not fetched."""


def fetch(
    client: HubClient,
    repository: str,
    folder: Path,
    *,
    wanted: Callable[[Callable[[str], bytes | None]], Iterable[str]],
    log: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> Fetched:
    """Fetch a publication into an empty folder.

    `repository`: as REPOSITORY; `wanted`: names of the files that make up the publication, from the content of some of
    them by name.

    PublishError: there is no such repository or revision for whoever asks, or the hub refuses; HubUnavailableError.
    """
    found = REPOSITORY.fullmatch(repository)
    if found is None:
        raise PublishError(f"{repository!r} names no repository", remedy="name it as organisation/name[@revision]")
    target, revision = found.groups()
    there = Reader(client, Caller(client.name, log, pause), target)
    state = _state(there, client, revision)

    @cache
    def content(name: str) -> bytes | None:
        with _explained(client):
            return there.content(state, name) if name in state.files else None

    fetched = sorted(set(wanted(content)) & state.files.keys())
    if (size := sum(state.files[name].size or 0 for name in fetched)) > LARGEST:
        raise PublishError(
            f"the publication in {target} ({client.name}) is said to have {size / 1e9:.1f} GB",
            remedy="look at it there; if that is right, download it, then: flagrelease verify FOLDER",
        )
    for name in fetched:
        _write(folder, name, content(name) or b"")
    return Fetched(
        place=f"{target} ({client.name}, {state.at[:12]})",
        beside=sorted(state.files.keys() - set(fetched)),
    )


def _state(there: Reader, client: HubClient, revision: str | None) -> RemoteState:
    """What the repository holds."""
    with _explained(client):
        state = there.state(revision)
        is_there = state is not None or (revision is not None and there.state() is not None)
    if state is not None:
        return state
    if is_there:
        raise PublishError(
            f"{there.target} ({client.name}) has no revision {revision}",
            remedy="name a tag, such as v1, or leave it out: then the newest is checked",
        )
    raise PublishError(
        f"there is no repository {there.target} at {client.endpoint}, or it is private",
        remedy="correct the name, or say where it is: --hub huggingface|modelscope; of a private one with a token that "
        f"may read it: FLAGRELEASE_{client.name.upper()}_TOKEN",
    )


@contextmanager
def _explained(client: HubClient) -> Iterator[None]:
    """The client's errors with the next step of somebody who reads."""
    try:
        yield
    except HubUnavailableError as error:
        remedy = f"see whether {client.endpoint} can be reached from here, then try again"
        raise HubUnavailableError(error.message, remedy=remedy) from error
    except PublishError as error:
        variable = f"FLAGRELEASE_{client.name.upper()}_TOKEN"
        remedy = f"see what it says; if it is about a token, give one that may read it ({variable}), or none at all"
        raise PublishError(error.message, remedy=remedy) from error


def _write(folder: Path, name: str, content: bytes) -> None:
    """Write a file whose name a hub made up."""
    if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
        raise PublishError(
            f"the repository has a file {name!r}, which would be written outside of its folder",
            remedy="do not use this repository",
        )
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise OutputError(
            f"cannot write {name} into {folder}: {error.strerror}", remedy="free space (TMPDIR), then try again"
        ) from error
