"""How long `flagrelease plan` takes for the whole matrix: `python -m benchmarks.plan_matrix`.

13 chips × 60 models, each cell released five times (stages reused from release to release where nothing changed),
published to a folder. The command is run as a user does, with its start: nothing changed; one pin of a chip changed; on
another host, with an empty store.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.deploy_matrix import CHIPS, MODELS, matrix
from flagrelease.loading import load_chips, load_matrix, resolve_all
from flagrelease.matrix import ResolvedCell
from flagrelease.pipeline import Plan
from flagrelease.publish.folder import FolderPublisher
from flagrelease.records import Stage, digest
from flagrelease.settings import Settings
from flagrelease.store import Store
from flagrelease.store.models import PublicationRow, ReleaseRow, StageRow
from flows.job import job_of
from flows.plan_jobs import Versions, planned

RELEASES = 5
AIM_S = 10.0
BIN = Path(sys.executable).parent
SECONDS = {Stage.BUILD: 900, Stage.CANARY: 60, Stage.EVALUATE: 5400, Stage.SPEED: 1200}
BEGAN = datetime(2026, 11, 1, tzinfo=UTC)


def old(plan: Plan, number: int) -> tuple[dict[Stage, str], dict[Stage, Any]]:
    """Keys and inputs of an earlier release: the engine was another, so all but the build ran again."""
    keys = {stage: key if stage == Stage.BUILD else digest([key, number]) for stage, key in plan.keys.items()}
    inputs = {stage: {**plan.inputs[stage], "engine_version": f"0.{number}"} for stage in Stage}
    return keys, {**inputs, Stage.BUILD: plan.inputs[Stage.BUILD]}


def fill(store: Store, cells: Sequence[ResolvedCell], host: Settings) -> None:
    """Releases of all cells, the newest of what the matrix says."""
    publisher, versions = FolderPublisher(host.output_path / "hub"), Versions()
    releases: list[Any] = []
    rest: list[Any] = []
    for cell in cells:
        job = job_of(cell, None, host)
        today, _ = planned(job, versions, {})
        first = len(releases) + 1
        for number in range(RELEASES):
            began, newest = BEGAN + timedelta(days=number), number == RELEASES - 1
            keys, inputs = (today.keys, today.inputs) if newest else old(today, number)
            about = {"id": first + number, "cell": cell.id, "engine": job.engine.name, "code_version": "0"}
            about |= {"key": today.release_key if newest else digest(keys[Stage.CARD]), "state": "completed"}
            about |= {"started_at": began, "finished_at": began + timedelta(hours=2)}
            releases.append(ReleaseRow(**about, snapshot={"cell": cell.model_dump(mode="json")}))
            for stage in Stage:
                reused = stage == Stage.BUILD and number > 0
                told = {"release_id": first + number, "stage": stage, "key": keys[stage], "state": "completed"}
                told |= {"reused_from": first if reused else None, "inputs": {} if reused else inputs[stage]}
                told |= {"output": {"canary": None} if stage == Stage.CANARY else {"published": True}, "error": None}
                ended = began + timedelta(seconds=SECONDS.get(stage, 5))
                rest.append(StageRow(**told, started_at=began, finished_at=ended))
        publication = publisher.publish({"README.md": b"card" * 5000, "evidence/items.jsonl": b"x" * 1000}, job.target)
        store_as = publication.model_dump(mode="json", exclude={"files"})
        listed = [file.model_dump(mode="json") for file in publication.files]
        rest.append(PublicationRow(**store_as, release_id=first + RELEASES - 1, files=listed, published_at=BEGAN))
    with store.session() as session:
        session.add_all(releases)
        session.flush()
        session.add_all(rest)


def plan(name: str, env: Mapping[str, str]) -> tuple[float, dict[str, Any]]:
    """Run `flagrelease plan`; print how long it took. The same for programs, as JSON."""
    argv, whole = [str(BIN / "flagrelease"), "plan"], {**os.environ, **env}
    start, before = time.monotonic(), psutil.cpu_times().idle
    shown = subprocess.run(argv, env=whole, capture_output=True, text=True, check=True)
    took = time.monotonic() - start
    idle = (psutil.cpu_times().idle - before) / took / (psutil.cpu_count() or 1)
    print(f"{name:<22}{took:6.1f} s  processors {idle:.0%} idle  {shown.stdout.splitlines()[0]}", flush=True)
    data = subprocess.run([*argv, "--json"], env=whole, capture_output=True, text=True, check=True)
    return took, json.loads(data.stdout)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        facts, path = matrix(), home / "matrix.yaml"
        for name, model in facts["models"].items():
            model["display"] = name
        path.write_text(yaml.safe_dump(facts, allow_unicode=True))
        images = dict.fromkeys(load_chips(), "registry.example.org/base:1")
        host = Settings(home=home / "state", output=home / "output", matrix=path, base_images=images)
        env = {
            "FLAGRELEASE_MATRIX": str(path),
            "FLAGRELEASE_HOME": str(home / "state"),
            "FLAGRELEASE_OUTPUT": str(home / "output"),
            "FLAGRELEASE_BASE_IMAGES": json.dumps(images),
        }
        cells = resolve_all(load_matrix(path), load_chips())
        assert len(cells) == CHIPS * MODELS
        store = Store.open(host.store_url)
        fill(store, cells, host)
        store.close()
        unchanged, found = plan("nothing changed", env)
        assert all(cell["action"] == "unchanged" for cell in found["cells"])
        for cell in facts["cells"][:MODELS]:
            cell["versions"] = {"flagscale": "Version: 0.8.0", "flaggems": "Version: 3.1"}
        path.write_text(yaml.safe_dump(facts, allow_unicode=True))
        changed, found = plan("one chip changed", env)
        assert sum(cell["action"] == "run" for cell in found["cells"]) == MODELS
        empty, found = plan("an empty store", {**env, "FLAGRELEASE_HOME": str(home / "other")})
        assert not (home / "other").exists()
    print(f"aim: {AIM_S:.0f} s for {len(cells)} unchanged cells")
    assert max(unchanged, changed, empty) <= AIM_S, "too slow"


if __name__ == "__main__":
    main()
