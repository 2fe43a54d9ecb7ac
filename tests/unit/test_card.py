from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from flagrelease.card import render as render_module
from flagrelease.card.compose import measured_card
from flagrelease.card.data import CardData
from flagrelease.card.names import card_names
from flagrelease.card.render import render, template_sha256
from flagrelease.card.styles import Style
from flagrelease.matrix import Licence, Names, Source
from flagrelease.records import Artefact, CanaryStatistics, CellImage, Degree, ImportedBaseline, OperatorEvidence
from flagrelease.verdicts import CanaryResult, HygieneCheck, Verdict
from tests.unit import card_data

BEFORE_STEPS = [
    "# Introduction",
    "### Integrated Deployment",
    "### Consistency Validation",
    "# Technical Overview",
    "## **FlagScale Distributed Training and Inference Framework**",
    "## **FlagGems Universal Large-Model Operator Library**",
    "## **FlagEval Evaluation Framework**",
    "# Evaluation Results",
    "## Benchmark Result",
    "## How this was verified",  # the one heading that the source cards do not have
    "# User Guide",
    "## Operation Steps",
]
CONTAINER_STEPS = [
    "### Download Open-source Model Weights",
    "### Download FlagOS Image",
    "### Start the inference service",
    "### Serve",
]
PROCESS_STEPS = ["### Install", "### Serve"]
AFTER_STEPS = [
    "## Service Invocation",
    "### API-based Invocation Script",
    "### AnythingLLM Integration Guide",
    "#### 1. Download & Install",
    "#### 2. Configuration",
    "#### 3. Model Interaction",
    "# Contributing",
    "# License",
]
DIFFERENCE_COLUMNS = ["Difference (points)", "90 % interval", "n × repeats", "Verdict"]
HOSTILE = "x|y `z` **b** <script>alert(1)</script> {{ 7*7 }} {% raw %} [a](http://b) \\| &lt;\n\n# Owned\n```\n\u202e"


def _cards() -> dict[str, CardData]:
    return {
        "container": card_data.card(card_data.container_cell()),
        "process": card_data.card(card_data.process_cell()),
        "other engine": card_data.card(card_data.process_cell(), engine="vllm"),
        "huggingface": card_data.card(
            card_data.container_cell(source=Source(hub="huggingface", repository="Qwen/Qwen3-8B"))
        ),
        "hostile": _hostile(),
    }


def _hostile() -> CardData:
    """A card with hostile text wherever text is free."""
    cell = card_data.container_cell(
        display=HOSTILE,
        source=Source(hub="modelscope", repository=HOSTILE, local_dir="/" + re.sub(r"[:\x00-\x1f]", "", HOSTILE)),
        licence=Licence(spdx="other", url=f"https://example.org/{HOSTILE}", name=HOSTILE),
    )
    container = cell.cell.container
    assert container is not None
    container = container.model_copy(update={"image": HOSTILE, "name": HOSTILE, "options": ["-v", HOSTILE]})
    changed = cell.cell.model_copy(update={"container": container, "served_name": HOSTILE})
    plain = card_data.card(cell.model_copy(update={"cell": changed}))
    gate = plain.gate.model_copy(
        update={
            "baseline_id": HOSTILE,
            "reasons": [HOSTILE, HOSTILE],
            "hygiene": [HygieneCheck(name=HOSTILE, passed=True, detail=HOSTILE)],
            "operators": OperatorEvidence(
                degree=Degree.PARTIAL,
                ran=["add"],
                expected=[HOSTILE],
                missing=[HOSTILE],
                left_out_but_ran=[HOSTILE],
                expectation=HOSTILE,
            ),
        }
    )
    changes: dict[str, Any] = {"engine_version": HOSTILE, "harness": HOSTILE, "engine_settings": {"a": HOSTILE}}
    return plain.model_copy(
        update={
            "gate": gate,
            "rows": [row.model_copy(update={"display": HOSTILE}) for row in plain.rows],
            "not_run": [entry.model_copy(update={"display": HOSTILE, "reason": HOSTILE}) for entry in plain.not_run],
            "candidate": plain.candidate.model_copy(update=changes),
            "evidence": [Artefact(kind="operators", name=HOSTILE, sha256=HOSTILE, size=1)],
        }
    )


def text_of(data: CardData, style: Style = Style.VERIFIED) -> str:
    """The card's text."""
    return render(measured_card(data, style))


CARDS = _cards()
every_card = pytest.mark.parametrize("data", CARDS.values(), ids=CARDS.keys())


def _body(text: str) -> str:
    return text.split("---\n", 2)[2]


def _front_matter(text: str) -> dict[str, Any]:
    data = yaml.safe_load(text.split("---\n", 2)[1])
    assert isinstance(data, dict)
    return data


def _tokens(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(_body(text))


def _headings(text: str) -> list[str]:
    tokens = _tokens(text)
    return [
        f"{'#' * int(token.tag[1])} {tokens[index + 1].content}"
        for index, token in enumerate(tokens)
        if token.type == "heading_open"
    ]


def _tables(text: str) -> list[list[list[str]]]:
    """Tables as rows of cells, as a reader of Markdown sees them."""
    tables: list[list[list[str]]] = []
    for token in _tokens(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level == 4:
            tables[-1][-1].append("".join(child.content for child in token.children or []))
    return tables


def _blocks(text: str, language: str) -> list[str]:
    return [token.content for token in _tokens(text) if token.type == "fence" and token.info == language]


@every_card
def test_headings_are_those_of_the_source_cards(data: CardData) -> None:
    steps = CONTAINER_STEPS if data.cell.cell.launcher == "container" else PROCESS_STEPS
    assert _headings(text_of(data)) == BEFORE_STEPS + steps + AFTER_STEPS


@every_card
def test_same_data_gives_same_bytes(data: CardData) -> None:
    text = text_of(data)
    assert text == text_of(CardData.model_validate_json(data.model_dump_json()))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert "\n\n\n\n" not in text
    assert "\r" not in text


@every_card
def test_markdown_is_balanced(data: CardData) -> None:
    body = _body(text_of(data))
    assert body.count("**") % 2 == 0
    fences = [line for line in body.splitlines() if line.startswith("```")]
    assert len(fences) % 2 == 0
    assert all(fence == "```" for fence in fences[1::2])
    # Every heading and fence stands free, as some readers of Markdown need.
    for match in re.finditer(r"^(#+ |```\w)", body, re.MULTILINE):
        if not body[match.start() :].startswith("# Container startup"):
            assert body[: match.start()].endswith("\n\n") or match.start() <= 1


@every_card
def test_shell_blocks_are_valid_shell(data: CardData) -> None:
    blocks = _blocks(text_of(data), "bash")
    assert len(blocks) == (5 if data.cell.cell.launcher == "container" else 3)
    for block in blocks:
        shlex.split(block, comments=True)
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@every_card
def test_client_snippet_is_valid_python(data: CardData) -> None:
    (block,) = _blocks(text_of(data), "python")
    assigned = {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in ast.parse(block).body
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call)
    }
    host = "<server_ip>" if data.cell.cell.launcher == "container" else "127.0.0.1"
    assert assigned["openai.base_url"] == f"http://{host}:9010/v1/"
    if data is not CARDS["hostile"]:
        assert assigned["model"] == data.cell.served_name
    assert ("temperature=0.7" in block) == (data.cell.cell.sampling is not None)


@every_card
def test_front_matter_holds_the_facts(data: CardData) -> None:
    front = _front_matter(text_of(data))
    assert front["flagrelease"]["schema"] == 1
    assert front["flagrelease"]["release"] == 12
    assert front["flagrelease"]["cell"] == data.cell.id
    assert front["flagrelease"]["verdict"] == "CONSISTENT"
    assert front["pipeline_tag"] == "text-generation"
    assert front["language"] == ["en"]
    results = front["model-index"][0]["results"]
    assert [result["dataset"]["type"] for result in results] == ["mmlu", "aime"]
    assert [metric["value"] for result in results for metric in result["metrics"]] == [82.2, 82.2]


def test_front_matter_names_licence_and_base() -> None:
    front = _front_matter(text_of(CARDS["container"]))
    assert (front["license"], front["base_model"]) == ("apache-2.0", "Qwen/Qwen3-8B")
    assert (front["library_name"], front["tags"]) == ("transformers", ["flagrelease", "flagos", "metax", "flagscale"])
    assert _front_matter(text_of(CARDS["process"]))["library_name"] == "gguf"

    licence = Licence(spdx="other", url="https://example.org/licence", name="Model License v1.0")
    front = _front_matter(text_of(card_data.card(card_data.container_cell(licence=licence))))
    assert (front["license"], front["license_name"]) == ("other", "model-license-v1.0")
    assert front["license_link"] == "https://example.org/licence"


def test_results_table_holds_the_numbers() -> None:
    results = _tables(text_of(CARDS["container"]))[0]
    scores = ["82.400 (77.2 – 86.7)", "82.200 (77.0 – 86.5)", "−0.200", "−0.86 to +0.46"]
    assert results == [
        ["Metrics", "Qwen3-8B-H100-CUDA", "Qwen3-8B-FlagOS-metax", *DIFFERENCE_COLUMNS],
        ["MMLU_5fewshot_@avg1", *scores, "500 × 1", "CONSISTENT"],
        ["AIME_0fewshot_@avg1", *scores, "30 × 4", "CONSISTENT (advisory)"],
    ]


def test_runs_that_cannot_be_compared_have_no_difference() -> None:
    plain = CARDS["container"]
    gate = plain.gate.model_copy(
        update={"verdict": Verdict.INVALID, "benchmarks": [], "pooled": None, "reasons": ["prompts differ"]}
    )
    gate = gate.model_copy(update={"hygiene": [HygieneCheck(name="prompts", passed=False, detail="3 differ")]})
    text = text_of(plain.model_copy(update={"gate": gate}))
    assert _tables(text)[0][1][3:] == ["–", "–", "500 × 1", "not compared"]
    assert "**Verdict: INVALID.**" in text
    assert "prompts differ." in text
    assert "Hygiene checks passed: 0 of 1." in text
    assert ["prompts", "FAILED", "3 differ"] in _tables(text)[1]


def test_verdict_paragraph_gives_reasons_and_gaps() -> None:
    text = text_of(CARDS["container"])
    (paragraph,) = [line for line in text.splitlines() if line.startswith("**Verdict: ")]
    assert "no gated benchmark regressed; the mean difference is within 1.0 points." in paragraph
    assert "1 of AIME_0fewshot_@avg1." in paragraph
    assert "- **GPQA**: its questions are behind a form" in text
    assert "Every benchmark of the suite was run." in text_of(CARDS["container"].model_copy(update={"not_run": []}))


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_words(verdict: Verdict) -> None:
    gate = CARDS["process"].gate.model_copy(update={"verdict": verdict, "reasons": []})
    text = text_of(CARDS["process"].model_copy(update={"gate": gate}))
    assert re.search(rf"\*\*Verdict: {verdict}\.\*\* In short, .+\.", text)


def test_verification_says_what_served() -> None:
    process, container = text_of(CARDS["process"]), text_of(CARDS["container"])
    assert "served by llama.cpp (xllamacpp 2026.10.11549), not by vLLM; the baseline was served by vLLM" in process
    assert "no FlagGems operators ran" in process
    assert "does not prove which FlagGems operators ran" in container
    assert "Both runs used the same engine." in text_of(CARDS["other engine"])

    operators = Artefact(kind="operators", name="operators.txt", sha256="ef" * 32, size=3)
    text = text_of(CARDS["container"].model_copy(update={"evidence": [operators]}))
    assert "listed by the server itself, in `operators.txt` below" in text
    assert ["operators.txt", "operators", "ef" * 32] in _tables(text)[3]
    assert "No files of evidence" in text_of(CARDS["container"].model_copy(update={"evidence": []}))


def test_verification_says_how_much_of_what_should_have_run_did() -> None:
    evidence = [Artefact(kind="operators", name="operators.txt", sha256="ef" * 32, size=3)]
    known: dict[str, Any] = {"ran": ["add"], "expected": ["add"], "expectation": "listed by release 7 of qwen3-x"}

    def said(**operators: Any) -> str:
        gate = CARDS["container"].gate.model_copy(update={"operators": OperatorEvidence(**operators)})
        text = text_of(CARDS["container"].model_copy(update={"evidence": evidence, "gate": gate}))
        (line,) = [line for line in text.splitlines() if "listed by the server itself" in line]
        return line.partition(" below. ")[2]

    assert (
        said(degree="full", **known) == "None is missing of the 1 that were expected (listed by release 7 of qwen3-x)."
    )
    many = [f"op{number:02}" for number in range(11)]
    partial = said(degree="partial", **{**known, "expected": [*many, "add"]}, missing=many)
    assert partial.startswith(
        "Of the 12 that were expected (listed by release 7 of qwen3-x) 11 are not in the list: `op00`, "
    )
    assert partial.endswith(", `op09`, ….")
    assert said(degree="unknown", ran=["add"], left_out_but_ran=["add"]) == (
        "Nothing is known to compare them with. These ran although they were to be left out: `add`."
    )


def test_provenance_table_sets_both_runs_side_by_side() -> None:
    rows = {row[0]: row[1:] for row in _tables(text_of(CARDS["process"]))[2]}
    assert rows["Engine"] == ["vLLM 0.28.0", "llama.cpp (xllamacpp 2026.10.11549)"]
    assert rows["Weights SHA-256"] == ["0123456789ab", "0123456789ab"]
    assert rows["Engine settings"] == ["max_model_len=2048, threads=2"] * 2


def test_engine_is_named_where_it_is_not_the_cells() -> None:
    text = text_of(CARDS["process"])
    assert "flagrelease serve smollm2-cpu --port 9010\n" in text
    assert "flagrelease release smollm2-cpu\n" in text
    assert 'pip install "flagrelease[llama-cpp]"' in text
    text = text_of(CARDS["other engine"])
    assert "flagrelease serve smollm2-cpu --port 9010 --engine vllm\n" in text
    assert "flagrelease release smollm2-cpu --engine vllm\n" in text
    assert "install vLLM" in text
    assert "llama-cpp" not in text


def test_container_commands() -> None:
    weights, image, start, serve = _blocks(text_of(CARDS["container"]), "bash")[1:]
    assert "modelscope download --model Qwen/Qwen3-8B --local_dir /nfs/models/Qwen3-8B" in weights
    assert image == f"docker pull {card_data.IMAGE}\n"
    container = CARDS["container"].cell.cell.container
    assert container is not None
    assert shlex.split(start.replace("\\\n", ""), comments=True) == [
        *("docker", "run", *container.options, "--name", "flagos", card_data.IMAGE, "sleep", "infinity")
    ]
    assert max(map(len, start.splitlines())) <= 100
    assert serve == "source .venv/bin/activate\nflagscale serve qwen3\n"
    assert "hf download Qwen/Qwen3-8B\n" in _blocks(text_of(CARDS["huggingface"]), "bash")[1]


def test_what_was_served_from_an_image_is_pulled_and_started_by_its_digest() -> None:
    image = CellImage(
        name="registry.example.org/team/qwen3:1",
        id=f"sha256:{'a' * 64}",
        key="b" * 64,
        digest=f"sha256:{'c' * 64}",
        base="base",
        versions={"flag-gems": "5.0.2", "torch": "2.9.0"},
    )
    data = card_data.card(card_data.container_cell(), image=image, serve=["vllm serve /nfs/models/Qwen3-8B"])
    data = data.model_copy(update={"candidate": data.candidate.model_copy(update={"image_digest": image.digest})})
    text = text_of(data)
    pull, start, serve = _blocks(text, "bash")[2:]
    assert pull == f"docker pull registry.example.org/team/qwen3@{image.digest}\n"
    assert pull.split()[-1] in shlex.split(start.replace("\\\n", ""), comments=True)
    assert serve == "vllm serve /nfs/models/Qwen3-8B\n"
    rows = {row[0]: row[1:] for table in _tables(text) for row in table}
    assert rows["Container image"] == ["none, a process", "sha256:cccccccccccc"]
    assert (rows["FlagGems"], rows["torch"]) == (["Version: 5.0.2"], ["Version: 2.9.0"])
    # What no registry has is built again.
    kept = text_of(data.model_copy(update={"image": image.model_copy(update={"digest": None})}))
    assert _blocks(kept, "bash")[2] == f"flagrelease image build {data.cell.id}\n"
    assert "registry.example.org/team/qwen3:bbbbbbbbbbbbbbbb sleep" in _blocks(kept, "bash")[3]


def test_hostile_values_stay_text() -> None:
    text = text_of(CARDS["hostile"])
    for table in _tables(text):
        assert len({len(row) for row in table}) == 1
    results = _tables(text)[0]
    shown = re.sub(r"[\n\u202e]", " ", HOSTILE).strip()
    assert [row[0] for row in results[1:]] == [shown, shown]
    kinds = {child.type for token in _tokens(text) for child in token.children or []}
    assert "html_inline" not in kinds
    assert "html_block" not in {token.type for token in _tokens(text)}
    assert "\u202e" not in text
    links = [child.attrs["href"] for token in _tokens(text) for child in token.children or [] if "href" in child.attrs]
    assert links[0] == "https://github.com/FlagOpen/FlagScale"
    assert all(str(link).startswith("evidence/") for link in links[1:])


def test_weights_come_from_where_the_cell_says() -> None:
    cell = card_data.container_cell()
    own = Names(download="FlagRelease/Qwen3-8B-FlagOS")
    text = text_of(card_data.card(cell.model_copy(update={"cell": cell.cell.model_copy(update={"names": own})})))
    assert "modelscope download --model FlagRelease/Qwen3-8B-FlagOS --local_dir /nfs/models/Qwen3-8B\n" in text
    assert "come from `Qwen/Qwen3-8B`." in text


def test_a_revision_of_the_weights_is_downloaded_said_and_asked_for_again() -> None:
    source = card_data.container_cell().model.source.model_copy(update={"revision": "v1.1"})
    cell = card_data.container_cell(source=source)
    text = text_of(card_data.card(cell))
    assert (
        "modelscope download --model Qwen/Qwen3-8B --revision v1.1 --local_dir /nfs/models/Qwen3-8B\n"
        in _blocks(text, "bash")[1]
    )
    (row,) = (row for table in _tables(text) for row in table if row[0] == "Weights revision")
    assert row[-1] == "v1.1"
    assert "flagrelease release qwen3-metax --revision v1.1\n" in text
    process = cell.cell.model_copy(update={"launcher": "process", "container": None})
    served = text_of(card_data.card(cell.model_copy(update={"cell": process})))
    assert "flagrelease serve qwen3-metax --port 9010 --revision v1.1\n" in served
    # Another repository has other revisions.
    own = cell.cell.model_copy(update={"names": Names(download="FlagRelease/Qwen3-8B-FlagOS")})
    text = text_of(card_data.card(cell.model_copy(update={"cell": own})))
    assert "modelscope download --model FlagRelease/Qwen3-8B-FlagOS --local_dir /nfs/models/Qwen3-8B\n" in text
    assert "revision" not in text_of(CARDS["container"]).casefold()


def test_commands_cannot_close_their_fence() -> None:
    cell = card_data.container_cell()
    cell = cell.model_copy(update={"cell": cell.cell.model_copy(update={"serve": ["```", "echo\n# Owned"]})})
    text = text_of(card_data.card(cell))
    assert _blocks(text, "bash")[-1] == "```\necho # Owned\n"
    assert _headings(text) == BEFORE_STEPS + CONTAINER_STEPS + AFTER_STEPS


def test_process_cell_without_package_downloads_its_weights() -> None:
    cell = card_data.process_cell("vllm")
    cell = cell.model_copy(update={"model": cell.model.model_copy(update={"weights": None})})
    text = text_of(card_data.card(cell))
    assert _headings(text) == [*BEFORE_STEPS, CONTAINER_STEPS[0], *PROCESS_STEPS, *AFTER_STEPS]
    assert "pip install flagrelease\n" in text


def test_names_are_generated_and_can_be_set() -> None:
    names = card_names(card_data.container_cell())
    assert names.release == "Qwen3-8B-metax-FlagOS"
    assert names.repository == "FlagRelease/Qwen3-8B-metax-FlagOS"
    assert names.container_release == "FlagOS-Metax"
    names = card_names(card_data.process_cell())
    assert (names.release, names.baseline_column, names.candidate_column) == (
        "SmolLM2-135M-Instruct-cpu-native",
        "SmolLM2-135M-Instruct-vLLM-bf16",
        "SmolLM2-135M-Instruct-native-cpu",
    )
    cell = card_data.container_cell()
    own = Names(release="a", baseline_column="b", candidate_column="c", container_release="d")
    names = card_names(cell.model_copy(update={"cell": cell.cell.model_copy(update={"names": own})}))
    assert list(names.model_dump().values()) == ["a", "b", "c", "d"]


def test_template_hash_changes_with_any_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert template_sha256() == template_sha256()
    monkeypatch.setattr(render_module, "_folder", lambda: tmp_path)
    (tmp_path / "a.j2").write_text("one")
    first = template_sha256()
    (tmp_path / "a.j2").write_text("two")
    second = template_sha256()
    (tmp_path / "a.j2").rename(tmp_path / "b.j2")
    assert len({first, second, template_sha256()}) == 3


def test_a_card_without_a_benchmark_says_what_the_canary_found() -> None:
    near = CanaryStatistics(positions=256, mean_abs_logprob=0.31, top1_agreement=0.41, kl=0.2)
    canary = CanaryResult(found=near, bars=near, passed=False, reasons=["too far"], worst=[2])
    whole = card_data.card(card_data.process_cell())
    gate = whole.gate.model_copy(
        update={"verdict": Verdict.REGRESSED, "rule": "canary", "benchmarks": [], "canary": canary, "hygiene": []}
    )
    text = text_of(whole.model_copy(update={"gate": gate, "rows": []}))
    assert "No benchmark was asked." in text
    assert "Every benchmark of the suite was run" not in text
    assert "At 256 places its log-probabilities differ by 0.3100 nats on average" in text
    assert "FAILED" in text


def test_a_card_with_published_scores_claims_no_more_than_they_prove() -> None:
    whole = card_data.card(card_data.process_cell())
    rows = [row.model_copy(update={"baseline_interval": None}) for row in whole.rows]
    published = ImportedBaseline(model="m", label="H100-CUDA", source="an old card", scores=[])
    gate = whole.gate.model_copy(update={"paired": False, "overrides": ["model m: margin_points 2 → 3 (its reason)"]})
    text = text_of(whole.model_copy(update={"gate": gate, "rows": rows, "baseline": None, "published": published}))
    assert "82.400 (as published)" in text
    assert "by totals alone" in text
    assert "(H100-CUDA, an old card): how they were measured is not known." in text
    assert "Thresholds of this release's own: model m: margin_points 2 → 3 (its reason)." in text
    assert "| Model | SmolLM2-135M-Instruct |\n| Chip | cpu |\n" in text
