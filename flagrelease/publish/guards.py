"""What must not leave this host, and where nothing may go: checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from flagrelease.errors import PublishError
from flagrelease.publish.interface import MANIFEST
from flagrelease.secrets import own_values

DOTFILES = frozenset({".eval_results", ".gitattributes"})
"""Names with a leading dot that a hub's repository may hold; others are usually there by mistake."""

SHORTEST_SECRET = 8
"""Characters: shorter values of this process' environment are found in any text."""

TARGET = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

_SECRETS = {
    kind: re.compile(pattern)
    # Each begins with letters that stand for themselves: so long texts are searched quickly.
    for kind, pattern in {
        "a Hugging Face token": rb"hf_(?<!\w...)[A-Za-z0-9]{30,}\b",
        "a ModelScope token": rb"ms-(?<!\w...)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
        "a GitHub token": rb"gh[pousr]_(?<!\w....)[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,}",
        "a GitLab token": rb"glpat-[\w-]{20,}",
        "an AWS access key": rb"A(?:KI|SI)A(?<!\w....)[A-Z0-9]{16}\b",
        "an Alibaba Cloud access key": rb"LTAI(?<!\w....)[A-Za-z0-9]{16,26}\b",
        "a Google API key": rb"AIza(?<!\w....)[\w-]{35}\b",
        "an OpenAI or Anthropic key": rb"sk-(?<!\w...)(?:proj-|ant-)?[\w-]{32,}",
        "a Slack token": rb"xox[abeoprs]-[A-Za-z0-9-]{20,}",
        "a PyPI token": rb"pypi-AgEI[\w-]{50,}",
        "a private key": rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
        "a password in a URL": rb"://[^\s/:@\"'<>{}$]+:[^\s/:@\"'<>{}$*]{3,}@[\w.-]+",
        "a bearer token": rb"uthorization[\"']?\s*[:=]\s*[\"']?(?:Bearer|Basic)\s+[\w.~+/=-]{20,}",
    }.items()
}


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where may be published."""

    endpoints: tuple[str, ...]
    """Addresses of hubs, without a path: a mirror would get the token."""
    namespaces: tuple[str, ...]
    """Organisations and users."""

    def check(self, endpoint: str, target: str) -> None:
        """Raise PublishError where `target` at `endpoint` is not among them."""
        check_target(target)
        if not self.trusted(endpoint):
            raise PublishError(
                f"{endpoint} is not a hub to publish to; allowed: {', '.join(self.endpoints) or 'none'}",
                remedy="correct the endpoint, or add it to FLAGRELEASE_HUB_ENDPOINTS if it may have your token",
            )
        namespace = target.partition("/")[0]
        if namespace not in self.namespaces:
            raise PublishError(
                f"{target} is outside the namespaces to publish in; allowed: {', '.join(self.namespaces) or 'none'}",
                remedy="correct the name, or add the namespace to FLAGRELEASE_HUB_NAMESPACES",
            )

    def trusted(self, endpoint: str) -> bool:
        """Whether a hub at this address may get a token."""
        return _origin(endpoint) in {_origin(allowed) for allowed in self.endpoints}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port; a wrong URL equals no allowed one."""
    parts = urlsplit(url)
    ports = {"https": 443, "http": 80}
    return parts.scheme, parts.hostname, parts.port or ports.get(parts.scheme)


def check_target(target: str) -> None:
    """PublishError for what is no organisation/name."""
    if not TARGET.fullmatch(target):
        msg = f"{target!r} is not a place to publish to"
        raise PublishError(msg, remedy="name it as organisation/name, of letters, digits, '.', '_' and '-'")


def check_files(files: Mapping[str, bytes]) -> None:
    """PublishError for a path that leaves the folder, hides in it, or cannot exist beside the others."""
    if not files:
        raise PublishError("there are no files to publish", remedy="render the card first")
    for path in files:
        parts = path.split("/")
        if "" in parts or "\\" in path or not path.isprintable():
            reason = "it is not a relative path with '/' between its parts"
        elif any(part.startswith(".") and part not in DOTFILES for part in parts):
            reason = "a part of it starts with a dot"
        elif path == MANIFEST:
            reason = "the publication's own manifest has this name"
        elif any("/".join(parts[:end]) in {*files, MANIFEST} for end in range(1, len(parts))):
            reason = "another file has the name of its folder"
        else:
            continue
        raise PublishError(f"{path!r} cannot be published: {reason}", remedy="rename the file")


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path in it, as `publish` takes them; PublishError for links."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise PublishError(
                f"{name} is a symbolic link: what it points to may lie outside of {folder}",
                remedy="put the file itself there, or leave it out",
            )
        if path.is_file():
            found[name] = path.read_bytes()
    check_files(found)
    return found


def own_secrets(more: Iterable[str] = ()) -> dict[bytes, str]:
    """Values of this process that must not leave it, each with where it comes from: tokens, keys and passwords of the
    environment, by the names of their variables, and `more`.
    """
    values = {value: f"the value of {name}" for name, value in own_values().items()}
    values |= dict.fromkeys(more, "the hub's token")
    return {value.encode(): name for value, name in values.items() if len(value) >= SHORTEST_SECRET}


def check_secrets(files: Mapping[str, bytes], own: Mapping[bytes, str]) -> None:
    """PublishError where a file holds what looks like a token or key, or one of this process' `own`; never with it."""
    for path, content in files.items():
        found = [(content.find(value), name) for value, name in own.items() if value in content]
        found += [(match.start(), kind) for kind, pattern in _SECRETS.items() if (match := pattern.search(content))]
        if found:
            place, kind = min(found)
            line = content.count(b"\n", 0, place) + 1
            raise PublishError(
                f"{path}, line {line}, holds {kind}: it would be public",
                remedy="withdraw that token or key, find out how it got there, and take it out of the evidence",
            )
