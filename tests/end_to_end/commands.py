"""Running the project's commands as a user does: in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MATRIX = ROOT / "matrix.yaml"


def environment(home: Path, **more: str) -> dict[str, str]:
    """A user's environment whose state, output and Prefect database lie below `home`."""
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "FLAGRELEASE_HOME": str(home / "state"),
        "FLAGRELEASE_OUTPUT": str(home / "output"),
        "FLAGRELEASE_MATRIX": str(MATRIX),
        "PREFECT_HOME": str(home / "prefect"),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        **more,
    }


def run(
    *argv: str | Path, env: Mapping[str, str], cwd: Path = ROOT, timeout: float = 800
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is shown where the test fails."""
    done = subprocess.run(
        [str(part) for part in argv], env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
    print(f"$ {' '.join(map(str, argv))}  -> {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def said(done: subprocess.CompletedProcess[str]) -> str:
    """All that a command wrote: results on standard output, the run's log on standard error."""
    return done.stdout + done.stderr


def flagrelease(*argv: str | Path, env: Mapping[str, str], timeout: float = 800) -> subprocess.CompletedProcess[str]:
    """Run `flagrelease` to its end."""
    return run(BIN / "flagrelease", *argv, env=env, timeout=timeout)


def servers_below(home: Path) -> list[list[str]]:
    """Command lines of running model servers and Prefect servers that were started with this home."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
            continue
        try:
            belongs = str(home) in process.environ().get("FLAGRELEASE_HOME", "")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if belongs:
            found.append(process.info["cmdline"])
    return found


def card_scores(card: str) -> dict[str, float]:
    """Candidate score in percent of each benchmark in a card's results table."""
    section = card.partition("## Benchmark Result")[2].partition("\n#")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    scores = {}
    for row in rows[2:]:
        match = re.match(r"\s*(\d+\.\d+)", row[2])
        if match:
            scores[row[0].strip()] = float(match.group(1))
    return scores
