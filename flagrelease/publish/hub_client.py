"""What a hub's client must do, and what can become of its calls."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

from pydantic import SecretStr

from flagrelease.errors import PreflightError
from flagrelease.publication_policy import Visibility


class ThrottledError(Exception):
    """The hub did nothing, as it was asked too often."""

    def __init__(self, seconds: float | None) -> None:
        """`seconds`: how long it asks to wait, if it says so."""
        super().__init__("too many requests")
        self.seconds = seconds


class UnansweredError(Exception):
    """Whether the request was carried out is not known: no answer came, or one of a fault of the hub."""


class MovedError(Exception):
    """The request was not carried out, as the target is in another state than the one that it was made for."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file in a repository."""

    size: int | None
    """Bytes, if the hub says."""
    sha256: str | None
    """None: only the bytes tell."""


@dataclass(frozen=True, kw_only=True)
class RemoteState:
    """What a repository holds at one moment."""

    head: str
    """Name of exactly this state: the commit, or a hash over the listing where a hub has no name for it."""
    at: str
    """Branch, tag or commit to read it at."""
    files: Mapping[str, RemoteFile]


@dataclass(frozen=True, kw_only=True)
class Creation:
    """A repository that may be created where none is: nothing about it is left to a hub's default."""

    visibility: Visibility
    licence: str
    """SPDX identifier in lower case, as the card's front matter names it."""


class HubClient(Protocol):
    """One hub. Methods raise ThrottledError, UnansweredError or MovedError; PublishError where the hub refuses."""

    name: str
    endpoint: str
    pull_requests: bool
    """Whether commits become pull requests."""

    def secrets(self) -> tuple[str, ...]:
        """Tokens that it sends."""
        ...

    def state(self, target: str, tag: str | None = None) -> RemoteState | None:
        """What the default branch, or a tag, holds; None: there is no such repository, or tag."""
        ...

    def visibility(self, target: str) -> Visibility | None:
        """Who may see the repository `target`, which is there; None: the hub does not say, or says something else."""
        ...

    def proposed(self, target: str, mark: str) -> tuple[str, RemoteState] | None:
        """Address and content of the open pull request whose title ends with `mark`."""
        ...

    def content(self, target: str, path: str, state: RemoteState) -> bytes:
        """Bytes of a file in a state, as anybody downloads them."""
        ...

    def create(self, target: str, creation: Creation) -> None:
        """Create a repository; one that is there already is no error."""
        ...

    def commit(
        self, target: str, files: Mapping[str, bytes], removed: Sequence[str], title: str, base: RemoteState
    ) -> None:
        """Send one commit on top of `base`; MovedError where the target is in another state by now."""
        ...

    def tag(self, target: str, name: str, state: RemoteState) -> None:
        """Set a tag on a state; one that is there already is no error."""
        ...


def check_library(module: str) -> None:
    """Raise PreflightError where the library of a hub is not installed; nothing is imported."""
    if importlib.util.find_spec(module) is None:
        raise PreflightError(
            f"talking to this hub needs the Python package {module.replace('_', '-')}, which is not installed",
            remedy='pip install "flagrelease[hubs]"',
        )


def sent_tokens(own: SecretStr | None, find: Callable[[], str | None], *, anonymous: bool) -> tuple[str, ...]:
    """What a client sends: none where it is `anonymous`, else its own token, else the one that its library finds."""
    if anonymous:
        return ()
    token = own.get_secret_value() if own else find()
    return (token,) if token else ()


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer 429 asks to wait: `RateLimit: …;r=0;t=<seconds>`, or `Retry-After` as seconds or a date.

    `headers` by lower-case names.
    """
    for part in headers.get("ratelimit", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == "t" and value.isdecimal():
            return float(value)
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def redacted(text: str, secrets: tuple[str, ...]) -> str:
    """What a hub said, in one line, without tokens: it may repeat what it was sent."""
    for secret in secrets:
        text = text.replace(secret, "…")
    return " ".join(text.split())[:500]


def without_secrets(error: Exception, secrets: tuple[str, ...]) -> Exception | None:
    """An exception of a library as the cause of one of ours; None where a traceback of it would show a token."""
    shown = "".join(traceback.format_exception(error))
    return None if any(secret in shown for secret in secrets) else error
