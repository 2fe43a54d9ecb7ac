"""Shell commands as they stand in the fenced blocks of a card, taken apart without running anything."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_LONGEST = 100_000
_LONGEST_WORD = 10_000
_CONTINUED = re.compile(r"\\[ \t]*$")
_SEPARATORS = frozenset({"&&", "||", ";", "|", "&"})
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")
_WRAPPERS = frozenset({"sudo", "nohup", "env", "time", "exec"})
_ENGINES = frozenset({"docker", "podman", "nerdctl"})

# Options of `docker run` that take no value; every other one takes the next word, unless it holds its own `=`.
_FLAGS = frozenset(
    {
        *("--detach", "--interactive", "--tty", "--rm", "--init", "--privileged", "--read-only", "--publish-all"),
        *("--no-healthcheck", "--oom-kill-disable", "--sig-proxy", "--disable-content-trust", "--quiet"),
        *("--use-api-socket", "--help"),
    }
)
_SHORT_FLAGS = frozenset("ditPq")


class Command(NamedTuple):
    """One command: the line it begins on (0-based in its block), its text in one line, and its words."""

    line: int
    text: str
    words: list[str]

    @property
    def environment(self) -> dict[str, str]:
        """Variables that are set in front of the command, or by `export`."""
        found = {}
        for word in self.words:
            if _ASSIGNMENT.match(word):
                name, _, value = word.partition("=")
                found[name] = value
            elif word != "export":
                break
        return found

    @property
    def program(self) -> list[str]:
        """The words from the program's name on: without variables, `sudo` and the like in front."""
        for index, word in enumerate(self.words):
            if word not in _WRAPPERS and not _ASSIGNMENT.match(word):
                return self.words[index:]
        return []


class DockerRun(NamedTuple):
    """A `docker run` (or `create`) taken apart."""

    options: list[str]
    image: str | None
    command: list[str]

    def values(self, *names: str) -> list[str]:
        """Values of an option under any of its names, for example `-v` and `--volume`."""
        found = []
        for index, word in enumerate(self.options):
            name, equals, value = word.partition("=")
            if name in names and equals:
                found.append(value)
            elif word in names and index + 1 < len(self.options):
                found.append(self.options[index + 1])
            else:
                short = next(
                    (name for name in names if re.fullmatch("-[a-zA-Z]", name) and word.startswith(name)), None
                )
                if short and not word.startswith("--") and len(word) > len(short):
                    found.append(word[len(short) :])
        return found


def commands(lines: Sequence[str]) -> list[Command]:
    """The commands of a block of shell lines; comments are left out.

    A command goes on over a line that ends in a backslash, and over a line within quotes. Text that no shell would
    accept is split at its spaces. A variable that the block sets is replaced by its value, and what `bash -c` runs is
    a command too.
    """
    variables: dict[str, str] = {}
    found: list[Command] = []
    for command in _commands(lines):
        words = [_expand(word, variables) for word in command.words]
        if all(map(_ASSIGNMENT.match, words)):
            variables |= dict(word.split("=", 1) for word in words)
        found.append(command._replace(words=words))
        found += (inner for script in _scripts(words) for inner in _split(command.line, script))
    return found


def _expand(word: str, variables: Mapping[str, str]) -> str:
    expanded = _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], match[0]), word)
    return expanded if len(expanded) <= _LONGEST_WORD else word


def _scripts(words: Sequence[str]) -> list[str]:
    """Scripts that the command gives to a shell: `bash -lc '…'`."""
    shells = (index for index, word in enumerate(words[:-2]) if word in {"bash", "sh", "/bin/bash", "/bin/sh"})
    return [words[index + 2] for index in shells if re.fullmatch(r"-[a-z]*c", words[index + 1])]


def _commands(lines: Sequence[str]) -> list[Command]:
    found: list[Command] = []
    begin, parts, quote = 0, list[str](), ""
    for number, line in enumerate(lines):
        if not parts and (not line.strip() or line.lstrip().startswith("#")):
            continue
        if not parts:
            begin = number
        code, quote = _without_comment(line, quote)
        if not quote and _CONTINUED.search(code):
            parts.append(_CONTINUED.sub("", code))
            continue
        parts.append(code)
        if quote:
            parts.append("\n")
            continue
        found += _split(begin, "".join(parts))
        parts = []
    if parts and quote:
        # The quote never closes: each line is taken by itself.
        for number in range(begin, len(lines)):
            if lines[number].strip() and not lines[number].lstrip().startswith("#"):
                found += _split(number, _CONTINUED.sub("", _without_comment(lines[number], "")[0]))
    elif parts:
        found += _split(begin, "".join(parts))
    return found


def docker_run(command: Command) -> DockerRun | None:
    """The command as `docker run`; none where it is something else."""
    words = command.program
    if len(words) < 2 or words[0] not in _ENGINES or words[1] not in {"run", "create"}:  # noqa: PLR2004
        return None
    index = 2
    while index < len(words) and words[index].startswith("-") and words[index] != "--":
        index += 2 if _takes_next(words[index]) else 1
    if index < len(words) and words[index] == "--":
        index += 1
    rest = words[index:]
    return DockerRun(words[2:index], rest[0] if rest else None, rest[1:])


def docker_pull(command: Command) -> str | None:
    """The image that the command pulls."""
    words = command.program
    if words[:2] == ["flagscale", "pull"]:
        return option(words, "--image")
    if len(words) < 3 or words[0] not in _ENGINES or words[1] != "pull":  # noqa: PLR2004
        return None
    return next((word for word in words[2:] if not word.startswith("-")), None)


def option(words: Sequence[str], *names: str) -> str | None:
    """Value of the first option that has one of `names`, given as `--name value` or `--name=value`."""
    for index, word in enumerate(words):
        if word in names and index + 1 < len(words):
            return words[index + 1]
        name, equals, value = word.partition("=")
        if equals and name in names:
            return value
    return None


def _takes_next(word: str) -> bool:
    """Whether an option of `docker run` takes the word after it."""
    if word.startswith("--"):
        return "=" not in word and word not in _FLAGS
    for index, letter in enumerate(word[1:], 1):
        if letter not in _SHORT_FLAGS:
            return index == len(word) - 1
    return False


def _without_comment(line: str, quote: str) -> tuple[str, str]:
    """`line` up to its comment, and the quote that is open at its end; `quote` was open at its begin."""
    escaped = False
    before = " "
    for index, char in enumerate(line):
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            if char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char == "#" and before.isspace():
            return line[:index], quote
        before = char
    return line, quote


def _split(line: int, text: str) -> list[Command]:
    try:
        if len(text) > _LONGEST:
            raise ValueError  # noqa: TRY301 - not written by hand; shlex reads one character at a time
        lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.commenters = True, ""
        words = list(lexer)
    except ValueError:
        words = text.split()
    found: list[Command] = []
    current: list[str] = []
    for word in words:
        if word in _SEPARATORS:
            if current:
                found.append(Command(line, " ".join(text.split()), current))
            current = []
        elif word.endswith(";") and len(word) > 1:
            found.append(Command(line, " ".join(text.split()), [*current, word[:-1]]))
            current = []
        else:
            current.append(word)
    if current:
        found.append(Command(line, " ".join(text.split()), current))
    return found
