"""The stages of a release as Prefect tasks, with what they need while they run: the server, the devices, the lock."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from flagrelease.errors import NoAnswerError, ServerError
from flagrelease.pipeline import StageOutput
from flagrelease.records import Stage
from flows import serving, stages
from flows.locks import devices
from flows.session import Session
from flows.tasks import Limit, as_task
from runtime.launch.interface import Server

HOUR_S = 3600.0
MINUTE_S = 60.0


class StageTasks:
    """Runs the stages of a release; the cell's server starts when a stage first needs it, and ends with the block.

    Where all results are reused, none is started. A stage that is tried again as its server died gets another.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._server: Server | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """The stages."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self.stop_server()

    def stop_server(self) -> None:
        """End the server, if it runs."""
        self._server = None
        self._stack.close()

    def run(
        self, stage: Stage, work: Callable[[], StageOutput], still_there: Callable[[], bool] = lambda: True
    ) -> dict[str, Any]:
        """Output of a stage: reused where the store has it and it is `still_there`, else from `work`."""
        session, limit = self._session, self._limit(stage)

        def attempt() -> dict[str, Any]:
            # The database may have been restarted, and with it the lock gone.
            session.hold()
            return session.run.stage(stage, lambda: limit.within(work), still_there)

        return as_task(stage.value, attempt, limit=limit)

    def ask(self, stage: Stage, work: Callable[[Server], StageOutput]) -> dict[str, Any]:
        """Output of a stage that asks the served model, at a time when the devices may be used for it."""
        session = self._session

        def attempt() -> StageOutput:
            try:
                return work(self._living_server())
            except (ServerError, NoAnswerError):
                # It died, or hangs: whoever tries again needs another.
                self.stop_server()
                raise

        if session.run.finished(stage) is not None:
            return self.run(stage, attempt)
        folder, chip = session.host.work_path / "locks", session.job.cell.chip.key
        with devices(folder, chip, stage, session.log, exclusive=stage is Stage.SPEED):
            return self.run(stage, attempt)

    def _living_server(self) -> Server:
        if self._server is not None and not self._server.alive():
            self._session.log(f"serve: the server has ended: {self._server.exit_reason().partition(';')[0]}")
            self.stop_server()
        if self._server is None:
            # The stage that needs it is what is tried again.
            self._server = as_task("serve", self._start, retry=False)
            self._session.log(f"serve: ready after {self._server.ready_after_s:.0f} s")
        return self._server

    def _start(self) -> Server:
        session = self._session
        image = stages.image(session)
        return self._stack.enter_context(
            serving.start_server(session.job, session.host, session.log, image=image, release=session.release)
        )

    def _limit(self, stage: Stage) -> Limit:
        cell = self._session.job.cell
        hours = cell.timeouts[stage]
        said = f"{hours:g} hours" if hours >= 1 else f"{hours * HOUR_S / MINUTE_S:g} minutes"
        return Limit(
            hours * HOUR_S,
            f"the stage {stage} of {cell.id} was ended: it took longer than {said}, its limit",
            f"see in the log why it takes so long; or give it more, in {self._session.host.matrix_path}: "
            f"timeouts: {{{stage}: HOURS}}, of the cell or of all",
        )
