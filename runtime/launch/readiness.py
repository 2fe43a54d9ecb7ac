"""When a server is ready: it lists the model and answers a completion. The same wherever it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import httpx

from flagrelease.errors import FlagReleaseError, ServerError, ServerSettingsError
from runtime.launch.interface import Log, ServerSpec

LAST_LINES = 15
POLL_S = 0.2
SAY_EVERY_S = 10.0
PROBE = {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}


class Starting(Protocol):
    """A server that was started and is not ready yet."""

    base_url: str

    def alive(self) -> bool:
        """Whether it still runs."""
        ...

    def exit_reason(self) -> str:
        """Why it ended, or that it still runs, with the last lines of its log."""
        ...

    def death(self, waited_s: float) -> FlagReleaseError:
        """The error to raise where it ended while it was loading."""
        ...


def wait_ready(server: Starting, spec: ServerSpec, log: Log) -> float:
    """Seconds until the server answered a completion; raises what `death` says, or ServerError after the time limit."""
    start = time.monotonic()
    say_at = start + SAY_EVERY_S
    # A proxy of the environment is for the world outside, not for this host.
    with httpx.Client(base_url=server.base_url, timeout=60, trust_env=False) as client:
        while True:
            waited = time.monotonic() - start
            if not server.alive():
                raise server.death(waited)
            if waited > spec.ready_timeout_s:
                raise ServerError(
                    f"the server of {spec.cell} was not ready within {spec.ready_timeout_s:.0f} s: "
                    f"{server.exit_reason()}",
                    remedy="give it more time with the engine's setting ready_timeout_s, "
                    f"or see why it hangs: {spec.log_path}",
                )
            if _answers(client, spec):
                return time.monotonic() - start
            if time.monotonic() > say_at:
                say_at += SAY_EVERY_S
                log(f"serve: loading for {waited:.0f} s: {last_lines(spec.log_path, 1).strip()[-100:]}")
            time.sleep(POLL_S)


def _answers(client: httpx.Client, spec: ServerSpec) -> bool:
    """Whether the model is listed and answers a completion; a healthy /health proves neither."""
    try:
        models = client.get("/v1/models")
        if models.status_code != httpx.codes.OK or spec.served_name not in models.text:
            return False
        answer = client.post("/v1/completions", json={"model": spec.served_name, **PROBE})
    except httpx.TransportError:
        return False
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return False
    try:
        text = answer.json()["choices"][0]["text"]
    except (ValueError, LookupError, TypeError):
        text = ""
    if not text.strip() or "\ufffd" in text:
        raise ServerSettingsError(
            f"the server of {spec.cell} answers a completion with HTTP {answer.status_code} and no sane text: "
            f"{answer.text[:200]!r}",
            remedy=f"the model or the engine's settings are broken; see {spec.log_path}",
        )
    return True


def last_lines(path: Path, count: int = LAST_LINES) -> str:
    """The last `count` lines of a text file; empty where there is none."""
    try:
        data = path.read_bytes()[-20_000:]
    except OSError:
        return ""
    lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-count:])


def indent(text: str) -> str:
    """`text` moved to the right by four spaces."""
    return "\n".join(f"    {line}" for line in text.splitlines())
