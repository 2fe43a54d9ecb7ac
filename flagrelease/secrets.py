"""Which variables of the environment are secrets, and what of the environment a child process gets.

A program that we start, such as a model server, runs code of many others and writes logs that are published as
evidence. So it gets no secret that it does not need.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
"""For children that ask somebody outside: an address of a proxy may hold a password."""

_NAMES = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|AUTH_STRING|AUTH_CONFIG|CONNECTION_STRING"
    r"|(?:API|ACCESS|PRIVATE|SIGNING|STORAGE|ACCOUNT)_?KEY",
    re.IGNORECASE,
)
_OTHERS = re.compile(r"_(?:FILE|PATH|DIR|URL|HOME|TTL|LENGTH|LIMIT)$|PARALLELISM|MAX_TOKENS|^TIKTOKEN_", re.IGNORECASE)
"""Names that only look like those of secrets."""
_COUNT = re.compile(r"[0-9]{1,7}|true|false", re.IGNORECASE)
"""A value of a setting about tokens of a model."""
_URL_WITH_SECRET = re.compile(r"://(?:[^\s/:@]*:[^\s/@]+|[^\s/:@]{20,})@")
"""A URL with a password, or with a token in the place of the user."""


def is_secret(name: str, value: str) -> bool:
    """Whether a variable of the environment holds a token, a key or a password, by its name and its value's form."""
    if _URL_WITH_SECRET.search(value):
        return True
    if _OTHERS.search(name) or not _NAMES.search(name):
        return False
    return not ("TOKEN" in name.upper() and _COUNT.fullmatch(value))


def own_values() -> dict[str, str]:
    """The secrets of this process' environment: value by name.

    A signing key that is named by its file is none: the path is no secret, and may stand in a log.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if is_secret(name, value) and not (value.startswith(("/", "~", ".")) and "SIGNING" in name.upper())
    }


def child_environment(added: Mapping[str, str] | None = None, *, keep: tuple[str, ...] = ()) -> dict[str, str]:
    """The environment for a child process: this process' own without its secrets, and `added`.

    `keep`: beginnings of names, in upper case, of secrets that the child needs; whoever passes some says what for.
    """
    own = {
        name: value for name, value in os.environ.items() if name.upper().startswith(keep) or not is_secret(name, value)
    }
    return own | dict(added or {})
