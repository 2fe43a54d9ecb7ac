"""A card as a hub's visitor sees it: one HTML page without scripts, and what changed between two cards.

The text may come from anywhere. HTML in it is shown, not obeyed; links lead only to the web, to mail and to files
beside the page; pictures are those that are handed in; and the page's own policy lets a browser load nothing else.
"""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

from flagrelease.card.data import Block
from flagrelease.card.inline import plain_text
from flagrelease.card.read_blocks import Heading, TableBlock, blocks
from flagrelease.card.read_front_matter import front_matter
from flagrelease.card.sections import block_of
from flagrelease.settings import data_path

SHOWN, WORD = 100, 200
"""Tags, rows and results shown of each kind, and characters of each: enough for a card, an end for a hostile one."""
TAGS = ("pipeline_tag", "library_name", "license", "license_name", "language", "frameworks", "tasks", "tags")
"""Keys that hubs show as tags, in their order."""

_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal, or make text read in another order than it stands in."""


class Result(NamedTuple):
    """A score of the front matter's `model-index`."""

    dataset: str
    value: str
    name: str


def visible(text: str) -> str:
    """Text with one kind of line end, in which no character acts on a terminal or on the order of reading."""
    return _HIDDEN.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff"))


class Parts(NamedTuple):
    """A card's front matter and what stands under it."""

    metadata: dict[str, Any]
    fault: str | None
    """Why the front matter could not be read."""
    block: str
    """The front matter as it stands, without its marks; empty where the card has none."""
    body: str


def parts(card_text: str) -> Parts:
    """Front matter and body of a card, both as `visible` makes them."""
    lines = visible(card_text).split("\n")
    found = front_matter(lines)
    block = "\n".join(lines[found.begin + 1 : found.end - 1])
    return Parts(found.data or {}, found.fault, block, "\n".join(lines[found.end :]))


def page(card_text: str, *, title: str, pictures: Mapping[str, str]) -> str:
    """The card as one HTML page that works offline; `title` is the repository's name.

    `pictures` are SVG documents by the name under which the card shows them. Other pictures are named in their place.
    """
    card = parts(card_text)
    data = card.metadata
    own = data.get("flagrelease")
    return _template().render(
        title=visible(title),
        language=next((tag for tag in _words(data.get("language")) if re.fullmatch("[a-z]{2}", tag)), "en"),
        tags=_tags(data),
        release=plain_rows(own) if isinstance(own, dict) else [],
        metadata=plain_rows({key: value for key, value in data.items() if key not in TAGS}),
        results=_results(data.get("model-index")),
        card=card,
        body=Markup(_markdown().render(card.body, {"pictures": pictures})),  # noqa: S704 - HTML is disabled
    )


def parsed(body: str) -> list[Token]:
    """A card's body as the preview reads it, for other ways to show it."""
    return _markdown().parse(body)


def card_diff(old: str, new: str) -> str:
    """What changed in the results tables, in words, and a unified diff; empty where the texts are equal."""
    if old == new:
        return ""
    changes = _changed_results(_results_table(old), _results_table(new))
    before, after = visible(old).split("\n"), visible(new).split("\n")
    lines = list(difflib.unified_diff(before, after, "published", "now", lineterm=""))
    if not lines:
        lines = ["They differ in line ends or in characters that cannot be seen."]
    return "\n".join([*changes, *([""] if changes else []), *lines]) + "\n"


def _tags(data: Mapping[str, Any]) -> list[str]:
    """What hubs show under a model's name, each once."""
    tags = [f"license: {word}" if key == "license" else word for key in TAGS for word in _words(data.get(key))]
    return list(dict.fromkeys(tags))


def plain_rows(data: Mapping[Any, Any]) -> list[tuple[str, str]]:
    """Keys with their plain values; what is nested is in the block's text only."""
    rows = [(str(key), ", ".join(_words(value))) for key, value in data.items()]
    return [row for row in rows if row[1]][:SHOWN]


def _results(index: object) -> list[Result]:
    return [
        Result(
            " ".join(_words(dataset.get("name"))) if isinstance(dataset, dict) else "",
            " ".join(_words(metric.get("value"))),
            " ".join(_words(metric.get("name", metric.get("type")))),
        )
        for entry in _mappings(index)
        for result in _mappings(entry.get("results"))
        for dataset in [result.get("dataset")]
        for metric in _mappings(result.get("metrics"))
    ][:SHOWN]


def _mappings(value: object) -> list[dict[Any, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _words(value: object) -> list[str]:
    """A plain value, or those of a list, as text."""
    values = value[:SHOWN] if isinstance(value, list) else [value]
    return [_word(each) for each in values if isinstance(each, str | int | float)]


def _word(value: str | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if len(text) <= WORD else text[:WORD] + "…"


class _Markdown(MarkdownIt):
    """Markdown as hubs read it, less raw HTML, and less links to anything but the web, mail and files beside."""

    def __init__(self) -> None:
        super().__init__("commonmark", {"html": False})
        self.enable(["table", "strikethrough"])
        self.add_render_rule("image", _image)
        self.add_render_rule("link_open", _link)
        self.add_render_rule("table_open", _table_open)
        self.add_render_rule("table_close", _table_close)

    def validateLink(self, url: str) -> bool:  # noqa: N802 - markdown-it's name
        """Whether a link may lead there; its text is shown as it stands where it may not."""
        scheme = re.match(r"[^/?#]*?:", url)
        if scheme:
            return scheme[0].lower() in {"http:", "https:", "mailto:"}
        return not url.startswith("//")  # another host


_markdown = cache(_Markdown)


def _image(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: dict[str, Any]
) -> str:
    token = tokens[index]
    alt = escapeHtml(renderer.renderInlineAsText(token.children or [], options, env))
    source = str(token.attrGet("src"))
    picture = env["pictures"].get(source)
    if picture is None:
        return f'<span class="absent">[picture: {alt}, {escapeHtml(source)}]</span>'
    data = base64.b64encode(picture.encode()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{alt}">'


def _link(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
    tokens[index].attrSet("rel", "noreferrer noopener")
    return renderer.renderToken(tokens, index, options, env)


def _table_open(*_: object) -> str:
    return '<div class="table"><table>'


def _table_close(*_: object) -> str:
    return "</table></div>"


def _results_table(card_text: str) -> list[list[str]]:
    """Rows of the first results table, its header first; empty where the card has none."""
    block: Block | None = None
    for piece in blocks(parts(card_text).body.split("\n")).pieces:
        if isinstance(piece, Heading):
            block = block_of(piece.text)
        elif isinstance(piece, TableBlock) and block in {Block.RESULTS, Block.EVALUATION}:
            return [[plain_text(cell) for cell in row] for row in piece.rows]
    return []


def _changed_results(old: list[list[str]], new: list[list[str]]) -> list[str]:
    """Which values of which benchmark changed, by the columns that both tables have; nothing if one has no table."""
    if not old or not new:
        return []
    (old_header, *old_rows), (new_header, *new_rows) = old, new
    before = {row[0]: dict(zip(old_header[1:], row[1:], strict=True)) for row in old_rows}
    after = {row[0]: dict(zip(new_header[1:], row[1:], strict=True)) for row in new_rows}
    lines = []
    for name, values in after.items():
        if name not in before:
            lines.append(f"  {name}: added")
            continue
        changes = [
            f"{column} {before[name][column]} → {value}"
            for column, value in values.items()
            if column in before[name] and before[name][column] != value
        ]
        lines += [f"  {name}: {'; '.join(changes)}"] if changes else []
    lines += [f"  {name}: removed" for name in before if name not in after]
    lines += [f"  column {column}: added" for column in new_header[1:] if column not in old_header]
    lines += [f"  column {column}: removed" for column in old_header[1:] if column not in new_header]
    return ["Results that changed:", *lines] if lines else ["No result changed."]


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(data_path("templates") / "preview"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
