"""What a run of the flow `release` shows to people in Prefect. That it cannot be shown never fails a release."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from evaluation.catalogue import Benchmark
from evaluation.harness.interface import Progress
from flagrelease.settings import Settings
from flagrelease.verdicts import GateResult
from flows.report import release_report, verdict_table
from flows.session import Session

SEND_EVERY_S = 5.0
TIMEOUT_S = 30


class Shown:
    """What is known of a run so far."""

    session: Session | None = None


@contextmanager
def shown(cell: str, host: Settings) -> Iterator[Shown]:
    """Show the release that the block puts into what it is given when the block ends, and why if it fails."""
    known = Shown()
    error = None
    try:
        yield known
    except BaseException as caught:
        error = caught
        raise
    finally:
        markdown(key("release", cell), f"Release of {cell}", lambda: _report(cell, host, known, error))


def _report(cell: str, host: Settings, known: Shown, error: BaseException | None) -> str:
    if known.session is not None:
        return release_report(known.session.release, host, known.session.reasons)
    return f"The release of `{cell}` was not begun:\n\n```text\n{error}\n```"


def verdict(cell: str, gate: GateResult) -> None:
    """Show the verdict."""
    markdown(key("verdict", cell), f"Verdict on {cell}", lambda: verdict_table(gate))


def card(cell: str, text: str) -> None:
    """Show the card."""
    markdown(key("card", cell), f"Card of {cell}", lambda: text)


def markdown(key: str, description: str, text: Callable[[], str]) -> None:
    """Make an artifact of a text; says in the log where that fails."""
    try:
        create_markdown_artifact(text(), key=key, description=description)
    except Exception as error:
        get_run_logger().warning(f"{description}: not shown as an artifact: {error}")


class ShownProgress:
    """Shows how far a cell's benchmarks are asked as an artifact, besides saying it.

    It is sent by a thread of its own, every few seconds: nobody waits for Prefect while a model is asked.
    """

    def __init__(self, cell: str, benchmarks: Sequence[Benchmark], said: Progress) -> None:
        self._cell = cell
        self._displays = {benchmark.key: benchmark.display for benchmark in benchmarks}
        self._said = said
        self._begun: list[str] = []
        self._now = (0.0, "")

    def __call__(self, benchmark: str, answered: int, total: int) -> None:
        """Take note of an answer, or of those that were kept."""
        self._said(benchmark, answered, total)
        if benchmark not in self._begun:
            self._begun.append(benchmark)
        number, of = len(self._begun), max(len(self._displays), len(self._begun))
        share = 100 * (number - 1 + answered / max(total, 1)) / of
        display = self._displays.get(benchmark, benchmark)
        self._now = (share, f"{display}: {answered} of {total} answers ({number} of {of} benchmarks)")

    @contextmanager
    def shown(self, stage: str) -> Iterator[None]:
        """Within the block the artifact follows what is asked."""
        self._begun, self._now = [], (0.0, "")
        try:
            artifact = create_progress_artifact(0, key(stage, self._cell), f"{stage} of {self._cell}")
        except Exception as error:
            get_run_logger().warning(f"{stage}: progress is not shown as an artifact: {error}")
            yield
            return
        assert isinstance(artifact, UUID)  # noqa: S101 - called where nothing is awaited
        over = threading.Event()
        # Prefect's settings, such as where its server is, lie in the context.
        context = contextvars.copy_context()
        sender = threading.Thread(target=context.run, args=(self._send, artifact, over), name="progress", daemon=True)
        sender.start()
        try:
            yield
        finally:
            over.set()
            sender.join(SEND_EVERY_S)

    def _send(self, artifact: UUID, over: threading.Event) -> None:
        sent = self._now
        # With settings of its own the client is not the one that the flow uses.
        with get_client(httpx_settings={"timeout": TIMEOUT_S}, sync_client=True) as client:
            while True:
                ended = over.wait(SEND_EVERY_S)
                if (now := self._now) != sent:
                    # What is not sent is sent with the next.
                    with suppress(Exception):
                        client.update_artifact(artifact, ArtifactUpdate(data=now[0], description=now[1]))
                        sent = now
                if ended:
                    return


def key(kind: str, cell: str) -> str:
    """Key of a cell's artifact of a kind: small letters, digits and dashes."""
    return f"{kind}-" + "".join(character if character.isalnum() else "-" for character in cell.lower())
