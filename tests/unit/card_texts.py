"""Model cards as text, of every variety that published ones have: hypothesis strategies for them, and their parts."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from flagrelease.card.sections import HEADINGS


class Source(NamedTuple):
    """A card's text, and what a reader must find in it."""

    text: str
    headings: list[tuple[int, str]]
    tables: list[list[list[str]]]
    codes: list[list[str]]
    release_name: str | None
    chip: str | None
    container_release: str | None
    licence: tuple[str | None, str, str | None] | None


CHIPS = ["Nvidia", "NVIDIA", "Metax", "MetaX", "Hygon", "Ascend", "Mthreads", "Iluvatar", "Zhenwu", "Moore Threads"]
MODELS = ["Qwen3-8B", "MiniCPM-V-4", "MiniCPM_o_2.6", "ERNIE-4.5-300B-A47B-PT", "step3", "MiniMax-M1-80k"]
URL = "https://www.apache.org/licenses/LICENSE-2.0.txt"

_identities = [
    "Here the **{name}** model is adapted for the {chip} chip, with:",
    "Here the {name} model is adapted for the {chip} chip with the stack, enabling:\t",
    "Today brings the adaptation and launch of {name} on {chip} chips:",
    "{name}  provides an all-in-one deployment solution, enabling execution of it on {chip} GPUs. And more.",
]
_containers = [
    ("- Released **{}** container image for all", "FlagOS-Nvidia"),
    ("- Released **FlagOS**{} container image\t", "-A800"),
    ("* Released {} container image", "FlagOS"),
]
_licences: list[tuple[str, tuple[str | None, str, str | None]]] = [
    (f"权重来源于Qwen/Qwen3-8B，以apache2.0协议{URL}开源。", ("Qwen/Qwen3-8B", "apache2.0", URL)),
    (f"权重来源于https://hub.org/BAAI/X， 以apache2.0协议开源: {URL}。", ("https://hub.org/BAAI/X", "apache2.0", URL)),
    ("模型权重来自 google/gemma-2，遵循 Gemma 许可协议。", ("google/gemma-2", "Gemma", None)),
    (
        f"Weights are derived from a/b and are open‑sourced under the Apache License 2.0: {URL}",
        ("a/b", "Apache License 2.0", URL),
    ),
    (
        f"The weights are based on a/b-1.5 and are open-sourced under the Apache 2.0 License: {URL}.",
        ("a/b-1.5", "Apache 2.0", URL),
    ),
    (f"These weights are from {URL}/x, open source with apache2.0 license{URL}.", (f"{URL}/x", "apache2.0", URL)),
    ("All of it is licensed under the MIT License.", (None, "MIT", None)),
    ("[MIT](https://opensource.org/licenses/MIT)", (None, "MIT", "https://opensource.org/licenses/MIT")),
]
_fronts = [
    "",
    "---\nlicense: apache-2.0\nlanguage:\n- zh\n- en\n---\n\n",
    '---\nbase_model:\n- ""\nframeworks:\n---\n',
    "---\na: &x 1\nb: *x\n---\n",
]
_titles = st.sampled_from(
    [
        *(title for heading in HEADINGS.values() for title in (heading.en, *heading.aliases)),
        *(
            "Frequently Asked Questions",
            "Q1: What if it does not load?",
            "📞 Contact Us",
            "Operation Steps (version 2)",
        ),
        *(
            "Operation Steps【***need two machines***】",
            "Serve(A3 chip)",
            "C\\#",
            "a_b *c* `d`",
            "常见问题",
            "Step 1. Serve!",
        ),
    ]
)
_cells = st.one_of(
    st.sampled_from(["-", "", "43.330", "0.7", "82.98%", "AIME_0fewshot_@avg1", "MM-Vet v2", "**56.1**", "`x`", "*y*"]),
    st.sampled_from(["92.7(2026)", "Evaluating", "Description:    Ubuntu 22.04.4 LTS", "多模态", "a \\| b", "avg@1 ↑"]),
    st.text("aZ09 é中文ßµ.,:;!?%#@'\"/+=~^×−", max_size=8),
)
_prose = st.sampled_from(
    ["", "Notes: see below\n", "**Only on the master node**\n", "  indented a little\n", "1. first\n2. second\n\n"]
)
_commands = st.sampled_from(
    [
        "pip install modelscope",
        "modelscope download --model Qwen/Qwen3-8B --local_dir /nfs/models/Qwen3-8B",
        "#docker pull harbor.example.com/old:latest",
        "docker pull harbor.example.com/public/flagrelease_metax_qwen3_8b:2510280921",
        "docker run -d -it -e USE_FLAGGEMS=1 \\\n    --shm-size '100gb' -v /nfs/:/nfs/\\\n    --name x img:1 bash",
        "docker exec -it flagos bash",
        'export VLLM_PLUGINS="fl" ',
        "QWEN3_PORT=8100 flagscale serve qwen3",
        "vllm serve /data/Qwen3 --port 8010 --served-model-name qwen38",
        'curl http://<server_ip>:8121/v1/chat/completions \\\n  -d \'{\n    "model": "m",\n    "messages": []\n  }\'',
        "- serve_id: vllm_model\n  port: 9010 # {{ jinja }}",
        "\tindented with a tab",
        "",
    ]
)
_languages = st.sampled_from(["", "bash", "python", "Shell", "Plaintext", " shell", "Bash"])


@st.composite
def _table(draw: st.DrawFn) -> tuple[str, list[list[str]]]:
    """A table in one of the styles that cards have, and the cells that it has for a reader of Markdown."""
    columns = draw(st.integers(2, 5))
    rows = draw(st.lists(st.lists(_cells, min_size=columns, max_size=columns), min_size=1, max_size=6))
    left, right = draw(st.sampled_from([("| ", " |"), ("|", "|"), ("|  ", "  | "), ("| ", " |\t")]))
    divider = draw(st.sampled_from([" | ", "|", "  |  "]))
    lines = [left + divider.join(row) + right for row in rows]
    dash = draw(st.sampled_from(["---", " --------- ", ":---", "-------------------"]))
    lines.insert(1, f"|{'|'.join([dash] * columns)}|{draw(st.sampled_from(['', '  ', chr(9)]))}")
    if len(rows) > 1 and draw(st.booleans()):
        # A row that ends early: the cells that it lacks are empty.
        kept = draw(st.integers(1, columns - 1))
        lines[-1] = "| " + " | ".join(rows[-1][:kept]) + " |"
        rows[-1] = rows[-1][:kept] + [""] * (columns - kept)
    return "\n".join(lines) + "\n", [[cell.strip() for cell in row] for row in rows]


@st.composite
def _code(draw: st.DrawFn) -> tuple[str, list[str]]:
    commands = draw(st.lists(_commands, min_size=1, max_size=4))
    lines = "\n".join(commands).split("\n")
    fence = draw(st.sampled_from(["```", "````", "~~~"]))
    return "\n".join([fence + draw(_languages), *lines, fence]) + "\n", lines


@st.composite
def sources(draw: st.DrawFn) -> Source:
    """A card that says what it says in one of the ways of published cards, with anything between."""
    name, chip = f"{draw(st.sampled_from(MODELS))}-FlagOS", draw(st.sampled_from(CHIPS))
    identity = draw(st.one_of(st.none(), st.sampled_from(_identities)))
    container = draw(st.one_of(st.none(), st.sampled_from(_containers)))
    licence = draw(st.one_of(st.none(), st.sampled_from(_licences)))
    level = draw(st.integers(1, 3))
    parts = [draw(st.sampled_from(_fronts)), "# Introduction\n\n"]
    headings, tables, codes = [(1, "Introduction")], [], []
    parts.append(f"{identity.format(name=name, chip=chip)}\n\n" if identity else "")
    headings.append((level, "Integrated Deployment"))
    parts.append(f"{'#' * level} Integrated Deployment\n")
    parts.append(f"{container[0].format(container[1])}\n" if container else "")
    for _ in range(draw(st.integers(0, 5))):
        headings.append((draw(st.integers(1, 6)), draw(_titles)))
        parts.append(f"{'#' * headings[-1][0]} {headings[-1][1]}{draw(st.sampled_from(['', ' ', ' ##']))}\n")
        for _ in range(draw(st.integers(0, 2))):
            parts.append(draw(_prose))
            if draw(st.booleans()):
                text, cells = draw(_table())
                tables.append(cells)
            else:
                text, lines = draw(_code())
                codes.append(lines)
            parts.append(text + "\n" * draw(st.integers(1, 2)))
    headings.append((1, "License"))
    parts.append(f"# License\n \t \n{licence[0] if licence else ''}")
    parts.append("\n" * draw(st.integers(0, 2)))
    text = "".join(parts)
    return Source(
        draw(st.sampled_from([text, text.replace("\n", "\r\n"), f"\ufeff{text}"])),
        headings,
        tables,
        codes,
        name if identity else None,
        chip if identity else None,
        container[0].format(container[1]).split("Released ")[1].split(" container")[0].replace("*", "")
        if container
        else None,
        licence[1] if licence else None,
    )


_NASTY = [
    *(
        "# ",
        "## ",
        "|",
        "| a | b |",
        "|---|---|",
        "|:-:|",
        "```",
        "```bash",
        "~~~",
        "`",
        "``",
        "\\",
        "\\\\",
        "\\|",
        "<",
        ">",
    ),
    *(
        "<b>",
        "<!--",
        "-->",
        "<script>alert(1)</script>",
        "![x](http://x/y.png)",
        "[x](javascript:alert(1))",
        "](",
        "![",
        "[",
    ),
    *(
        "&#8238;",
        "&#x202e;",
        "&lt;",
        "&amp;",
        "&",
        "*",
        "**",
        "_",
        "\n",
        "\n\n",
        "\n- ",
        "1. ",
        "> ",
        "    ",
        "\t",
        "---",
        "===",
    ),
    *(
        "\u202e",
        "\0",
        "\x0b",
        "\u2028",
        "\u200d",
        "\ud800",
        "\xa0",
        "{{ 7*7 }}",
        "{% if %}",
        "{# x #}",
        "a",
        "中文",
        "#",
        "$(id)",
    ),
    *(
        "\n# License\n\n",
        "\n# Introduction\n\n",
        "\n### Serve\n\n",
        "\r\n",
        "\r",
        "---\nlicense: mit\n---\n",
        "https://x.y",
        "'",
        '"',
    ),
    *(
        "the **X-FlagOS** model is adapted for the Metax chip",
        "Released **FlagOS** container image",
        "import openai",
        "openai(",
    ),
    *(
        "licensed under the MIT License.",
        "权重来源于a/b，以apache2.0协议开源",
        "docker run -v $A x",
        "curl http://x -d '{",
        "vllm serve ",
    ),
    *(
        "\n| a | b | c |\n|---|---|\n|1|2|3|4|\n",
        "\n| A | B |\n|---|---|\n| ",
        " |\n",
        "The model **",
        "** is such a release",
    ),
]
nasty_texts = st.lists(st.sampled_from(_NASTY), max_size=40).map("".join)
