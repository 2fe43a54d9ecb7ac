"""What people see of a card: the page looks like a hub's, nothing on it can act, and a diff says what changed."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from flagrelease.card.compose import measured_card
from flagrelease.card.files import card_files
from flagrelease.card.preview import card_diff, page
from flagrelease.card.terminal import print_card
from flagrelease.cli.card_show import show
from flagrelease.errors import CardFileError, FlagReleaseError, PublishError, UnknownNameError
from flagrelease.publish.folder import FolderPublisher
from flagrelease.settings import settings
from flagrelease.store import Store
from tests.unit import card_data

FILES = {
    name: content.decode()
    for name, content in card_files(measured_card(card_data.card(card_data.container_cell()))).items()
}
CARD = FILES["README.md"]
HOSTILE = """\
---
license: "<script>alert(1)</script>"
tags: ["<img src=x onerror=alert(1)>", "{{ 7*7 }}"]
"<b onclick=alert(1)>": '"><script>alert(1)</script>'
flagrelease: {cell: "<script>alert(1)</script>", verdict: [[[deep]]]}
model-index:
- results: [{dataset: {name: "<script>"}, metrics: [{value: "<script>", name: {a: b}}, 7]}, "x", {metrics: 3}]
- 12
---
# <script>alert(1)</script> {{ 7*7 }}

<script>alert(1)</script>
<img src=x onerror=alert(1)> <iframe src="http://example.org"></iframe> <style>* { display: none }</style>

<div onclick="alert(1)">

[a](javascript:alert(1)) [b](JaVaScRiPt:alert(1)) [c](data:text/html;base64,PHNjcmlwdD4=) [d](vbscript:x)
[e](file:///etc/passwd) [f](//example.org/x) [g](&#106;avascript:alert(1)) [h](java&#9;script:alert(1))
[i]( javascript:alert(1)) <javascript:alert(1)> [j](\\\\\\\\host\\\\share) [k](data:image/png;base64,AAAA)
![x" onerror="alert(1)](http://example.org/x.png "title\\" onload=\\"x") ![y](data:image/svg+xml;base64,AAAA)
![z](../../secret.svg?a&amp;lt;b) [l](http://example.org/"onclick="alert(1))

| a | b |
|---|---|
| <script>alert(1)</script> | `<script>` |

```"><script>alert(1)</script>
</code></pre><script>alert(1)</script>
```
"""


class Page(HTMLParser):
    """The elements of a page: (name, attributes), and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for name, attrs in self.elements if name == tag and attribute in attrs]


def test_the_page_shows_name_tags_results_text_and_picture() -> None:
    text = page(CARD, title="FlagRelease/Qwen3-8B-metax-FlagOS", pictures=FILES)
    seen = Page(text)
    for part in ("FlagRelease/Qwen3-8B-metax-FlagOS", "license: apache-2.0", "text-generation", "Qwen/Qwen3-8B"):
        assert part in seen.text
    assert re.search(r"MMLU_5fewshot_@avg1\s*percent, 500 items × 1, FlagScale on Metax\s*82.2", seen.text)
    assert '<dd class="consistent">CONSISTENT</dd>' in text
    assert "<td>−0.86 to +0.46</td>" in text
    assert "docker pull harbor.baai.ac.cn" in seen.text
    (picture,) = seen.all("img", "src")
    assert base64.b64decode(picture.removeprefix("data:image/svg+xml;base64,")).decode() == FILES["differences.svg"]
    assert seen.all("img", "alt") == ["Differences with their intervals and margins"]


def test_the_page_needs_nothing_but_itself() -> None:
    seen = Page(page(CARD, title="a/b", pictures=FILES))
    assert not {name for name, _ in seen.elements} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    (policy,) = [each for each in seen.all("meta", "content") if "default-src" in each]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert not re.search(r"@import|url\(", page(CARD, title="a/b", pictures=FILES))
    assert "prefers-color-scheme: dark" in page(CARD, title="a/b", pictures=FILES)


def test_hostile_text_does_not_act() -> None:
    title = "</title><script>alert(1)</script>"
    text = page(HOSTILE, title=title, pictures={})
    seen = Page(text)
    assert not {name for name, _ in seen.elements} & {"script", "iframe", "img", "object", "embed", "base", "form"}
    assert len([name for name, _ in seen.elements if name == "style"]) == 1
    assert not [key for _, attrs in seen.elements for key in attrs if key.startswith("on")]
    assert seen.all("a", "href") == ["%5C%5Chost%5Cshare", "http://example.org/%22onclick=%22alert(1)"]
    assert "{{ 7*7 }}" in seen.text
    assert title in seen.text
    assert '[picture: x" onerror="alert(1), http://example.org/x.png]' in seen.text
    assert "[picture: z, ../../secret.svg?a&lt;b]" in seen.text
    assert seen.text.count("<script>alert(1)</script>") >= 7


@pytest.mark.parametrize(
    ("address", "led"),
    [
        ("https://example.org/a?b=c", True),
        ("mailto:a@example.org", True),
        ("evidence/items.jsonl", True),
        ("#license", True),
        ("notes?at=12:30", True),
        ("ftp://example.org", False),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("//example.org", False),
    ],
)
def test_links_lead_to_the_web_to_mail_and_beside(address: str, led: bool) -> None:
    seen = Page(page(f"[there]({address})", title="a/b", pictures={}))
    assert bool(seen.all("a", "href")) is led
    assert "there" in seen.text


def test_front_matter_that_hubs_would_not_read_is_said() -> None:
    assert "no licence, tags or results" in Page(page("# A", title="a/b", pictures={})).text
    for block in ("a: [", "a: &x [1]\nb: *x", "a: " + "[" * 500, "a: " + "b" * 100_000, "- 1"):
        seen = Page(page(f"---\n{block}\n---\n# Title\n", title="a/b", pictures={}))
        assert "not read" in seen.text
        assert block in seen.text, "it is shown as it stands"
        assert "Title" in seen.text
    digits = page(f"---\na: 0x{'F' * 9000}\n---\n", title="a/b", pictures={})
    assert "not read" in digits


def test_characters_that_hide_or_reorder_are_seen() -> None:
    text = page("a\u202eb\x1b[31m\r\n\r\nc", title="a\u202e/b", pictures={})
    assert "<p>a\ufffdb\ufffd[31m</p>\n<p>c</p>" in text
    assert "\u202e" not in text


def test_the_terminal_shows_all_of_a_card() -> None:
    written = io.StringIO()
    text = CARD.replace("# Contributing", "# Contributing\n\n<b>bold</b> \x1b[2J\n\n<script>x</script>")
    print_card(text, Console(file=written, width=100))
    shown = written.getvalue()
    assert max(map(len, shown.splitlines())) <= 100
    assert "\x1b" not in shown
    assert re.search(r"license +apache-2.0", shown)
    assert re.search(r"flagrelease.verdict +CONSISTENT", shown)
    assert "https://github.com/FlagOpen/FlagScale" in shown
    assert "<b>bold</b>" in shown
    assert "<script>x</script>" in shown
    assert "…" not in shown, "nothing is cut"
    assert "[a" not in shown


def test_a_diff_says_which_results_changed() -> None:
    new = CARD.replace("| 82.200 (77.0 – 86.5) | −0.200 ", "| 80.200 (75.0 – 84.5) | −2.200 ", 1)
    new = re.sub(r"\| AIME_0fewshot_@avg1 .*\n", "| GPQA | 1 | 2 | 3 | 4 | 5 | 6 |\n", new, count=1)
    lines = card_diff(CARD, new).splitlines()
    assert lines[:4] == [
        "Results that changed:",
        "  MMLU_5fewshot_@avg1: Qwen3-8B-FlagOS-metax 82.200 (77.0 – 86.5) → 80.200 (75.0 – 84.5); "
        "Difference (points) −0.200 → −2.200",
        "  GPQA: added",
        "  AIME_0fewshot_@avg1: removed",
    ]
    assert lines[4:7] == ["", "--- published", "+++ now"]
    assert len([line for line in lines if line.startswith("-|")]) == 2


def test_a_diff_of_other_text_says_that_no_result_changed() -> None:
    assert card_diff(CARD, CARD) == ""
    assert card_diff(CARD, CARD + "more\n").startswith("No result changed.\n\n--- published")
    assert card_diff("# A\n", "# B\n").splitlines()[0] == "--- published"
    assert "cannot be seen" in card_diff("# A\r\n", "# A\n")
    fewer = "# Evaluation Results\n\n| M | A |\n|---|---|\n| x | 1 |\n"
    more = "# Evaluation Results\n\n| M | A | B |\n|---|---|---|\n| x | 1 | 2 |\n"
    assert "  column B: added" in card_diff(fewer, more)
    assert "  column B: removed" in card_diff(more, fewer)


class Place:
    """A store, a folder to publish to, and a card's file, all empty places of a test."""

    def __init__(self, home: Path) -> None:
        self.store = Store.open(settings().store_url)
        self.root = settings().output_path / "hub"
        self.file = home / "card" / "README.md"
        self.file.parent.mkdir()
        self.write(CARD)

    def write(self, text: str) -> None:
        self.file.write_text(text, encoding="utf-8")

    def publish(self, text: str, cell: str = "qwen3-metax", key: str = "1") -> Path:
        release = self.store.begin_release(cell=cell, key=key, engine="vllm", snapshot={}, code_version="1")
        published = FolderPublisher(self.root).publish({"README.md": text.encode()}, f"FlagRelease/{cell}")
        self.store.record_publication(release, published)
        return self.root / published.target / "README.md"

    def show(self, *arguments: str) -> Result:
        app = typer.Typer()
        app.command()(show)
        return CliRunner().invoke(app, [str(self.file), *arguments])


@pytest.fixture
def place(home: Path) -> Place:
    return Place(home)


def test_show_prints_a_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    found = place.show()
    assert found.exit_code == 0
    assert "MMLU_5fewshot_@avg1" in found.output
    assert "base_model" in found.output


def test_show_writes_a_page_with_the_plot_beside_the_card(place: Place, tmp_path: Path) -> None:
    (place.file.parent / "differences.svg").write_text(FILES["differences.svg"], encoding="utf-8")
    target = tmp_path / "new folder" / "page.html"
    found = place.show("--html", str(target))
    assert found.output.strip() == str(target)
    assert target.read_text(encoding="utf-8") == page(CARD, title="Qwen3-8B-metax-FlagOS", pictures=FILES)
    assert list(target.parent.iterdir()) == [target]


def test_diff_without_a_publication_says_so(place: Place) -> None:
    place.publish(CARD, cell="other-metax")
    found = place.show("--diff")
    assert found.exit_code == 0
    assert found.output == "qwen3-metax: nothing was published yet, so there is nothing to compare with\n"


def test_diff_compares_with_the_newest_publication(place: Place) -> None:
    place.publish(CARD.replace("82.200", "12.000"))
    path = place.publish(CARD, key="2")
    found = place.show("--diff")
    assert found.output == (
        f"qwen3-metax: compared with the card of release 2, published as {path}\nNothing differs.\n"
    )
    place.write(CARD.replace("82.200", "70.000", 1))
    found = place.show("--diff")
    assert found.exit_code == 0
    assert "MMLU_5fewshot_@avg1: Qwen3-8B-FlagOS-metax 82.200 (77.0 – 86.5) → 70.000 (77.0 – 86.5)" in found.output
    assert "changed after it was published" not in found.output


def test_diff_says_that_the_published_card_was_changed_by_hand(place: Place) -> None:
    path = place.publish(CARD)
    path.write_text(CARD + "by hand\n", encoding="utf-8")
    found = place.show("--diff")
    assert found.exit_code == 0
    assert "That file was changed after it was published" in found.output
    assert "\n-by hand\n" in found.output


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda place: place.publish(CARD).unlink(), PublishError, "was published, but its card"),
        (lambda place: place.write("# Introduction\n"), CardFileError, "does not say which cell"),
        (lambda place: place.write("\x00" * 5_000_000), CardFileError, "larger than"),
        (lambda place: place.file.unlink(), CardFileError, "cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_said(
    place: Place, change: object, error: type[FlagReleaseError], says: str
) -> None:
    assert callable(change)
    change(place)
    found = place.show("--diff")
    assert isinstance(found.exception, error)
    assert says in found.exception.message


@pytest.mark.usefixtures("place")
def test_a_name_that_is_no_file_is_looked_up_in_the_store() -> None:
    app = typer.Typer()
    app.command()(show)
    found = CliRunner().invoke(app, ["no-such-cell"])
    assert isinstance(found.exception, UnknownNameError)
