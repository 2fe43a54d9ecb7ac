"""How fast an evaluation asks, against the fastest it could: `python -m benchmarks.evaluation_throughput [--real]`.

The same questions are asked of the same server, in turn, by `LmEval.measure` (which finds its concurrency, keeps each
answer in its journal and scores it) and by a bare asyncio client with that many requests in flight. The server is a
stand-in that takes 20 ms an answer however many it is asked at once; with --real it is llama.cpp with the model of
smollm2-cpu. Printed: answers a second of both, medians over the rounds, and their ratio; the aim is at least 0.9.
Reading the questions happens once a benchmark, and is printed apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from evaluation.catalogue import prepare
from evaluation.harness.interface import Endpoint, Selection
from evaluation.harness.lm_eval import LmEval
from tests.integration.evaluations import endpoint, last_word, nothing, stand_in
from tests.integration.test_lm_eval import llama

AIM = 0.9
ROUNDS = 3
DELAY_S = "0.02"


async def ask_directly(url: str, prompts: list[str], at_once: int) -> None:
    """Send the prompts and read the answers, and nothing else."""
    waiting = iter(prompts)

    async def worker(session: aiohttp.ClientSession) -> None:
        for prompt in waiting:
            body = {"prompt": prompt, "model": "m", "max_tokens": 6, "temperature": 0, "stop": ["\n"], "seed": 1234}
            async with session.post(f"{url}/v1/completions", json=body) as response:
                assert (await response.json())["choices"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(worker(session) for _ in range(at_once)))


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def server(folder: Path, *, real: bool, at_once: int) -> Iterator[Endpoint]:
    """The server that is asked."""
    with llama(folder) if real else stand_in(folder, "--delay", DELAY_S) as running:
        yield endpoint(running, at_once)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", action="store_true", help="ask llama.cpp, one request at a time")
    parser.add_argument("--concurrency", type=int, default=16, help="requests in flight at the stand-in")
    options = parser.parse_args()
    items, at_once = (100, 1) if options.real else (3000, options.concurrency)
    with tempfile.TemporaryDirectory() as name, server(Path(name), real=options.real, at_once=at_once) as at:
        folder = Path(name)
        prepared = prepare(last_word(items), folder / "tasks")
        harness = LmEval()
        reading = seconds(lambda: harness.questions(prepared))
        assert isinstance(prepared.benchmark.task, dict)
        template = prepared.benchmark.task["doc_to_text"]
        prompts = [template.replace("{{words}}", question["words"]) for question in questions(prepared.folder)]
        ours, bare = [], []
        for number in range(ROUNDS):
            bare.append(seconds(lambda: asyncio.run(ask_directly(at.base_url, prompts, at_once))))
            journal = folder / f"journal-{number}.jsonl"
            ours.append(seconds(lambda: harness.measure(prepared, at, journal, nothing, Selection())))  # noqa: B023
    rates = [items / statistics.median(each) for each in (ours, bare)]
    print(f"{items} questions, up to {at_once} at once, median of {ROUNDS} rounds, load {os.getloadavg()[0]:.1f}")
    print(f"reading the questions: {reading:.1f} s, once")
    print(f"{'LmEval.measure':<16}{rates[0]:>8.1f} answers/s   rounds {', '.join(f'{s:.2f}' for s in ours)} s")
    print(f"{'bare client':<16}{rates[1]:>8.1f} answers/s   rounds {', '.join(f'{s:.2f}' for s in bare)} s")
    print(f"{'ratio':<16}{rates[0] / rates[1]:>8.2f}   (aim: at least {AIM})")


def questions(folder: Path) -> list[dict[str, Any]]:
    """The questions of a prepared benchmark."""
    return [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main()
