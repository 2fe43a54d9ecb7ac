"""The client snippet of a card, read from its code without running it."""

from __future__ import annotations

import ast
import math
import tokenize
import warnings
from collections.abc import Sequence

from flagrelease.card.data import Client
from flagrelease.card.render import snippet

_LONGEST = 20_000
_LARGEST = 10**15


def plain_client(lines: Sequence[str]) -> Client | None:
    """The values of the snippet where it does what the rendered one does, and no more.

    Any other code stays code on the card, so that nothing of it is lost.
    """
    module = _module(lines)
    client = _client(module) if module else None
    if module is None or client is None or _commented(lines):
        return None
    return client if ast.dump(module) == ast.dump(ast.parse("\n".join(snippet(client)))) else None


def _commented(lines: Sequence[str]) -> bool:
    """Whether code that parses holds a comment, also behind a statement."""
    source = iter([f"{line}\n" for line in lines])
    return any(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(lambda: next(source, "")))


def any_client(lines: Sequence[str]) -> Client | None:
    """The values of any code that asks through the `openai` package, as far as they stand in it as literals."""
    module = _module(lines)
    return _client(module) if module else None


def _module(lines: Sequence[str]) -> ast.Module | None:
    if not any("openai" in line for line in lines) or sum(map(len, lines)) > _LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _client(module: ast.Module) -> Client | None:
    """The first request of the code; none where its base URL or model are not literals."""
    values: dict[str, object] = {}
    request: ast.Call | None = None
    for node in ast.walk(module):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                values.setdefault(name, _literal(value))
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="openai"), attr="base_url")], value=value):
                values.setdefault("openai.base_url", _literal(value))
            case ast.Call(func=ast.Attribute(attr="create", value=ast.Attribute(attr="completions"))):
                request = request or node
            case ast.Call(func=ast.Name(id="OpenAI") | ast.Attribute(attr="OpenAI"), keywords=keywords):
                given = {keyword.arg: keyword.value for keyword in keywords}
                values.setdefault("openai.base_url", _value(given.get("base_url"), values))
    if request is None:
        return None
    parts = {keyword.arg: _value(keyword.value, values) for keyword in request.keywords if keyword.arg}
    base_url, model = values.get("openai.base_url"), parts.pop("model", None)
    messages = parts.pop("messages", None)
    if not isinstance(base_url, str) or not isinstance(model, str):
        return None
    return Client(
        base_url=base_url,
        model=model,
        messages=messages if _spoken(messages) else [],
        parameters={name: value for name, value in parts.items() if _plain(value)},
    )


def _value(node: ast.expr | None, values: dict[str, object]) -> object:
    """A literal, or what was assigned to the name that stands for it."""
    if isinstance(node, ast.Name):
        return values.get(node.id)
    return None if node is None else _literal(node)


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _spoken(value: object) -> bool:
    """Whether these are messages of nothing but a role and a text each."""
    return isinstance(value, list) and all(
        isinstance(each, dict) and set(each) == {"role", "content"} and all(isinstance(t, str) for t in each.values())
        for each in value
    )


def _plain(value: object) -> bool:
    """Whether the value is one that a card's parameters can hold."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | str) or (isinstance(value, int) and abs(value) < _LARGEST)
