"""Every rule: a card that it finds, and one close to it that it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from flagrelease.card.lint import RULES
from tests.unit.lint_cards import Change, changed, found, good

RUN = "flagrelease_metax_qwen3_8b:latest bash"
IMAGE = "harbor.baai.ac.cn/flagrelease-public/flagrelease_metax_qwen3_8b:latest"
NAMED = "harbor.baai.ac.cn/flagrelease-public/flagrelease-metax-release-model_qwen3-8b-tree_none-gems_3.0-scale_0.8.0"
AIME = "| AIME_0fewshot_@avg1 | 0.700 | 0.733 | 30 |"
GPQA = "| GPQA_0fewshot_@avg1 | 0.507 | 0.503 | 1192 |"
LIVE = "| LiveBench-0fewshot_@avg1 | 0.502 | 0.488 | 1000 |"
MMLU = "| MMLU_5fewshot_@avg1 | 0.699 | 0.699 | 12032 |"
MUSR = "| MUSR_0fewshot_@avg | 0.602 | 0.607 | 756 |"
ROWS = "\n".join([AIME, GPQA, LIVE, MMLU, MUSR])
HEADER = "| Metrics | Qwen3-8B-H100-CUDA | Qwen3-8B-Metax-FlagOS | n |"
UNCOUNTED = HEADER.replace("| n |", "| note |")
EMBODIED = "\n".join(
    [
        "| erqa | 38.750 | 38.500 | 400 |",
        "| Where2Place | 1.22 | 0.11 | 100 |",
        "| cv_bench_test | 85.750 | 85.760 | 2638 |",
    ]
)
VISION = "| CMMMU | 65.69 | 65.24 | 900 |\n| MMMU | 71.3 | 70.86 | 900 |"
SERVE = "flagscale serve qwen3"
MODEL = 'model = "/nfs/models/Qwen3-8B/"'
CONTRIBUTING = "Developers everywhere are welcome."
VLLM = "vllm serve /nfs/models/Qwen3-8B"


class Example(NamedTuple):
    """Changes to the card without faults."""

    rule: str
    changes: list[Change]
    says: str = ""
    """What the finding's cause must say."""


BAD = [
    Example("identity-mismatch", [("**Qwen3-8B-Metax** is", "**phi-4-Metax** is")], "`phi-4-Metax`"),
    Example("identity-mismatch", [("Qwen3-8B-Metax-FlagOS |", "Qwen3-4B-Metax-FlagOS |")], "candidate column"),
    Example("identity-mismatch", [(MODEL, 'model = "Qwen3-14B-metax-flagos"')], "`Qwen3-14B-metax-flagos`"),
    Example("identity-mismatch", [("# Contributing", "# Qwen2.5-7B-FlagOS\n\n# Contributing")], "heading"),
    Example("repeated-name-part", [("Qwen3-8B-Metax-FlagOS |", "Qwen3-8B-FlagOS-FlagOS |")], "`flagos` twice"),
    Example("chip-mismatch", [("for the Metax chip", "for the Hygon chip")], "introduction (`Hygon`) says Hygon"),
    Example("chip-mismatch", [(MODEL, 'model = "Qwen3-8B-nvidia-flagos"')], "says Nvidia"),
    Example("chip-mismatch", [("FlagOS-Metax**", "FlagOS-Huawei**")], "container image (`FlagOS-Huawei`) says Ascend"),
    Example("chip-mismatch", [(IMAGE, f"{NAMED}-torch_musa-2.5.0-gpu_metax001:1")], "says Mthreads"),
    Example("chip-mismatch", [("| FlagGems | Version: 3.0 |", "| CANN | 8.3.RC2 |")], "environment table (`CANN`)"),
    Example("weights-of-another-model", [("--model Qwen/Qwen3-8B", "--model Qwen/Qwen3-VL-8B")], "Qwen/Qwen3-VL-8B"),
    Example(
        "weights-of-another-model", [("--local_dir /nfs/models/Qwen3-8B", "--local_dir /nfs/Qwen3-4B")], "/nfs/Qwen"
    ),
    Example("licence-of-another-model", [("from `Qwen/Qwen3-8B`", "from `Qwen/Qwen3-4B`")], "`Qwen/Qwen3-4B`"),
    Example("wrong-licence", [("under Apache-2.0:", "under MIT:")], "under Apache-2.0"),
    Example("wrong-licence", [("license: apache-2.0", "license: gemma")], "`gemma`"),
    Example("image-of-another-model", [(IMAGE, IMAGE.replace("qwen3_8b", "robobrain2_32b"))], "`robobrain2-32b`"),
    Example("image-of-another-model", [(IMAGE, f"{NAMED}:1".replace("qwen3-8b", "qwen3-4b"))], "`qwen3-4b`"),
    Example("image-of-another-model", [(IMAGE, IMAGE.replace("qwen3_8b", "qvq"))], "`qvq`"),
    Example("image-of-another-model", [(IMAGE, "h.cn/p/glm-5-metax001-gems5.0:1")], "`glm-5`"),
    Example("driver-of-another-vendor", [("Version: 3.3.12", "Kernel Mode Driver Version: 2.3.0")], "Moore Threads"),
    Example("driver-of-another-vendor", [("Version: 3.3.12", "Driver Version: 570.158.01")], "NVIDIA"),
    Example("driver-of-another-vendor", [("Version: 3.3.12", "6.3.13-V1.12.0a")], "Hygon"),
    Example("driver-of-another-vendor", [("Version: 3.3.12", "Version: 25.0.rc1")], "Huawei"),
    Example("devices-of-another-chip", [("--group-add video", "--gpus all")], "`--gpus` (Nvidia)"),
    Example("devices-of-another-chip", [("--device=/dev/mxcd", "--device=/dev/davinci3")], "`--device=/dev/davinci3`"),
    Example("devices-of-another-chip", [(SERVE, f"MUSA_VISIBLE_DEVICES=0 {SERVE}")], "(Mthreads)"),
    Example("run-image-not-pulled", [(RUN, "flagrelease_metax_qwen3_4b bash")], "the card pulls"),
    Example("private-image", [("flagrelease-public", "flagrelease-inner")], "`flagrelease-inner`"),
    Example("private-image", [("flagrelease-public", "models.internal")], "`models.internal`"),
    Example("private-image", [("harbor.baai.ac.cn", "192.168.1.7:5000")], "nobody outside reaches"),
    Example("image-without-registry", [(IMAGE, "baai:v5")], "`baai:v5`"),
    Example(
        "image-versions-differ", [(IMAGE, f"{NAMED}:1".replace("gems_3.0", "gems_4.1"))], "FlagGems 3.0 here and 4.1"
    ),
    Example("image-versions-differ", [(IMAGE, f"{NAMED}-driver_3.3.9:1")], "Driver Version 3.3.12 here and 3.3.9"),
    Example("broken-run-command", [("docker run -d -it", "docker run -d -exec -it")], "`-exec`"),
    Example("broken-run-command", [("--name qwen3_8b_release ", f"--name {IMAGE} ")], "cannot be a container's name"),
    Example("broken-run-command", [(f"           {IMAGE} bash", "           bash")], "`bash` stands where"),
    Example("port-mismatch", [(SERVE, f"{VLLM} --port 9010")], "listens on 9010, but a request goes to 8000"),
    Example("port-mismatch", [(SERVE, VLLM), (":8000/v1", ":8010/v1")], "listens on 8000, but a request goes to 8010"),
    Example("port-mismatch", [("-e USE_FLAGGEMS=1", "-e QWEN3_PORT=8100")], "listens on 8100"),
    Example("port-mismatch", [(SERVE, f"{VLLM} --port 9010"), ("--net=host", "-p 8001:9010")], "listens on 8001"),
    Example("port-mismatch", [(CONTRIBUTING, "Open port 9010 of the firewall.")], "opens port 9010"),
    Example("name-not-served", [(SERVE, VLLM), (MODEL, 'model = "flagOS"')], "`flagOS`"),
    Example("name-not-served", [(SERVE, f"{VLLM} --served-model-name qwen")], "offers `qwen`"),
    Example("weights-not-mounted", [("-v /nfs/:/nfs/", "-v /share:/share")], "the container sees"),
    Example("weights-not-mounted", [(MODEL, 'model = "/models/Qwen3-8B"')], "`/models/Qwen3-8B` is served"),
    Example("weights-not-mounted", [(SERVE, "QWEN3_PATH=/data/Qwen3-8B flagscale serve qwen3")], "`/data/Qwen3-8B`"),
    Example("no-results", [(ROWS, f"{AIME.replace('0.733', '-')}")], "no benchmark"),
    Example("implausible-jump", [(MMLU, "| MMLU | 0.669 | 0.758 | 12032 |")], "+8.9 points are 15 standard errors"),
    Example("implausible-jump", [(ROWS, EMBODIED)], "Where2Place: one score is 11 times the other"),
    Example("implausible-jump", [(LIVE, "| LiveBench | 0.502 | 0.388 | – |")], "LiveBench: -11.4 points"),
    Example("unexplained-difference", [(GPQA, "| GPQA | 0.507 | 0.596 | 1192 |")], "4.4 standard errors"),
    Example(
        "unexplained-difference",
        [
            (GPQA, "| GPQA | 0.507 | 0.547 | 1192 |"),
            (MMLU, "| MMLU | 0.699 | 0.719 | 12032 |"),
            (MUSR, "| MUSR | 0.602 | 0.667 | 756 |"),
        ],
        "all 4 rows moved up",
    ),
    Example("score-near-nothing", [(ROWS, EMBODIED)], "1.22 % right"),
    Example("mixed-scales", [(ROWS, f"{EMBODIED}\n{GPQA}")], "prints percent, but not in GPQA"),
    Example("mixed-scales", [(AIME, "| AIME | 70.0 | 73.3 | 30 |")], "prints shares of 1, but not in AIME"),
    Example("mixed-scales", [(ROWS, EMBODIED.replace("38.750", "0.3875"))], "erqa"),
    Example("mixed-scales", [(ROWS, EMBODIED.replace("85.7", "857"))], "cv_bench_test"),
    Example(
        "mislabelled-benchmark", [(ROWS, f"{VISION}\n| MMLU_Pro_vision | 48.7 | 48.8 | 1730 |")], "`MMMU_Pro_vision`"
    ),
    Example("benchmark-twice", [(MUSR, f"{MUSR}\n{MUSR.replace('0fewshot', '0shot')}")], "`MUSR_0shot_@avg`"),
    Example("missing-n", [(HEADER, UNCOUNTED)], "how many questions"),
    Example("score-does-not-fit", [(HEADER, UNCOUNTED), (AIME, "| AIME | 0.715 | 0.733 | |")]),
    Example(
        "swapped-columns",
        [
            (GPQA, "| GPQA | 0.61 | 0.507 | |"),
            (LIVE, "| LiveBench | 0.6 | 0.502 | |"),
            (MUSR, "| MUSR | 0.65 | 0.602 | |"),
        ],
        "Qwen3-8B-metax.md in GPQA",
    ),
    Example(
        "copied-scores",
        [(ROWS, "| AIME | 43.33 | 50 | 30 |\n| GPQA | 64.26 | 65.18 | |\n| MMLU | 77.75 | 77.93 | |")],
        "MiniMax-M2-nvidia.md",
    ),
    Example(
        "equal-columns",
        [
            (AIME, AIME.replace("0.733", "0.700")),
            (GPQA, GPQA.replace("0.503", "0.507")),
            (LIVE, LIVE.replace("0.488", "0.502")),
            (MUSR, MUSR.replace("0.607", "0.602")),
        ],
        "all 5",
    ),
    Example("baseline-differs", [(GPQA, GPQA.replace("0.507", "0.557"))], "in GPQA_0fewshot_@avg1"),
    Example(
        "baseline-differs",
        [(GPQA, GPQA.replace("0.507", "0.557")), ("H100-CUDA", "A100-CUDA")],
        "(there on h100cuda, here on a100cuda)",
    ),
    Example("placeholder", [(CONTRIBUTING, "新模型介绍，待定....")], "`待定`"),
    Example("placeholder", [("0.488", "Evaluating")], "`Evaluating`"),
    Example("placeholder", [("--local_dir /nfs/models/Qwen3-8B", "--local_dir <Download URL>")], "`<Download URL>`"),
    Example("placeholder", [(CONTRIBUTING, "See <Model>.")], "`<Model>`"),
    Example("placeholder", [(CONTRIBUTING, "TODO: say who.")], "`TODO`"),
    Example("placeholder", [(CONTRIBUTING, "Made by {{ vendor }}.")], "`{{ vendor }}`"),
    Example("empty-metadata", [("base_model: Qwen/Qwen3-8B", 'base_model:\n- ""')], "`base_model`"),
    Example("dead-link", [(CONTRIBUTING, "![us](image_.jpeg)")], "`image_.jpeg`"),
    Example("dead-link", [(CONTRIBUTING, "See [the guide](docs/guide.md#start).")], "`docs/guide.md#start`"),
    Example("unbalanced-bold", [("**FlagEval (Libra)**, started", "FlagEval (Libra)**, started")]),
    Example("unbalanced-bold", [(CONTRIBUTING, "**Developers everywhere are welcome.")]),
    Example(
        "unclosed-code", [("qwen3_8b:latest\n```\n\n### Start", "qwen3_8b:latest\n\n### Start")], "another one opens"
    ),
    Example("unclosed-code", [("# License", "```bash\n# License")], "the file ends"),
    Example("cut-sentence", [(CONTRIBUTING, "Compared on multiple public.\n")], "`multiple public.`"),
    Example("no-final-newline", [("LICENSE-2.0.txt>\n", "LICENSE-2.0.txt>")]),
]

FINE = [
    Example("identity-mismatch", [("**Qwen3-8B-Metax** is", "**Qwen3** is")]),
    Example("identity-mismatch", [(MODEL, 'model = "qwen_flagos"')]),
    Example("identity-mismatch", [("Qwen3-8B-Metax-FlagOS |", "Qwen3_8B-Instruct-FlagOS-muxi |")]),
    Example("chip-mismatch", [(IMAGE, f"{NAMED}-cuda12.9-gpu_metax-arc_arm64:1")]),
    Example("chip-mismatch", [("Qwen3-8B-H100-CUDA", "Qwen3-8B-Nvidia-Origin")]),
    Example("weights-of-another-model", [("--model Qwen/Qwen3-8B", "--model FlagRelease/Qwen3-8B-metax-FlagOS")]),
    Example(
        "weights-of-another-model", [("--local_dir /nfs/models/Qwen3-8B", "--local_dir /nfs/Qwen3-8B-w8a8-MindIE")]
    ),
    Example("weights-of-another-model", [("--local_dir /nfs/models/Qwen3-8B", "--local_dir /nfs/disk1")]),
    Example("port-mismatch", [(CONTRIBUTING, "TensorBoard uses port 6006.")]),
    Example("licence-of-another-model", [("from `Qwen/Qwen3-8B`", "from https://github.com/QwenLM/Qwen3")]),
    Example("wrong-licence", [("under Apache-2.0:", "under the Apache License 2.0:")]),
    Example("image-of-another-model", [(IMAGE, IMAGE.replace("qwen3_8b", "qwen3"))]),
    Example("driver-of-another-vendor", [("Version: 3.3.12", "Version: 9.9.9")]),
    Example("devices-of-another-chip", [("--group-add video", "--device=/dev/infiniband -v /usr/local/:/usr/local/")]),
    Example("run-image-not-pulled", [(RUN, RUN.replace(":latest", ""))]),
    Example("private-image", [("flagrelease-public", "external-cooperation")]),
    Example("image-without-registry", [(IMAGE, "vllm/vllm-openai:v0.20.2")]),
    Example("image-versions-differ", [(IMAGE, f"{NAMED}-cx_none-python_3.10.10-driver_3.3.12:1")]),
    Example("port-mismatch", [(SERVE, VLLM)]),
    Example("port-mismatch", [(SERVE, f"{VLLM} --port 9010"), ("--net=host", "-p 8000:9010")]),
    Example("name-not-served", [(SERVE, f"{VLLM} --served-model-name a b"), (MODEL, 'model = "b"')]),
    Example("weights-not-mounted", [("-v /nfs/:/nfs/", "-v /nfs/models:/m"), (MODEL, 'model = "/m/Qwen3-8B/v1"')]),
    Example(
        "weights-not-mounted", [("-v /nfs/:/nfs/", "-v /nfs:/a -v /nfs/models:/m"), (MODEL, 'model = "/m/Qwen3-8B"')]
    ),
    Example("implausible-jump", [(AIME, "| AIME | 0.200 | 0.100 | 30 |")]),
    Example("unexplained-difference", [(GPQA, "| GPQA | 0.507 | 0.540 | 1192 |")]),
    Example("mixed-scales", [(ROWS, EMBODIED)]),
    Example("mislabelled-benchmark", [(ROWS, f"{VISION}\n| MMMU_Pro_vision | 48.7 | 48.8 | 1730 |")]),
    Example("benchmark-twice", [(MUSR, f"{MUSR}\n| MMLU_Pro | 0.6 | 0.6 | 12032 |")]),
    Example("missing-n", [(HEADER, UNCOUNTED), (ROWS, f"{ROWS}\n\n1,192 questions were asked.")]),
    Example("swapped-columns", [(GPQA, "| GPQA | 0.61 | 0.507 | |")]),
    Example("copied-scores", [(ROWS, "| AIME | 43.33 | 50 | 30 |\n| GPQA | 64.26 | 65.18 | |\n| MMLU | 70 | 70 | |")]),
    Example("baseline-differs", [(ROWS, "| AIME | 70.0 | 73.3 | 30 |\n| MMLU | 69.87 | 70 | |")]),
    Example("placeholder", [(CONTRIBUTING, "Each pair of <chip + model> at http://<server_ip>:8000/v1/.")]),
    Example("placeholder", [("0.488", "-")]),
    Example("placeholder", [(SERVE, "docker ps --format '{{.Names}}'")]),
    Example("dead-link", [(CONTRIBUTING, "[a](https://b.c/d), [e](#license), [us](there.png), `[f](g.md)`")]),
    Example("unbalanced-bold", [(CONTRIBUTING, "**Developers\neverywhere** and ***all*** get `a**b` of 2**10.")]),
    Example("unclosed-code", [(CONTRIBUTING, "````markdown\n```bash\nls\n```\n````\n")]),
    Example("cut-sentence", [(CONTRIBUTING, "Compared on multiple public benchmarks.\nSee the list of")]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "there.png").touch()
    return tmp_path


def test_the_card_without_faults_has_none(folder: Path) -> None:
    assert [found(good(), rule.name, folder=folder) for rule in RULES] == [[]] * len(RULES)


@pytest.mark.parametrize("example", BAD, ids=lambda example: example.rule)
def test_it_is_found(example: Example, folder: Path) -> None:
    text = changed(good(), *example.changes)
    hits = found(text, example.rule, folder=folder)
    assert hits, f"{example.rule} does not find it"
    assert any(example.says in hit.cause for hit in hits), [hit.cause for hit in hits]
    assert all(hit.remedy for hit in hits)
    lines = text.split("\n")
    assert all(1 <= hit.line <= len(lines) for hit in hits if hit.line is not None)


@pytest.mark.parametrize("example", FINE, ids=lambda example: example.rule)
def test_what_is_right_is_left_alone(example: Example, folder: Path) -> None:
    assert [hit.cause for hit in found(changed(good(), *example.changes), example.rule, folder=folder)] == []


@pytest.mark.parametrize(
    ("rule", "change", "line"),
    [
        ("driver-of-another-vendor", ("Version: 3.3.12", "Version: 2.3.0"), "| Accelerator Card Driver Version | "),
        ("implausible-jump", (MMLU, "| MMLU | 0.669 | 0.758 | 12032 |"), "| MMLU | "),
        ("licence-of-another-model", ("from `Qwen/Qwen3-8B`", "from `Qwen/Qwen3-4B`"), "The weights of this model"),
        ("placeholder", ("0.488", "Evaluating"), "| LiveBench-0fewshot_@avg1 | "),
        ("run-image-not-pulled", (RUN, "h.cn/p/other:1 bash"), "           harbor.baai.ac.cn"),
    ],
)
def test_a_finding_names_its_line(rule: str, change: Change, line: str) -> None:
    text = changed(good(), change)
    number = found(text, rule)[0].line
    assert number is not None
    assert text.split("\n")[number - 1].startswith(line)


def test_every_rule_has_an_example_and_a_row_in_the_documentation() -> None:
    assert {rule.name for rule in RULES} == {example.rule for example in BAD}
    rows = (Path(__file__).parents[2] / "docs" / "card-lint.md").read_text().splitlines()
    for rule in RULES:
        expected = f"| `{rule.name}` | {rule.severity} | {rule.finds} | {rule.remedy} |"
        assert expected.replace("|`", "`") in rows, f"docs/card-lint.md lacks the row {expected}"
    assert len([row for row in rows if row.startswith("| `")]) == len(RULES)
