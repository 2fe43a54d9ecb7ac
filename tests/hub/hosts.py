"""A host that publishes to a stand-in hub, and what it publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import SecretStr

from flagrelease.publish.guards import Places
from flagrelease.publish.hub import HubPublisher
from flagrelease.publish.huggingface import HuggingFaceClient
from flagrelease.publish.interface import MANIFEST
from flagrelease.publish.ledger import Ledger
from flagrelease.publish.modelscope import ModelScopeClient
from tests.hub.stand_in_hub import StandInHub
from tests.hub.stand_in_huggingface import StandInHuggingFace
from tests.hub.stand_in_modelscope import StandInModelScope

TARGET = "FlagRelease/Qwen3-8B-metax-FlagOS"
TOKENS = {"huggingface": "hf_" + "a1B2" * 9, "modelscope": "ms-0f0f0f0f-1111-2222-3333-444455556666"}


def card(release: int, text: str = "as good as before") -> bytes:
    return (
        f"---\nlicense: apache-2.0\nflagrelease:\n  schema: 1\n  release: {release}\n---\n# Qwen3-8B\n\n{text}\n"
    ).encode()


def files(release: int = 1, **more: bytes) -> dict[str, bytes]:
    """A publication: a card, a small file, and one that hubs keep as a large one."""
    base = {
        "README.md": card(release),
        "evidence/verdict.json": f'{{"verdict": "CONSISTENT", "release": {release}}}\n'.encode(),
        "evidence/items.bin": f"items of {release}\n".encode() * 4,
    }
    return base | {f"evidence/{name}": content for name, content in more.items()}


class Pauses:
    """Waits no time, and remembers for how long it was asked to."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Host:
    """A host that publishes to a hub: its work folder, its log, and publishers of its settings."""

    def __init__(self, hub: StandInHub, kind: str, work: Path) -> None:
        self.hub, self.kind, self.work = hub, kind, work
        self.log: list[str] = []
        self.pauses = Pauses()

    def publisher(self, *, token: str | None = None, pull_requests: bool = False, **options: Any) -> HubPublisher:
        secret = SecretStr(token or TOKENS[self.kind])
        client: HuggingFaceClient | ModelScopeClient
        if self.kind == "huggingface":
            client = HuggingFaceClient(endpoint=self.hub.endpoint, token=secret, pull_requests=pull_requests)
        else:
            client = ModelScopeClient(endpoint=self.hub.endpoint, token=secret)
        named: dict[str, Any] = {
            "places": Places(endpoints=(self.hub.endpoint,), namespaces=("FlagRelease", "Elsewhere")),
            "ledger": Ledger(self.work / "publishing"),
            "log": self.log.append,
            "pause": self.pauses,
        }
        return HubPublisher(client, **(named | options))


def hub_of(kind: str, root: Path) -> StandInHub:
    made = StandInHuggingFace if kind == "huggingface" else StandInModelScope
    root.mkdir()
    return made(root, token=TOKENS[kind], namespaces=("FlagRelease",))


def ours(host: Host) -> list[str]:
    """Titles of the commits that FlagRelease made."""
    return [title for title in host.hub.store.titles(TARGET) if title.startswith("FlagRelease release")]


def assert_holds(host: Host, published: dict[str, bytes], *, commits: int = 1, release: int = 1) -> None:
    there = host.hub.store.files(TARGET)
    assert {path: there[path] for path in published} == published
    assert set(there) - {"weights.bin"} == {*published, MANIFEST}
    assert len(ours(host)) == commits
    tagged = host.hub.store.files(TARGET, f"v{release}")
    assert {path: tagged[path] for path in published} == published
