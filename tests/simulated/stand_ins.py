"""Stand-ins for what only a chip, an engine or Docker can do. Everything else of a release is the real thing.

What they hand on says that it is simulated: the platform in the provenance, the server's log, the image's name.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import flows.job
import flows.release
import flows.serving
import flows.stages
import flows.tasks
import flows.tiers
import runtime.weights
from evaluation.harness.interface import Progress
from evaluation.run import aggregate
from flagrelease.errors import EvidenceError, ServerError
from flagrelease.pipeline import ReleaseRun, StageOutput
from flagrelease.records import CellImage, Evaluation, Item, Stage, digest
from flagrelease.settings import Settings
from flagrelease.store.models import ReleaseRow
from flows.job import Job
from flows.session import Session
from runtime.image.build import BuiltImage
from runtime.image.provide import Provided
from runtime.launch.interface import Log, Server
from runtime.weights import Weights
from tests.simulated.simulation import Simulation

PLATFORM = "simulated: no model was asked"
CHANGED = 2
"""Pairs of answers that are changed, one for the better and one for the worse: noise, and no loss."""
PAUSES = (1.0, 2.0)
"""Before a stage is tried again, in units of the simulation's scale."""
LOST = 25
"""Right answers that a cell with the fault `regressed` loses, of 250."""


def install(simulation: Simulation, replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Put the stand-ins into the places of what they stand for; `replace` sets an attribute, as setattr does."""
    simulated = Stand(simulation)
    replace(flows.job, "check_host", simulated.check_host)
    replace(flows.serving, "start_server", simulated.start_server)
    replace(flows.serving, "provided_image", simulated.provided_image)
    replace(flows.stages, "at_hand", simulated.at_hand)
    replace(flows.stages, "evaluate_served", simulated.evaluate_served)
    replace(flows.tiers, "canary", simulated.canary)
    replace(flows.tiers, "speed", simulated.speed)
    replace(runtime.weights, "check", simulated.weights)
    replace(runtime.weights, "chat_template_sha256", lambda _: simulation.weights["chat_template"])
    replace(runtime.weights, "tokenizer_sha256", lambda _: simulation.weights["tokenizer"])
    replace(flows.tasks, "PAUSES_S", [simulation.scale * pause for pause in PAUSES])
    replace(ReleaseRun, "stage", _journalled(simulation, ReleaseRun.stage))


class SimulatedServer:
    """A server that nobody started; it lives as long as its context."""

    def __init__(self, log_path: Path, seconds: float) -> None:
        self.base_url = "http://simulated.invalid"
        self.ready_after_s = seconds
        self.log_path = log_path

    def alive(self) -> bool:
        """It never dies by itself."""
        return True

    def wait(self) -> None:
        """Never returns: it does not end by itself."""
        while True:
            time.sleep(1)

    def exit_reason(self) -> str:
        """There is none."""
        return "it still runs"

    def read(self, path: str) -> bytes | None:  # noqa: ARG002 - the signature of servers
        """It writes no files."""
        return None


class Stand:
    """The stand-ins, which know their simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def check_host(self, *_: object) -> None:
        """Every host has what a simulated chip needs."""

    def weights(self, _: object) -> Weights:
        """Weights that are said to be the baseline's."""
        return Weights(Path("simulated.gguf"), self._simulation.weights["weights"])

    @contextmanager
    def start_server(self, job: Job, host: Settings, log: Log, **_: Any) -> Iterator[Server]:
        """A server that takes its time to load."""
        cell = job.cell.id
        log(f"serve: {job.engine.display} is loading {job.cell.model.display} (simulated)")
        self._simulation.spend(cell, "serve")
        path = host.work_path / "logs" / f"{cell}-simulated.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"simulated server of {cell}\n")
        yield SimulatedServer(path, self._simulation.seconds(cell, "serve"))

    def provided_image(self, job: Job, host: Settings, log: Log, *, send: bool) -> Provided:  # noqa: ARG002 - as the real one
        """An image that is built once, if nobody builds it twice at once; each build is a line in `images.jsonl`."""
        key = digest(job.image_inputs)
        if not any(line["key"] == key for line in self._simulation.lines("images.jsonl")):
            log(f"image: building {key[:12]} (simulated)")
            self._simulation.spend(key, "build")
            self._simulation.append("images.jsonl", {"key": key, "cell": job.cell.id})
        name = job.cell.image_name
        versions = {job.engine.package: str(job.engine_version)}
        image = CellImage(
            name=f"{name}:{key[:12]}",
            id=f"sha256:{key}",
            key=key,
            digest=None,
            base="simulated-base",
            versions=versions,
        )
        built = BuiltImage(
            id=image.id, key=key, repository=name, tag=key[:12], created="2026-01-01T00:00:00+00:00", reused=False,
            size=0, base=image.base, dockerfile="FROM simulated-base\n",
        )  # fmt: skip
        return Provided(image, built, None, {"Dockerfile": built.dockerfile.encode()})

    def at_hand(self, image: CellImage, *_: object) -> bool:
        """Whether the image was built."""
        return any(line["key"] == image.key for line in self._simulation.lines("images.jsonl"))

    def evaluate_served(self, session: Session, server: Server, progress: Progress) -> StageOutput:  # noqa: ARG002 - as the real one
        """The baseline's answers, some of them changed by a seed of the cell; or what is to go wrong."""
        cell = session.job.cell.id
        self._simulation.spend(cell, "evaluate")
        fault = self._simulation.fault_of(cell)
        if fault is not None:
            self._simulation.note(cell, Stage.EVALUATE, "fault", session.run.key(Stage.EVALUATE))
            self._fail(fault.kind, session, server)
        found = flows.stages.measured_baseline(session)
        assert found is not None, "a simulated model has a measured baseline"
        baseline = session.store.evaluation(found)
        weights = self.weights(None)
        about = flows.job.provenance(session.job, weights, flows.stages.image(session))
        evaluation = Evaluation(
            provenance=about.model_copy(update={"platform": PLATFORM}),
            benchmarks=baseline.benchmarks,
            items=_changed(baseline.items, cell, lost=LOST if fault and fault.kind == "regressed" else 0),
        )
        key = session.run.key(Stage.EVALUATE)
        stored = session.store.add_evaluation(evaluation, aggregate(evaluation), key=key, role="candidate")
        log = session.evidence.put("server_log", "server.log", server.log_path.read_bytes())
        kept = [*flows.stages.evaluation_evidence(session, stored, ""), log]
        return StageOutput({"evaluation": stored, "operators": None}, kept)

    def _fail(self, kind: str, session: Session, server: Server) -> None:
        if kind == "server_died":
            why = "ended by signal SIGKILL (out of memory, or killed by hand)"
            raise ServerError(
                f"the server died while it was asked Number sequences: {why}; last lines of {server.log_path}:\n"
                "    simulated: loading the model\n    simulated: CUDA error: device-side assert triggered",
                remedy=f"the whole log: {server.log_path}",
            )
        if kind == "no_space":
            raise EvidenceError(
                f"cannot write evidence in {session.host.evidence_url}: No space left on device",
                remedy="free space or set FLAGRELEASE_EVIDENCE to another place, then run the same command again",
            )
        while kind == "hang":
            time.sleep(0.05)

    def canary(self, session: Session, server: Server | None) -> StageOutput:
        """No canary, after the time that one takes."""
        if server is not None:
            self._simulation.spend(session.job.cell.id, "canary")
        return StageOutput({"canary": None, "note": "canary: simulated, not measured"})

    def speed(self, session: Session, server: Server | None) -> StageOutput:  # noqa: ARG002 - as the real one
        """No speed."""
        return StageOutput({"speed": None, "note": None})


def _changed(items: list[Item], cell: str, lost: int) -> list[Item]:
    """The answers, of which a few changed from right to wrong and as many back; `lost` more changed to wrong."""
    chosen = random.Random(cell)
    places: Mapping[float, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        places[item.score].append(place)
    right, wrong = places[1.0], places[0.0]
    flipped = {*chosen.sample(right, CHANGED + lost), *chosen.sample(wrong, CHANGED)}
    return [
        item.model_copy(update={"score": 1.0 - item.score, "answer": f"{item.answer} (changed)"})
        if place in flipped
        else item
        for place, item in enumerate(items)
    ]


def _journalled(simulation: Simulation, stage: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`ReleaseRun.stage`, which notes in the journal what is really done, and nothing where a result is reused."""

    def noted(
        run: ReleaseRun, name: Stage, work: Callable[[], StageOutput], *more: Any, **named: Any
    ) -> dict[str, Any]:
        with run.store.session() as transaction:
            cell = transaction.get_one(ReleaseRow, run.release).cell
        note, done = partial(simulation.note, cell, name.value, key=run.key(name)), []

        def told() -> StageOutput:
            note("began")
            done.append(name)
            return work()

        output = stage(run, name, told, *more, **named)
        if done:
            # Not before the store has it: a stage that is cut off in between is to be done again.
            note("ended")
        return output

    return noted
