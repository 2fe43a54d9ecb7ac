"""What a reader of a card sees beside its prose, in order: headings, tables, commands, the client snippet, links."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

_MARKDOWN = MarkdownIt("commonmark").enable("table")


def outline(text: str) -> list[tuple[str, Any]]:
    """The parts of a card in their order: (kind, value). Front matter is left out."""
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    return list(_parts(_MARKDOWN.parse(body)))


def _parts(tokens: list[Token]) -> Iterator[tuple[str, Any]]:
    table: list[list[str]] = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "inline" and before is not None and before.type == "heading_open":
            yield "heading", f"{before.markup} {token.content.strip()}"
        elif token.type == "table_open":
            table = []
        elif token.type == "tr_open":
            table.append([])
        elif token.type == "inline" and before is not None and before.type in {"th_open", "td_open"}:
            table[-1].append(token.content)
        elif token.type == "table_close":
            yield "table", table
        elif token.type == "fence":
            yield ("client", _client(token.content)) if "import openai" in token.content else _shell(token.content)
        elif token.type == "inline":
            yield from (("link", address) for address in re.findall(r"https?://[\w./:-]+", token.content, re.ASCII))


def _shell(code: str) -> tuple[str, list[list[str]]]:
    """The commands of a block as tokens; comments say nothing to a shell."""
    lines = re.sub(r"\\\n", "", code).splitlines()
    return "shell", [tokens for line in lines if (tokens := shlex.split(line, comments=True))]


def _client(code: str) -> dict[str, Any]:
    """The values of a client snippet."""
    values: dict[str, Any] = {}
    for node in ast.parse(code).body:
        if not isinstance(node, ast.Assign):
            continue
        if isinstance(node.value, ast.Call):
            values |= {
                str(word.arg): ast.literal_eval(word.value)
                for word in node.value.keywords
                if not isinstance(word.value, ast.Name)
            }
        else:
            values[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
    return values
