"""How much of a release is FlagRelease itself: `python benchmarks/release_overhead.py [CELL]`.

Runs `flagrelease release` in an empty home and takes the time at which each line appears. What is
neither the conversion of weights (once a host), nor the model server's start, nor the evaluation, nor Prefect's
own start is overhead; the aim is 5 s at most. Printed beside it: a second run, which has nothing to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

AIM_S = 5.0
# Parts that are not ours: (name, line that begins it, line that ends it).
PARTS = (
    ("Prefect's own start", "starting Prefect", "Beginning flow run"),
    ("weights' conversion", "build: weights", "build: Finished"),
    ("model server's start", "is loading", "serve: ready after"),
    ("evaluation", "(1 of ", "evaluate: Finished"),
)


def timed_lines(argv: list[str], env: Mapping[str, str]) -> tuple[list[tuple[float, str]], float]:
    """Lines of a command with the seconds after which each came, and how long it took."""
    start = time.monotonic()
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append((time.monotonic() - start, line))
        print(line, end="", flush=True)
    assert process.wait() == 0, "the release failed"
    return lines, time.monotonic() - start


def moment(lines: list[tuple[float, str]], text: str) -> float:
    """When a line with `text` first came."""
    return next(seconds for seconds, line in lines if text in line)


def main() -> None:
    """Measure and print."""
    cell = sys.argv[1] if len(sys.argv) > 1 else "smollm2-cpu"
    argv = [str(Path(sys.executable).with_name("flagrelease")), "release", cell]
    with tempfile.TemporaryDirectory() as folder:
        places = {"HOME": "state", "OUTPUT": "output"}
        env = {**os.environ, **{f"FLAGRELEASE_{name}": f"{folder}/{place}" for name, place in places.items()}}
        env["PYTHONUNBUFFERED"] = "1"
        lines, total = timed_lines(argv, env)
        _, again = timed_lines(argv, env)
    print(f"\n{'part':<24}{'seconds':>9}{'share':>9}")
    rest = total
    for name, begin, end in PARTS:
        seconds = moment(lines, end) - moment(lines, begin)
        rest -= seconds
        print(f"{name:<24}{seconds:>9.1f}{seconds / total:>9.1%}")
    print(f"{'FlagRelease':<24}{rest:>9.1f}{rest / total:>9.1%}   (aim: {AIM_S:.0f} s at most)")
    print(f"{'whole':<24}{total:>9.1f}{1:>9.0%}")
    print(f"a second run, with nothing to do: {again:.1f} s")


if __name__ == "__main__":
    main()
