"""The parts of the measurement, in their order; what comes of them is written after each."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu import conformance, serving
from benchmarks.gpu.parts import NotDoneError, Part, Parts
from benchmarks.gpu.report import markdown
from benchmarks.gpu.serving import ENGINE, How, Small
from evaluation.canary import make_reference, write
from evaluation.canary import measure as measure_canary
from evaluation.catalogue import load_benchmarks
from evaluation.gate import decide
from flagrelease import __version__
from flagrelease.errors import FlagReleaseError
from flagrelease.operators.environment import device_of, environment
from flagrelease.policy import CanaryPolicy
from flagrelease.records import CanaryPrompt, CanaryReference, Evaluation, Stack
from flagrelease.secrets import child_environment
from flagrelease.settings import settings
from flagrelease.verdicts import CanaryResult
from runtime.operators import compare

STAND_IN = "a stand-in for FlagGems: torch's own operators, hooked and listed"
# Most of the whole time that a part may take. What it leaves is the later ones'; operators get the rest.
WEIGHTS, NATIVE, AGAIN, FLAGOS, VERDICT = 0.08, 0.23, 0.09, 0.33, 0.04
NO_DEVICE = 2
CACHES = (
    "kernels that were compiled and tuned are kept in ~/.triton and ~/.flaggems: a second run on this machine goes on "
    "from there, and comes further"
)
_DEVICE = """
import json, sys, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "name": "CPU (no accelerator is used)"}
if sys.argv[1] != "cpu":
    properties = torch.get_device_module(sys.argv[1]).get_device_properties(0)
    found |= {name: getattr(properties, name, None) for name in ("name", "multi_processor_count")}
    found["memory_gib"] = round(properties.total_memory / 2**30)
    found["capability"] = ".".join(str(getattr(properties, name, "")) for name in ("major", "minor"))
print(json.dumps(found))
"""


def measure(asked: argparse.Namespace, work: Path) -> int:
    """Do what the command line asks; returns the exit code."""
    os.environ["FLAGRELEASE_HOME"] = str(work / "home")
    settings.cache_clear()
    found = environment()
    device = "cpu" if asked.device == "cpu" else device_of(found)
    if asked.device != "cpu" and (device == "cpu" or asked.device not in (None, device)):
        wanted = asked.device or "accelerator"
        print(f"torch {found.torch} of {found.python} finds no {wanted}; --device cpu runs up to the device")
        return NO_DEVICE
    return _Whole(asked, work, device).run()


class _Whole:
    """One measurement: what a later part needs of an earlier one."""

    def __init__(self, asked: argparse.Namespace, work: Path, device: str) -> None:
        self.asked, self.work, self.device = asked, work, device
        on_cpu = device == "cpu"
        self.items = asked.items or (8 if on_cpu else 250)
        self.prompts, self.tokens = asked.prompts or (4 if on_cpu else 32), 12 if on_cpu else None
        self.parts = Parts(60 * asked.minutes, FlagReleaseError, _say, self._write)
        self.about: dict[str, Any] = {
            "what": "FlagGems: conformance and speed of operators; a small model served native and flagos",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": _device(device),
            "versions": {"flagrelease": __version__, **environment().versions(), "served by": ENGINE.version()},
            "interpreter": on_cpu,
            "flagos": STAND_IN if on_cpu else "FlagGems",
            "budget_s": 60 * asked.minutes,
        }
        self.small: Small | None = None
        self.texts: list[CanaryPrompt] = []
        self.baseline: Evaluation | None = None
        self.reference: CanaryReference | None = None
        self.canary: CanaryResult | None = None
        self.candidate: Evaluation | None = None
        self.listed: list[str] = []

    def run(self) -> int:
        """All parts; 0 where each was done."""
        flagos = "flagos, bfloat16" + (f" ({STAND_IN})" if self.device == "cpu" else "")
        steps: list[tuple[str, float, Callable[[Part], None]]] = [
            ("weights", WEIGHTS, self._weights),
            ("native, float32: the baseline", NATIVE, self._native),
            ("native, bfloat16: the baseline against itself", AGAIN, self._again),
            (flagos, FLAGOS, self._flagos),
            ("verdict", VERDICT, self._verdict),
            ("operators", 1.0, self._operators),
        ]
        for name, share, work in steps:
            self.parts.run(name, 60 * self.asked.minutes * share, work)
        done = all(part.done for part in self.parts.all)
        if not done and self.device != "cpu":
            _say(CACHES)
        return 0 if done else 1

    def _weights(self, part: Part) -> None:
        self.small = serving.small_model(self.asked.weights, self.work / "weights")
        part.found["sha256"] = self.small.weights.sha256

    def _native(self, part: Part) -> None:
        small, how = self._small(), How(Stack.NATIVE, "float32", self.device)
        with serving.served(small, how, part, self.work, _say) as (_, endpoint):
            self.texts = serving.timed(
                part, "canary", lambda: write(endpoint, ENGINE.capabilities, self._policy(), _say)
            )
            part.found["texts"] = len(self.texts)
            self.baseline = serving.answers(small, how, endpoint, items=self.items, part=part, work=self.work, say=_say)

    def _again(self, part: Part) -> None:
        small, how = self._small(), How(Stack.NATIVE, "bfloat16", self.device)
        if not self.texts:
            raise NotDoneError("the baseline wrote no texts")
        with serving.served(small, how, part, self.work, _say) as (_, endpoint):
            self.reference = serving.timed(
                part,
                "canary",
                lambda: make_reference(self.texts, endpoint, ENGINE.capabilities, "in bfloat16", _say),
            )
        part.found["distance"] = self.reference.floor.model_dump(mode="json")

    def _flagos(self, part: Part) -> None:
        small, how = self._small(), How(Stack.FLAGOS, "bfloat16", self.device, stand_in=self.device == "cpu")
        part.found["flag_gems"] = self.about["flagos"]
        with serving.served(small, how, part, self.work, _say) as (server, endpoint):
            self.listed = part.found["operators"] = serving.listed(server)
            reference = self.reference
            if reference is None:
                raise NotDoneError("the baseline's distance from itself is not known; the server started and answered")
            self.canary = serving.timed(
                part, "canary", lambda: measure_canary(reference, endpoint, ENGINE.capabilities, self._policy(), _say)
            )
            part.found["canary"] = self.canary.model_dump(mode="json")
            self.listed = part.found["operators"] = serving.listed(server)
            if not self.canary.passed:
                self.candidate = Evaluation(provenance=serving.provenance(small, how), benchmarks=[], items=[])
                return
            self.candidate = serving.answers(
                small, how, endpoint, items=self.items, part=part, work=self.work, say=_say
            )

    def _verdict(self, part: Part) -> None:
        if self.baseline is None or self.candidate is None:
            raise NotDoneError("the baseline or the candidate was not wholly measured")
        found = decide(
            self.candidate,
            self.baseline,
            baseline_id="native, float32, on this device",
            policy=self._small().policy,
            benchmarks=load_benchmarks(),
            canary=self.canary,
            operators=compare(self.listed, only=(), without=(), known=None),
        )
        part.found["of"] = self.about["flagos"]
        part.found["verdict"] = found.model_dump(mode="json")

    def _operators(self, part: Part) -> None:
        conformance.check(
            part,
            self.work / "operators",
            _say,
            listed=self.listed if self.device != "cpu" else (),
            asked=self.asked.operator,
            device=self.device,
            sizes=self.asked.sizes,
        )

    def _small(self) -> Small:
        if self.small is None:
            raise NotDoneError("there are no weights to serve")
        return self.small

    def _policy(self) -> CanaryPolicy:
        policy = self._small().policy.canary
        if policy is None:
            raise NotDoneError("the matrix has no canary for the small model")
        return policy.model_copy(update={"prompts": self.prompts, "tokens": self.tokens or policy.tokens})

    def _write(self) -> None:
        whole = {**self.about, "seconds": round(self.parts.seconds(), 1)}
        whole["parts"] = [part.as_json() for part in self.parts.all]
        out: Path = self.asked.out
        (out / "operators.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        (out / "operators.md").write_text(markdown(whole), encoding="utf-8")


def _device(device: str) -> dict[str, Any]:
    """Torch's name of the device, and what it is; with the driver's version where nvidia-smi tells it."""
    program = [str(environment().python), "-c", _DEVICE, device]
    own = child_environment()
    told = subprocess.run(program, capture_output=True, text=True, check=True, env=own).stdout.splitlines()[-1]
    found: dict[str, Any] = {"device": device, **json.loads(told)}
    if device == "cuda" and shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(asked, capture_output=True, text=True, check=False, env=own).stdout.strip()
    return found


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
