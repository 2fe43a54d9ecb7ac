"""The small model served through transformers on torch, with torch's kernels or FlagGems', and what it is asked."""

from __future__ import annotations

import hashlib
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.parts import NotDoneError, Part
from evaluation.catalogue import load_benchmarks
from evaluation.harness.interface import Endpoint
from evaluation.run import HARNESSES, aggregate, evaluate
from flagrelease import __version__
from flagrelease.errors import ServerError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.policy import Policy
from flagrelease.records import Evaluation, Provenance, Stack
from flagrelease.settings import CHECKOUT
from runtime import operators, weights
from runtime.engines import engine
from runtime.engines.interface import ServeRequest
from runtime.launch.interface import Server, ServerSpec
from runtime.launch.process import ProcessLauncher, free_port, last_lines

Say = Callable[[str], None]
ENGINE = engine("torch_reference")
CELL = "smollm2-cpu"
"""Of the matrix: its model, and the policy that is judged by."""
BENCHMARK = "last_word"
LOG_LINES = 40
NAME, HOST = "small-model", "127.0.0.1"
STAND_IN = CHECKOUT / "tests/integration/stand_in_flag_gems"


class Small(NamedTuple):
    """What is served and judged."""

    weights: weights.Weights
    checkpoint: Path
    policy: Policy


@dataclass(frozen=True)
class How:
    """How the model is served."""

    stack: Stack
    dtype: str
    device: str
    stand_in: bool = False
    """Whether FlagGems is a stand-in, which hooks and lists torch's own operators."""

    @property
    def settings(self) -> dict[str, Any]:
        """The engine's."""
        return {"dtype": self.dtype, "device": self.device, "threads": 2 if self.device == "cpu" else 1}


def small_model(gguf: Path | None, folder: Path) -> Small:
    """The matrix's small model; its checkpoint is made in `folder` from the packaged GGUF file, or from `gguf`.

    Raises what `runtime.weights` does where the file is missing or another one.
    """
    cell = resolve(load_matrix(CHECKOUT / "matrix.yaml"), load_chips(), CELL)
    if gguf is None:
        found = weights.check(cell.model)
    else:
        with gguf.open("rb") as file:
            found = weights.Weights(gguf.absolute(), hashlib.file_digest(file, "sha256").hexdigest())
    return Small(found, weights.checkpoint(found, folder), cell.policy)


@contextmanager
def served(small: Small, how: How, part: Part, work: Path, say: Say) -> Iterator[tuple[Server, Endpoint]]:
    """The model served until the block, or the part's time, ends.

    Raises ServerError where it does not start; what is asked of it within the block raises where its time is over.
    """
    request = ServeRequest(small.checkpoint, NAME, HOST, free_port(HOST), how.stack)
    command = ENGINE.command(request, how.settings)
    if how.stand_in:
        command = command._replace(environment={**command.environment, "PYTHONPATH": str(STAND_IN)})
    log = work / "logs" / f"{part.name}.log"
    spec = ServerSpec(part.name, command, NAME, HOST, request.port, log, max(1.0, part.left()))
    try:
        with ProcessLauncher(work / "servers").start(spec, say) as server:
            part.found["ready_after_s"] = round(server.ready_after_s, 1)
            # The one thing that ends every kind of request at once.
            over = threading.Timer(part.left(), server.stop)
            over.daemon = True
            over.start()
            try:
                yield server, Endpoint(server.base_url, NAME, 1, lambda: _failure(server))
            finally:
                over.cancel()
    except ServerError:
        # The scratch folder may not be seen again.
        part.found["server_log"] = last_lines(log, LOG_LINES)
        raise


def _failure(server: Server) -> str | None:
    return None if server.alive() else server.exit_reason()


def timed(part: Part, what: str, work: Callable[[], Any]) -> Any:
    """What `work` returns; how long it took is kept under `<what>_s`."""
    begun = time.monotonic()
    found = work()
    part.found[f"{what}_s"] = round(time.monotonic() - begun, 1)
    return found


def listed(server: Server) -> list[str]:
    """Names of the operators of FlagGems that the server says ran."""
    content = server.read(operators.WRITTEN)
    return operators.parse(content.decode(errors="replace")) if content else []


def answers(small: Small, how: How, endpoint: Endpoint, *, items: int, part: Part, work: Path, say: Say) -> Evaluation:
    """Ask the served model so many questions of the benchmark."""
    benchmark = load_benchmarks()[BENCHMARK].model_copy(update={"items": items})
    answered = [0, 0]

    def progress(_: str, done: int, of: int) -> None:
        answered[:] = done, of

    try:
        found: Evaluation = timed(
            part,
            "evaluation",
            lambda: evaluate(
                [benchmark],
                endpoint,
                provenance(small, how),
                tasks=work / "tasks",
                journals=work / "journals" / part.name,
                progress=progress,
                log=say,
            ),
        )
    except ServerError as error:
        if part.left() > 0:
            raise
        said = f"its {part.budget_s:.0f} s were over with {answered[0]} of {answered[1]} questions answered"
        raise NotDoneError(said) from error
    (score,) = aggregate(found)
    part.found["evaluation"] = score.model_dump(mode="json")
    return found


def provenance(small: Small, how: How) -> Provenance:
    """Where what the served model answers comes from."""
    return Provenance(
        model=NAME,
        chip=how.device or "accelerator",
        stack=how.stack,
        engine=ENGINE.name,
        engine_version=ENGINE.version(),
        engine_settings=how.settings,
        weights_sha256=small.weights.sha256,
        chat_template_sha256=weights.chat_template_sha256(small.weights),
        tokenizer_sha256=weights.tokenizer_sha256(small.weights),
        harnesses={"lm_eval": HARNESSES["lm_eval"].version()},
        platform=f"{platform.machine()}, {platform.system()} {platform.release()}",
        code_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
