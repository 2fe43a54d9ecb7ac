"""The adapter of `vllm bench serve`, the load generator. Nothing of its own words leaves this file and vllm_bench.py.

Every request asks for exactly as many tokens as its workload says (random text, end of text ignored, greedy), so all
systems do the same work.
"""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, cast
from urllib.parse import urlsplit

import numpy as np

from evaluation.harness.interface import Endpoint
from flagrelease.errors import HarnessError, PreflightError, ServerError
from flagrelease.policy import Workload
from flagrelease.records import SpeedPoint
from flagrelease.secrets import child_environment

DRIVER = Path(__file__).with_name("vllm_bench.py")
PERCENTILES = (50, 90, 99)
POLL_S = 0.5
START_TIMEOUT_S = 600.0
"""Importing vLLM takes seconds, the first time on a slow disk minutes."""
RUN_TIMEOUT_S = 3600.0
"""`vllm bench serve` itself waits six hours for an answer."""
DEATH_SEEN_S = 3.0
"""Requests fail a moment before it can be seen that the server is gone."""
LAST_LINES = 10
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TQDM_DISABLE": "1"}


def name(workload: Workload) -> str:
    """The workload's name: <input tokens>/<output tokens> x <concurrency>."""
    return f"{workload.input}/{workload.output} x {workload.concurrency}"


class Run(NamedTuple):
    """A workload, asked once: what the tool wrote, with details."""

    result: dict[str, Any]

    @property
    def output_throughput(self) -> float:
        """Output tokens a second."""
        return float(self.result["output_throughput"])

    @property
    def failed(self) -> int:
        """Requests without an answer."""
        return int(self.result["num_prompts"]) - int(self.result["completed"])

    @property
    def first_error(self) -> str:
        """Why the first of them failed: the last line of its error, which names the cause."""
        errors = [error.strip() for error in self.result["errors"] if error.strip()]
        return errors[0].splitlines()[-1][:300] if errors else "no reason given"


def point(workload: Workload, runs: Sequence[Run]) -> SpeedPoint:
    """The workload's figures from its repeats.

    Latencies are percentiles over the answered requests of all repeats together, as one repeat has too few for a p99.
    """
    results = [run.result for run in runs]
    answered = [(result, index) for result in results for index, error in enumerate(result["errors"]) if not error]
    ttft = [result["ttfts"][index] for result, index in answered]
    tpot = [
        sum(result["itls"][index]) / (result["output_lens"][index] - 1)
        for result, index in answered
        if result["output_lens"][index] > 1
    ]
    itl = [gap for result, index in answered for gap in result["itls"][index]]
    return SpeedPoint(
        workload=name(workload),
        input_tokens=workload.input,
        output_tokens=workload.output,
        concurrency=workload.concurrency,
        requests=workload.requests,
        request_throughput=[result["request_throughput"] for result in results],
        output_throughput=[run.output_throughput for run in runs],
        total_throughput=[result["total_token_throughput"] for result in results],
        ttft_ms=_percentiles(ttft),
        tpot_ms=_percentiles(tpot),
        itl_ms=_percentiles(itl),
        failed=sum(run.failed for run in runs),
    )


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds; none where nothing was timed, as for answers of one token."""
    if not seconds:
        return {}
    values = np.percentile(seconds, PERCENTILES)
    return {f"p{percent}": 1000 * float(value) for percent, value in zip(PERCENTILES, values, strict=True)}


class LoadGenerator:
    """The running load generator, and what it loads."""

    def __init__(self, process: subprocess.Popen[str], endpoint: Endpoint, tokenizer: Path, log_path: Path) -> None:
        self._input = cast("IO[str]", process.stdin)
        self._output = cast("IO[str]", process.stdout)
        self._endpoint = endpoint
        self._tokenizer = tokenizer
        self._log_path = log_path
        self.tool = f"vllm bench serve {self._answer(START_TIMEOUT_S).removeprefix('ready ')}"

    def run(self, workload: Workload, *, requests: int, seed: int, file: Path) -> Run:
        """Ask `requests` requests of the workload; prompts are decided by `seed`, the result is kept in `file`.

        Raises ServerError where the server died or hangs, HarnessError where the tool failed or nothing was answered.
        """
        options = [
            "--backend=openai",
            f"--base-url={self._endpoint.base_url}",
            "--endpoint=/v1/completions",
            f"--model={self._endpoint.served_name}",
            f"--tokenizer={self._tokenizer}",
            "--dataset-name=random",
            f"--random-input-len={workload.input}",
            f"--random-output-len={workload.output}",
            f"--num-prompts={requests}",
            f"--max-concurrency={workload.concurrency}",
            f"--seed={seed}",
            # llama.cpp closes a connection after an answer without saying so, and a request that uses it again fails.
            "--header=Connection=close",
            "--ignore-eos",
            "--temperature=0",
            "--ready-check-timeout-sec=0",
            "--disable-tqdm",
            "--save-result",
            "--save-detailed",
            f"--result-dir={file.parent}",
            f"--result-filename={file.name}",
        ]
        # A driver that is gone is noticed, with its reason, where its answer is read.
        with suppress(BrokenPipeError):
            self._input.write(json.dumps(options) + "\n")
            self._input.flush()
        self._answer(RUN_TIMEOUT_S)
        run = Run(json.loads(file.read_text()))
        if run.failed:
            self._require_alive()
        if run.failed == requests:
            raise HarnessError(
                f"the server answered none of {requests} requests of {name(workload)}: {run.first_error}",
                remedy="where prompt and answer exceed the engine's context, change the workload or the context",
            )
        return run

    def _require_alive(self) -> None:
        """Raise where the server died, which explains failed requests."""
        end = time.monotonic() + DEATH_SEEN_S
        while (gone := self._endpoint.failure()) is None and time.monotonic() < end:
            time.sleep(POLL_S)
        if gone:
            raise _died(gone)

    def _answer(self, timeout_s: float) -> str:
        """The next line of the driver."""
        end = time.monotonic() + timeout_s
        while not select.select([self._output], [], [], POLL_S)[0]:
            if gone := self._endpoint.failure():
                raise _died(gone)
            if time.monotonic() > end:
                raise ServerError(
                    f"a run of `vllm bench serve` did not end within {timeout_s / 60:.0f} minutes",
                    remedy=f"see the server's log for why it hangs, and {self._log_path}; or make the workload smaller",
                )
        line = self._output.readline().strip()
        if not line:
            last = "\n".join(f"    {text}" for text in self._log_path.read_text().splitlines()[-LAST_LINES:])
            raise HarnessError(
                f"`vllm bench serve` failed; last lines of {self._log_path}:\n{last}",
                remedy="the last line names the cause; is the tokenizer complete, and the vllm command a working one?",
            )
        return line


def _died(gone: str) -> ServerError:
    return ServerError(
        f"the server died while its speed was measured: {gone}",
        remedy="run the same command again; if it dies again, see its log, and try a lower concurrency",
    )


@contextmanager
def load_generator(vllm: Path, endpoint: Endpoint, tokenizer: Path, log_path: Path) -> Iterator[LoadGenerator]:
    """The load generator of the vllm command, for the time of a measurement; its output goes to `log_path`.

    It ends with this process, since its input then ends. Raises PreflightError where there is none.
    """
    # A command that was linked onto PATH lies beside its environment's Python.
    python = vllm.resolve().with_name("python")
    host = urlsplit(endpoint.base_url).hostname or ""
    with log_path.open("w") as output:
        try:
            process = subprocess.Popen(
                [python, str(DRIVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                # A proxy of the environment is for the world outside, not for the server; and it asks nobody else, so
                # it needs no token.
                env=child_environment({**QUIET, "NO_PROXY": host, "no_proxy": host}),
            )
        except OSError as error:
            raise PreflightError(
                f"speed is measured with `vllm bench serve`, and there is no vLLM at {vllm}: {error}",
                remedy="in a checkout: make vllm; elsewhere set FLAGRELEASE_VLLM to its vllm command",
            ) from error
        with process:
            try:
                yield LoadGenerator(process, endpoint, tokenizer, log_path)
            finally:
                process.kill()
