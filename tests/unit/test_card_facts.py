"""Facts are taken out of a card's tables and commands as they are printed; names are understood."""

from __future__ import annotations

import pytest

from flagrelease.card.data import Client
from flagrelease.card.facts import Download, Facts, MetricRow, facts
from flagrelease.card.names import NameParts, understand
from flagrelease.card.read import read_card
from flagrelease.card.shell import commands, docker_run
from flagrelease.loading import load_chips, load_matrix
from flagrelease.records import Stack
from tests.conftest import ROOT

MODELS, CHIPS = load_matrix(ROOT / "matrix.yaml").models, load_chips()
RUN = """\
#Container Startup
docker run -d -it --net=host -e USE_FLAGGEMS=1 \\
    --privileged=true --group-add video --shm-size '100gb' \\
    -v /a:/b:ro --volume=/nfs/:/nfs/\\
    --name flagos img:1 sleep infinity
docker exec -it flagos bash
"""


def of(text: str) -> Facts:
    return facts(read_card(text, source="card.md").card, MODELS, CHIPS)


def code(title: str, text: str) -> str:
    return f"### {title}\n\n```bash\n{text}\n```\n\n"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("MiniCPM-V-4-metax-FlagOS", ("MiniCPM-V-4", "minicpmv4", "metax", "metax", Stack.FLAGOS)),
        ("MiniCPM-V-4-H100-CUDA", ("MiniCPM-V-4", "minicpmv4", "H100", "nvidia", Stack.NATIVE)),
        ("MiniCPM-V-4-FlagOS-metax", ("MiniCPM-V-4", "minicpmv4", "metax", "metax", Stack.FLAGOS)),
        ("Qwen3-8B-Metax", ("Qwen3-8B", "qwen3", "Metax", "metax", None)),
        ("step3-FlagOS", ("step3", "step3", None, None, Stack.FLAGOS)),
        ("step3-nvidia-flagos", ("step3", "step3", "nvidia", "nvidia", Stack.FLAGOS)),
        (
            "FlagRelease/RoboBrain2.0-7B-metax-FlagOS",
            ("RoboBrain2.0-7B", "robobrain2-7b", "metax", "metax", Stack.FLAGOS),
        ),
        ("/nfs/models/Qwen3-8B/", ("Qwen3-8B", "qwen3", None, None, None)),
        ("ERNIE-4.5-300B-A47B-PT-FlagOS-Nvidia", ("ERNIE-4.5-300B-A47B-PT", None, "Nvidia", "nvidia", Stack.FLAGOS)),
        ("Qwen3-32B-FlagOS-ascend", ("Qwen3-32B", None, "ascend", "ascend", Stack.FLAGOS)),
        ("Hy4-preview-Zhenwu-FlagOS", ("Hy4-preview", None, "Zhenwu", "zhenwu", Stack.FLAGOS)),
        ("Qwen2.5-VL-32B", ("Qwen2.5-VL-32B", None, None, None, None)),
        ("metax", ("metax", None, None, None, None)),
        ("", ("", None, None, None, None)),
    ],
)
def test_names_are_understood(name: str, parts: tuple[object, ...]) -> None:
    assert tuple(understand(name, MODELS, CHIPS).model_dump().values()) == parts


def test_a_name_is_of_a_cell_where_the_matrix_knows_both() -> None:
    assert understand("Qwen3-8B-FlagOS-MetaX", MODELS, CHIPS).cell == "qwen3-metax"
    assert understand("Qwen9-8B-FlagOS-MetaX", MODELS, CHIPS).cell is None
    assert NameParts.model_fields["model"].is_required()


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("Metrics | X-H100-CUDA | X-FlagOS", ("X-H100-CUDA", "X-FlagOS")),
        ("Metrics | Report | X-Origin | X-FlagOS", ("X-Origin", "X-FlagOS")),
        ("Metrics | X-FlagOS-Origin | X-FlagOS-FlagOS", ("X-FlagOS-Origin", "X-FlagOS-FlagOS")),
        ("Metrics | X-H100-CUDA | X-H100-FlagOS", ("X-H100-CUDA", "X-H100-FlagOS")),
        ("Metrics | X-FlagOS | X-CUDA", ("X-CUDA", "X-FlagOS")),
        ("Metrics | before | after", ("before", "after")),
        ("Metrics | X-CUDA | X-FlagOS | Difference (points) | Verdict", ("X-CUDA", "X-FlagOS")),
        ("Metrics | X-FlagOS", (None, "X-FlagOS")),
    ],
)
def test_columns_of_the_results(header: str, columns: tuple[str | None, str]) -> None:
    found = of(f"## Benchmark Result\n\n| {header} |\n|{'---|' * (header.count('|') + 1)}\n| AIME\\_0 | 1 | 2 | 3 |\n")
    assert (found.baseline_column, found.candidate_column) == columns
    assert found.metrics[0].metric == "AIME_0"


def test_results_are_known_by_their_first_column_where_no_heading_says_so() -> None:
    other = "# Transformers version\n\n| a | b |\n|---|---|\n| 0 | 0 |\n\n"
    results = "| Metrics | A | B |\n|---|---|---|\n| x | - | 1.0 |\n"
    assert of(other + results).metrics == [MetricRow(metric="x", baseline="-", candidate="1.0")]


def test_a_driver_row_in_the_header_is_a_row() -> None:
    table = "# User Guide\n\n| {} | {} |\n|---|---|\n| `FlagGems` | Version:  3.0 |\n"
    assert of(table.format("Driver Version", "2.3.0")).environment == {
        "Driver Version": "2.3.0",
        "FlagGems": "Version:  3.0",
    }
    assert of(table.format("Item", "Version")).environment == {"FlagGems": "Version:  3.0"}


def test_commands() -> None:
    found = of(
        code("Download Weights", "pip install modelscope\nmodelscope download --model a/b --local_dir /data/b")
        + code("Download FlagOS Image", "# docker pull old\ndocker pull img:1")
        + code("Start the Container", RUN)
        + code("Serve", "export A=1\nQWEN3_PORT=8100 flagscale serve qwen3")
    )
    assert found.download == Download(hub="modelscope", repository="a/b", directory="/data/b")
    assert (found.images_pulled, found.images_run) == (["img:1"], ["img:1"])
    assert found.run_options[:5] == ["-d", "-it", "--net=host", "-e", "USE_FLAGGEMS=1"]
    assert found.container_name == "flagos"
    assert found.mounts == [("/a", "/b"), ("/nfs/", "/nfs/")]
    assert found.run_command == ["sleep", "infinity"]
    assert found.serve == ["export A=1", "QWEN3_PORT=8100 flagscale serve qwen3"]
    assert (found.server, found.serve_name, found.serve_port, found.served_model) == ("flagscale", "qwen3", 8100, None)


@pytest.mark.parametrize(
    ("command", "name", "port"),
    [
        ("vllm serve /data/M --port 9010", "/data/M", 9010),
        ("nohup vllm serve \\\n  --model /data/M \\\n  --served-model-name m > log 2>&1 &", "m", None),
        (
            "docker exec x bash -lc 'export B=2; exec python3 -m vllm.entrypoints.cli.main serve /M --port=8001'",
            "/M",
            8001,
        ),
        ("cd /a && A=1 \\\nvllm serve $HOME/M --served-model-name m", "m", None),
    ],
)
def test_what_vllm_serves(command: str, name: str, port: int | None) -> None:
    found = of(code("Start the Server", command))
    assert (found.server, found.serve_name, found.served_model, found.serve_port) == ("vllm", name, name, port)


def test_serving_is_found_where_no_heading_says_so_and_in_a_printed_configuration() -> None:
    found = of(
        code(
            "How to Run",
            "flagscale serve qwq\n- serve_id: x\n  engine_args:\n    served_model_name: q  # x\n    port: 30000",
        )
    )
    assert (found.serve, found.serve_port, found.served_model) == (["flagscale serve qwq"], 30000, "q")


def test_variables_of_a_block_are_filled_in() -> None:
    found = of(code("Start the Container", 'IMAGE=\'img:2\'\nNAME=box\ndocker run --name "$NAME" "${IMAGE}" $OTHER'))
    assert (found.container_name, found.images_run, found.run_command) == ("box", ["img:2"], ["$OTHER"])


def test_requests_with_curl() -> None:
    chat = """curl -s http://<server_ip>:8121/v1/chat/completions \\\n -H "A: b" \\\n -d '{\n "model": "m",
  "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5\n}'"""
    plain = """curl http://localhost:8032/v1/completions -d '{"model":"n","prompt":"x","temperature":0}'"""
    found = of(code("Invocation Script", chat) + code("Invocation Script", plain))
    assert found.clients == [
        Client(
            base_url="http://<server_ip>:8121/v1/",
            model="m",
            messages=[{"role": "user", "content": "hi"}],
            parameters={"max_tokens": 5},
        ),
        Client(
            base_url="http://localhost:8032/v1/",
            model="n",
            messages=[],
            parameters={"prompt": "x", "temperature": 0},
        ),
    ]
    assert found.client_ports == [8121, 8032]


def test_a_snippet_that_stays_code_is_a_client_too() -> None:
    text = 'from openai import OpenAI\nclient = OpenAI(base_url="http://h:1/v1")\nM = "m"\n'
    text += 'print(client.chat.completions.create(model=M, messages=[{"role": "user", "content": "x"}], n=2))'
    (client,) = of(code("Invocation Script", text)).clients
    assert (client.base_url, client.model, client.parameters) == ("http://h:1/v1", "m", {"n": 2})


@pytest.mark.parametrize(
    ("line", "options", "image", "command"),
    [
        ("sudo docker run -itd --rm img", ["-itd", "--rm"], "img", []),
        ("docker run -v/a:/b -e A=1 -u 0 img -c x", ["-v/a:/b", "-e", "A=1", "-u", "0"], "img", ["-c", "x"]),
        ("podman run --gpus all --init img", ["--gpus", "all", "--init"], "img", []),
        ("docker run -d -exec -it img", ["-d", "-exec", "-it"], "img", []),
        ("docker run --name", ["--name"], None, []),
    ],
)
def test_docker_run_is_taken_apart(line: str, options: list[str], image: str | None, command: list[str]) -> None:
    (found,) = commands([line])
    assert docker_run(found) == (options, image, command)


def test_text_that_no_shell_accepts_is_still_split() -> None:
    found = commands(["echo it's", "docker pull x", "", "# a comment", "cd"])
    assert [command.words for command in found] == [["echo", "it's"], ["docker", "pull", "x"], ["cd"]]
    assert [command.words for command in commands(["ls 'a", "b' # it's", "cd"])] == [["ls", "a\nb"], ["cd"]]


def test_mounts_of_either_option() -> None:
    text = "docker run --mount type=bind,source=/nfs,target=/models -v /a:/b img:1"
    assert of(code("Start the inference service", text)).mounts == [("/a", "/b"), ("/nfs", "/models")]
