"""Reading a card: what counts as what, what is reported with its line, and what is refused."""

from __future__ import annotations

import os
import re
import time
from importlib import resources
from pathlib import Path

import pytest

from flagrelease.card import read_prose
from flagrelease.card.data import Block, Card, Client, Code, Table
from flagrelease.card.read import MAX_BYTES, MAX_LINES, Reading, read_card, read_card_file
from flagrelease.card.render import render
from flagrelease.errors import CardFileError
from flagrelease.records import Stack

SNIPPET = """\
import openai
openai.api_key = "EMPTY"
openai.base_url = "http://<server_ip>:9010/v1/"
model = "X-metax-flagos"
messages = [
    {"role": "system", "content": "Be helpful."},
    {"role": "user", "content": "Hello?"}
]
response = openai.chat.completions.create(
    model=model,
    messages=messages,
    temperature=0.70,
    stream=False,
)
for item in response:
    print(item)
"""


def read(text: str) -> Reading:
    return read_card(text, source="card.md")


def contents(text: str) -> list[Table | Code | Client]:
    return [content for section in read(f"# T\n\n{text}").card.sections for content in section.contents]


def unplaced(text: str) -> list[tuple[int, str]]:
    return [(line.number, line.text) for line in read(text).unplaced]


def test_a_clean_card_leaves_nothing_unplaced() -> None:
    text = "# Introduction\n\nHere the **X-metax-FlagOS** model is adapted for the Metax chip.\n\n# License\n\nMIT\n"
    found = read(text)
    assert found.unplaced == []
    assert (found.card.release_name, found.card.chip) == ("X-metax-FlagOS", "Metax")
    assert found.value_lines == {"release_name": 3, "chip": 3, "licence": 7}
    assert found.card.origin.kind == "imported"
    assert found.card.origin.source == "card.md"


def test_prose_that_says_nothing_known_is_reported_with_its_line() -> None:
    text = "# Introduction\n\nBuy our cluster.\n\n- one\n- two\n  more of two\n\n2025.07.08\n\n—\n"
    assert unplaced(text) == [
        (3, "Buy our cluster."),
        (5, "- one"),
        (6, "- two"),
        (7, "  more of two"),
        (9, "2025.07.08"),
    ]


def test_a_sentence_that_cards_share_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = "- **Good**: it has 800+ operators, see [here](https://a.b)!"
    monkeypatch.setattr(read_prose, "_known_lines", lambda: frozenset({read_prose.line_hash(shared)}))
    assert unplaced(f"# T\n\n{shared}\n") == []
    assert unplaced("# T\n\ngood: It has 900 opera tors,\nsee here\n") == []
    assert unplaced("# T\n\nGood: it has no operators, see here\n") != []


def test_the_list_of_shared_sentences_holds_hashes_alone() -> None:
    head, *hashes = resources.files("flagrelease.card").joinpath("known_lines.txt").read_text().splitlines()
    assert head.startswith("# ")
    assert hashes == sorted(set(hashes))
    assert all(re.fullmatch("[0-9a-f]{16}", line) for line in hashes)


def test_a_second_value_of_a_kind_is_reported() -> None:
    sentence = "Here the {} model is adapted for the Metax chip.\n\n"
    reading = read(f"# Introduction\n\n{sentence.format('A')}{sentence.format('A')}{sentence.format('B')}")
    assert reading.card.release_name == "A"
    assert [(line.number, line.reason) for line in reading.unplaced] == [(7, "another release name than on line 3")]


def test_html_and_images_are_reported_and_not_kept() -> None:
    text = "# Contact\n\n<p onclick=x>\n# not a heading\n</p>\n\n![qr](group.png)\n"
    reading = read(text)
    assert [section.title for section in reading.card.sections] == ["Contact"]
    assert [line.number for line in reading.unplaced] == [3, 4, 5, 7]


def test_addresses_of_links_are_reported() -> None:
    assert unplaced("# T\n\n[x]: http://a.b\n") == [(3, "[x]: http://a.b")]


def test_what_stands_before_the_first_heading_is_reported() -> None:
    assert unplaced("| a | b |\n|---|---|\n| 1 | 2 |\n\n```\nls\n```\n\n# T\n") == [
        (1, "a | b"),
        (3, "1 | 2"),
        (6, "ls"),
    ]


def test_cells_beyond_the_columns_are_reported() -> None:
    text = "# T\n\n| a | b |\n|---|---|\n| 1 | 2 | 3 |\n| 1 | 2 | \n| 1\n"
    assert read(text).card.sections[0].contents == [Table(header=["a", "b"], rows=[["1", "2"], ["1", "2"], ["1", ""]])]
    assert unplaced(text) == [(5, "| 1 | 2 | 3 |")]


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("Text before\n| a | b |\n|---|---|\t\n| 1 | 2 |\n", Table(header=["a", "b"], rows=[["1", "2"]])),
        ("|a|b|\n|:--|--:|\n|1|2|\n", Table(header=["a", "b"], rows=[["1", "2"]])),
        # Its separator has fewer columns than its header.
        ("| a | b | c |\n|---|---|\n| 1 | 2 | 3 |\n", Table(header=["a", "b", "c"], rows=[["1", "2", "3"]])),
        (
            "| a \\| b | `x\\|y` |\n|---|---|\n| \\<x | y |\n",
            Table(header=["a \\| b", "`x\\|y`"], rows=[["&lt;x", "y"]]),
        ),
        (
            "|  | b |\n|---|---|\n| <b>x</b> | `<y>` |\n",
            Table(header=["", "b"], rows=[["&lt;b>x&lt;/b>", "&lt;y&gt;"]]),
        ),
        (
            "| [x](javascript:y) | ![i](http://z) |\n|---|---|\n",
            Table(header=["[x]&#40;javascript:y)", "&#33;[i](http://z)"], rows=[]),
        ),
        ("| <https://a.b> | &#8238;c |\n|---|---|\n", Table(header=["https://a.b", "c"], rows=[])),
    ],
)
def test_tables(text: str, table: Table) -> None:
    assert contents(text) == [table]


def test_commands_stay_as_they_stand() -> None:
    lines = ["#docker pull old", "docker pull new  ", "", "docker run \\", "\t--name x img", "```bash", ""]
    assert contents("```` Shell\n" + "\n".join(lines) + "\n````\n") == [Code(language="Shell", lines=lines)]


def test_a_fence_that_another_fence_should_close_goes_on() -> None:
    text = "```bash\ndocker pull x\n\n### Serve\n\n```bash\ndocker run x\n```\n"
    (code,) = contents(text)
    assert isinstance(code, Code)
    assert code.lines == ["docker pull x", "", "### Serve", "", "```bash", "docker run x"]


def test_indented_commands_are_code_and_indented_prose_is_not() -> None:
    assert contents("    docker pull x\n") == [Code(lines=["docker pull x"])]
    assert contents("     Only prose\n") == []
    assert unplaced("# T\n\n     Only prose\n") == [(3, "     Only prose")]


@pytest.mark.parametrize("language", ["bash", "python", ""])
def test_the_plain_snippet_is_known_by_its_values(language: str) -> None:
    assert contents(f"```{language}\n{SNIPPET}\n```\n") == [
        Client(
            base_url="http://<server_ip>:9010/v1/",
            model="X-metax-flagos",
            messages=[{"role": "system", "content": "Be helpful."}, {"role": "user", "content": "Hello?"}],
            parameters={"temperature": 0.7, "stream": False},
        )
    ]


@pytest.mark.parametrize(
    "changed",
    [
        SNIPPET.replace("    print(item)", "    print(item.choices)"),
        SNIPPET.replace("EMPTY", "secret"),
        SNIPPET.replace("stream=False", "extra_body={'top_k': 1}"),
        SNIPPET.replace('"Hello?"', '["Hello?"]'),
        SNIPPET.replace('"Hello?"', "input()"),
        SNIPPET.replace("import openai\n", "import openai\n# a comment\n"),
        SNIPPET + "import os\n",
        SNIPPET.replace("import openai\n", "from openai import OpenAI\n"),
        SNIPPET.replace("import openai", "import openai ((("),
    ],
)
def test_any_other_snippet_stays_code(changed: str) -> None:
    assert contents(f"```\n{changed}```\n") == [Code(lines=changed.split("\n")[:-1])]


@pytest.mark.parametrize(
    ("sentence", "values"),
    [
        ("Words before, the **A-FlagOS** model is adapted for the Nvidia chip", ("A-FlagOS", "Nvidia", None)),
        ("the A-FlagOS model is adapted for the Moore Threads chip using", ("A-FlagOS", "Moore Threads", None)),
        ("the simultaneous adaptation and launch of A-FP8 on Nvidia chips:", ("A-FP8", "Nvidia", None)),
        (
            "A_o_2.6-FlagOS  provides an all-in-one deployment solution, enabling execution of A on metax GPUs.",
            ("A_o_2.6-FlagOS", "metax", None),
        ),
        ("- Released **FlagOS**-A800 container image", (None, None, "FlagOS-A800")),
        ("- Released **FlagOS-Metax** container image", (None, None, "FlagOS-Metax")),
        ("We released it.", (None, None, None)),
    ],
)
def test_identity_and_container_in_the_wordings_of_cards(sentence: str, values: tuple[str | None, ...]) -> None:
    card = read(f"# Introduction\n\n{sentence} and words behind\n").card
    assert (card.release_name, card.chip, card.container_release) == values


def test_a_sentence_may_run_over_lines() -> None:
    reading = read("# Introduction\n\nFirst words.\nSo the **A** model\nis adapted for the Metax chip.\nLast words.\n")
    assert reading.card.release_name == "A"
    assert [line.number for line in reading.unplaced] == [3, 6]


def test_a_licence_without_a_section_needs_its_source() -> None:
    assert read("# T\n\nIt is licensed under the MIT License.\n").card.licence is None
    found = read("# T\n\nThe weights are derived from a/b and are released under the MIT License.\n").card.licence
    assert found is not None
    assert (found.repository, found.name) == ("a/b", "MIT")


def test_front_matter() -> None:
    reading = read('---\nlicense: mit\nbase_model:\n- ""\nframeworks:\ndate: 2025-07-08\n---\n# T\n')
    assert reading.card.front_matter == {"license": "mit", "base_model": [""], "frameworks": None, "date": "2025-07-08"}
    assert reading.value_lines["front_matter.frameworks"] == 5
    assert reading.heading_lines == [8]


@pytest.mark.parametrize(
    "yaml", ["a: &x 1\nb: *x", "a: !!python/name:os.system", "a: [", "- list", "a: .nan", 'a: "\\0"']
)
def test_other_front_matter_is_reported(yaml: str) -> None:
    reading = read(f"---\n{yaml}\n---\n# T\n")
    assert reading.card.front_matter is None
    assert [line.number for line in reading.unplaced] == list(range(2, yaml.count("\n") + 3))
    assert all(line.reason.startswith("front matter that is no plain YAML: ") for line in reading.unplaced)


def test_a_rule_at_the_top_is_no_front_matter() -> None:
    assert read("---\n\n# T\n\ntext\n").card.sections[0].title == "T"


def test_blocks_and_languages_are_known_by_their_titles() -> None:
    card = read("# **简介**\n\n## 操作步骤\n\n### Serve(A3 chip)\n\n# 常见问题\n").card
    assert [section.block for section in card.sections] == [Block.INTRODUCTION, Block.STEPS, Block.SERVE, None]
    assert card.language == "zh"
    assert read("# Introduction\n\n# 简介\n").card.language == "en"


def test_the_stack_is_in_the_name() -> None:
    sentence = "# Introduction\n\nthe {} model is adapted for the Metax chip\n"
    assert read(sentence.format("A-metax-native")).card.stack is Stack.NATIVE
    assert read(sentence.format("A-metax-FlagOS")).card.stack is Stack.FLAGOS
    assert read(sentence.format("A-Metax")).card.stack is Stack.FLAGOS


def test_positions() -> None:
    reading = read("\n# A\n\n| x | y |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\n## B\n```\nls\ncd\n```\n")
    assert reading.heading_lines == [2, 9]
    assert reading.content_lines == [[4], [10]]
    assert reading.line_of(0, 0) == 4
    assert reading.line_of(0, 0, 1) == 7
    assert reading.line_of(1, 0, 0) == 11


def test_control_and_bidi_characters_are_removed_and_reported() -> None:
    reading = read("# A\u202eB\0\n\n| a\u2066b | c |\n|---|---|\n\n```\nls\x1b[31m\n```\n")
    assert reading.card.sections[0].title == "AB"
    assert contents("| a\u2066b | c |\n|---|---|\n") == [Table(header=["ab", "c"], rows=[])]
    assert [line.number for line in reading.unplaced] == [1, 3, 7]
    assert not any(char in render(reading.card) for char in "\u202e\u2066\0\x1b")


def test_jinja_is_text() -> None:
    text = "# {{ 7 * 7 }}\n\n| {% raw %} | {# x #} |\n|---|---|\n\n```\n{{ x }}\n```\n"
    rendered = render(read(text).card)
    assert all(part in rendered for part in ("# {{ 7 * 7 }}", "{% raw %}", "{# x #}", "\n{{ x }}\n"))


def test_line_ends_and_a_byte_order_mark_do_not_matter() -> None:
    text = f"# T\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\n{SNIPPET}```\n"

    def parts(card: Card) -> object:
        return card.sections

    expected = parts(read(text).card)
    for other in (text.replace("\n", "\r\n"), text.replace("\n", "\r"), f"\ufeff{text}"):
        assert parts(read(other).card) == expected


def test_a_file_that_is_no_text_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_bytes("# T\n\n| 名".encode() + b"\xff |\n")
    with pytest.raises(CardFileError, match=r"README\.md:3: byte 0xff is not UTF-8 text"):
        read_card_file(path)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CardFileError, match="cannot be read"):
        read_card_file(tmp_path / "none.md")
    with pytest.raises(CardFileError, match="cannot be read"):
        read_card_file(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * (MAX_BYTES + 1), "larger than 4,000,000 bytes"),
        ("# x\n" * (MAX_LINES + 1), "more than 20,000 lines"),
        (f"# T\n\n{'|a' * 300}|\n{'|-' * 300}|\n", "card.md:4: a table of more than 200 columns"),
    ],
)
def test_what_is_too_large_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CardFileError, match=reason):
        read(text)
    (tmp_path / "card.md").write_text(text)
    with pytest.raises(CardFileError):
        read_card_file(tmp_path / "card.md")


@pytest.mark.parametrize(
    "line",
    ["a", " ", "*", "[", "![", "<", "`", "\\", "| ", "](x", "> ", "- ", "&#8238;", "\u202e", "<a b", "**a "],
)
def test_a_line_of_a_megabyte_is_read_in_time_that_grows_with_its_length(line: str) -> None:
    def seconds(size: int) -> float:
        begin = time.process_time()
        read(f"# T {line * (size // len(line))}\n\n{line * (size // len(line))}\n")
        return time.process_time() - begin

    # Quadratic time would be 64 times as long; what is not linear here is noise.
    assert seconds(160_000) < 32 * max(seconds(20_000), 0.02)


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_file_name_that_is_no_text_is_cleaned(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/x\xff\n.md"))
    path.write_text("# T\n")
    assert read_card_file(path).source == "x.md"


def test_a_fence_that_the_end_of_the_file_closes_keeps_its_last_line() -> None:
    assert contents("```bash\ncd x\nserve y") == [Code(language="bash", lines=["cd x", "serve y"])]
    assert contents("```bash\ncd x\nserve y\n") == [Code(language="bash", lines=["cd x", "serve y"])]
    assert contents("```\n```") == [Code(lines=[])]


@pytest.mark.parametrize(("old", "new"), [('flagos"\n', 'flagos"  # served name\n'), ("False,\n", "False, # x\n")])
def test_a_snippet_with_a_comment_stays_code(old: str, new: str) -> None:
    (found,) = contents(f"```python\n{SNIPPET.replace(old, new)}```")
    assert isinstance(found, Code)
    assert new.strip() in "\n".join(found.lines)


def test_rows_of_a_table_in_a_quote_are_placed() -> None:
    assert unplaced("# T\n\n> | A | B |\n> |---|---|\n> | 1 | 2 |\n") == []


def test_faults_of_front_matter_name_the_lines_of_the_file() -> None:
    (_, reason), *_ = [
        (line.number, line.reason) for line in read("---\nlicense: mit\nlicense: x\n---\n# T\n").unplaced
    ]
    assert "3" in reason


@pytest.mark.parametrize("name", ["Robo Brain 2", "{{ 7*7 }}", "A-FlagOS"])
def test_a_name_in_bold_may_hold_anything(name: str) -> None:
    card = read(f"# Introduction\n\nHere the **{name}** model is adapted for the Kunlunxin XPU chip.\n").card
    assert (card.release_name, card.chip) == (name, "Kunlunxin XPU")


def test_a_container_release_in_bold_may_hold_spaces() -> None:
    card = read("# Integrated Deployment\n\n- Released **FlagOS-Metax C550** container image supporting it\n").card
    assert card.container_release == "FlagOS-Metax C550"


def test_a_number_without_end_in_front_matter_is_reported() -> None:
    found = read(f"---\na: 0x{'F' * 9000}\n---\n# T\n")
    assert found.card.front_matter is None
    assert found.unplaced
