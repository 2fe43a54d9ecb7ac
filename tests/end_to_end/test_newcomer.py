"""What a newcomer does: clone, `make release`, read the card, serve the model, ask it, measure it again."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.commands import ROOT, card_scores, run, said
from tests.waiting import wait_for

CELL = "smollm2-cpu"
RELEASE_LIMIT_S = 300
pytestmark = [pytest.mark.needs("llama_cpp"), pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def bare() -> dict[str, str]:
    """An environment without the virtual environment that runs the tests, and with nothing set."""
    keep = {
        name: value for name, value in os.environ.items() if not name.startswith(("FLAGRELEASE", "PREFECT", "VIRTUAL"))
    }
    path = [part for part in os.environ["PATH"].split(":") if ".venv" not in part]
    return {**keep, "PATH": ":".join(path)}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, bare: dict[str, str]) -> Path:
    """A fresh clone in which `make release` was run."""
    home = tmp_path_factory.mktemp("newcomer")
    clone = home / "flagrelease"
    assert run("git", "clone", "--quiet", ROOT, clone, env=bare).returncode == 0
    start = time.monotonic()
    made = run("make", "release", env=bare | {"PREFECT_HOME": str(home / "prefect")}, cwd=clone)
    assert made.returncode == 0
    print(f"make release took {time.monotonic() - start:.0f} s (aim: {RELEASE_LIMIT_S} s on two free cores)")
    assert "evaluate: last_word" in said(made), "no progress was shown"
    for place in ("card:", "published (folder):", "evidence: items.jsonl:", "results:"):
        assert place in made.stdout
    return clone


@pytest.fixture(scope="module")
def card(clone: Path) -> str:
    return (clone / "output" / CELL / "README.md").read_text()


@contextmanager
def served_as_printed(clone: Path, card: str, bare: dict[str, str]) -> Iterator[str]:
    """The model, served by the very command on the card; yields the URL that its snippet uses."""
    command = next(line for line in card.splitlines() if line.startswith(f"flagrelease serve {CELL}"))
    url = re.search(r'base_url = "([^"]+)"', card)
    assert url is not None
    env = bare | {"PATH": f"{clone / '.venv/bin'}:{bare['PATH']}"}
    with (clone / "serve.log").open("wb") as log:
        server = subprocess.Popen(shlex.split(command), cwd=clone, env=env, stdout=log, stderr=log)

    def answers() -> bool:
        assert server.poll() is None, (clone / "serve.log").read_text()
        try:
            return httpx.get(f"{url.group(1)}models").is_success
        except httpx.TransportError:
            return False

    try:
        wait_for("an answer of the model's server", answers, 60)
        yield url.group(1)
    finally:
        server.terminate()
        server.wait(30)


def test_the_card_says_what_was_done(card: str) -> None:
    assert "CONSISTENT" in card
    assert set(card_scores(card)) == {"Last word", "Number sequence", "Addition"}
    assert "llama.cpp" in card


def test_a_second_run_runs_no_stage(clone: Path, bare: dict[str, str]) -> None:
    again = run("make", "release", env=bare, cwd=clone)
    assert again.returncode == 0
    assert "no stage was run" in again.stdout


def test_numbers_and_commands_of_the_card_hold(clone: Path, card: str, bare: dict[str, str]) -> None:
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 1
    work = clone / ".flagrelease/work"
    measured = {}
    with served_as_printed(clone, card, bare) as url:
        answer = run(
            shutil.which("python3", path=str(clone / ".venv/bin")) or "", "-c", _with_openai(snippets[0]), env=bare
        )
        assert answer.returncode == 0
        assert "content=" in answer.stdout
        for benchmark, display, route in (
            ("last_word", "Last word", "completions"),
            ("addition", "Addition", "chat/completions"),
        ):
            measured[display] = independent_score(clone, benchmark, f"{url}{route}", work, bare)
    found = card_scores(card)
    assert {name: found[name] for name in measured} == pytest.approx(measured, abs=0.0005)


def _with_openai(snippet: str) -> str:
    """The snippet, able to import openai from the environment that runs the tests."""
    import openai

    return f"import sys; sys.path.append({str(Path(openai.__file__).parents[1])!r})\n{snippet}"


def independent_score(clone: Path, benchmark: str, url: str, work: Path, bare: dict[str, str]) -> float:
    """Score in percent by lm-eval's own command line, from the same task file, on the served model."""
    tasks = next((work / "tasks").glob(f"{benchmark}-*"))
    out = clone / "independent" / benchmark
    chat = "chat" in url
    arguments = f"base_url={url},model=SmolLM2-135M-Instruct-cpu,num_concurrent=1,max_retries=2,tokenizer_backend=None"
    done = run(
        clone / ".venv/bin/lm-eval",
        "run",
        "--model",
        "local-chat-completions" if chat else "local-completions",
        "--model_args",
        arguments,
        "--tasks",
        benchmark,
        "--include_path",
        tasks,
        "--output_path",
        out,
        *(["--apply_chat_template"] if chat else []),
        env=bare | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"},
        cwd=clone,
    )
    assert done.returncode == 0
    results = json.loads(next(out.rglob("results_*.json")).read_text())["results"][benchmark]
    return 100 * float(next(value for name, value in results.items() if name.startswith("exact_match,")))
