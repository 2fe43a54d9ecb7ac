"""Stage keys, and running a stage once: what decides a result, and whether the store has it already.

A stage's key is the hash of all that decides its output: the stage's code version, its configuration
and the keys of the stages before it. Keys are known before anything runs, so a plan can be made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from flagrelease.errors import StoreError
from flagrelease.records import Artefact, Stage, digest
from flagrelease.store import FinishedStage, Store

# Raised by hand when a change of code changes what a stage would produce from the same inputs.
STAGE_VERSIONS: Mapping[Stage, int] = {
    Stage.BUILD: 2,
    Stage.CANARY: 2,
    Stage.EVALUATE: 3,
    Stage.ESCALATE: 1,
    Stage.SPEED: 1,
    Stage.DECIDE: 2,
    Stage.CARD: 1,
    Stage.PUBLISH: 2,
}
UPSTREAM: Mapping[Stage, tuple[Stage, ...]] = {
    Stage.BUILD: (),
    Stage.CANARY: (Stage.BUILD,),
    Stage.EVALUATE: (Stage.BUILD,),
    Stage.ESCALATE: (Stage.CANARY, Stage.EVALUATE),
    Stage.SPEED: (Stage.BUILD,),
    Stage.DECIDE: (Stage.ESCALATE, Stage.SPEED),
    Stage.CARD: (Stage.DECIDE,),
    Stage.PUBLISH: (Stage.CARD,),
}


class StageOutput(NamedTuple):
    """What a stage hands on (as JSON), and the files that prove it."""

    output: dict[str, Any]
    artefacts: Sequence[Artefact] = ()


class Plan(NamedTuple):
    """Key and inputs of each stage of one release."""

    keys: Mapping[Stage, str]
    inputs: Mapping[Stage, Mapping[str, Any]]

    @property
    def release_key(self) -> str:
        """Key of the release as a whole."""
        return digest([self.keys[stage] for stage in Stage])


def plan(inputs: Mapping[Stage, Mapping[str, Any]], salt: str | None = None) -> Plan:
    """Chain the stages' own inputs (JSON values) into keys; a `salt` gives other keys to the same inputs."""
    keys: dict[Stage, str] = {}
    for stage in Stage:
        keys[stage] = digest(
            {
                "stage": stage,
                "version": STAGE_VERSIONS[stage],
                "inputs": inputs[stage],
                "upstream": [keys[before] for before in UPSTREAM[stage]],
                **({} if salt is None else {"salt": salt}),
            }
        )
    return Plan(keys, inputs)


class ReleaseRun:
    """One run of a release: runs the stages that the store does not have, and reuses the others."""

    def __init__(self, store: Store, release: int, plan: Plan, log: Callable[[str], None]) -> None:
        self.store = store
        self.release = release
        self._plan = plan
        self._log = log

    def key(self, stage: Stage) -> str:
        """The stage's key in this release."""
        return self._plan.keys[stage]

    def finished(self, stage: Stage) -> FinishedStage | None:
        """The stored result of the stage, if there is one."""
        return self.store.finished_stage(stage, self.key(stage))

    def stage(
        self,
        stage: Stage,
        work: Callable[[], StageOutput],
        still_there: Callable[[], bool] = lambda: True,
    ) -> dict[str, Any]:
        """Output of the stage: reused where the store has it, else from `work`, which is recorded.

        `still_there` tells whether a stored result that lies outside the store (a publication) is there yet.
        """
        key = self.key(stage)
        done = self.finished(stage)
        if done is not None and still_there():
            self._log(f"{stage}: reused from release {done.release}")
            if done.release != self.release:
                self.store.finish_stage(
                    self.release,
                    stage,
                    key=key,
                    output=done.output,
                    artefacts=done.artefacts,
                    reused_from=done.release,
                )
            return done.output
        self.store.begin_stage(self.release, stage, key, self._plan.inputs[stage])
        try:
            output, artefacts = work()
        except BaseException as error:
            # Where the database is what failed, that is the error to be told.
            with suppress(StoreError):
                self.store.fail_stage(self.release, stage, str(error) or type(error).__name__)
            raise
        self.store.finish_stage(self.release, stage, key=key, output=output, artefacts=artefacts)
        return output
