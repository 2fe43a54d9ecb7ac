"""Both hubs as stand-ins, and a host that publishes real releases of the small cell to them by its commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest

from evaluation import baseline as baselines
from flagrelease.evidence import EvidenceFolder
from flagrelease.provenance.keys import create_key, signing_key
from flagrelease.publish import hub, hub_calls
from flagrelease.publish.folder import FolderPublisher
from flagrelease.settings import settings
from flagrelease.store import Store
from tests.hub.hosts import TOKENS, hub_of
from tests.hub.stand_in_hub import StandInHub
from tests.unit.command_line import Run
from tests.unit.published_release import World, answers, files_of, released

KINDS = ("huggingface", "modelscope")
TARGET = "FlagRelease/SmolLM2-135M-Instruct-cpu-native"
_baseline = cache(baselines.load)


class HubWorld:
    """The host, by its settings, and the hubs by their names."""

    def __init__(self, folder: Path, hubs: dict[str, StandInHub], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.hubs, self.run, self._monkeypatch = folder, hubs, run, monkeypatch
        self.here = world_at(settings().home_path, settings().output_path)

    def publish(self, release: int) -> None:
        """Publish a release to the folder and, by the command, to both hubs."""
        files = files_of(self.here, release, signing_key(settings().home_path))
        self.here.store.record_publication(release, self.here.publisher.publish(files, TARGET))
        assert self.run("publish", "release", release) == 0, self.run.err

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(f"FLAGRELEASE_{name}", value)
        settings.cache_clear()

    def holds(self) -> dict[str, int]:
        """The release that each place holds, by the statement there."""
        read = {name: each.store.files(TARGET)["release.json"] for name, each in self.hubs.items()}
        read["folder"] = (self.here.publisher.root / TARGET / "release.json").read_bytes()
        return {
            name: json.loads(content)["predicate"]["flagrelease_measured"]["release"] for name, content in read.items()
        }


def home_with_releases(home: Path) -> Path:
    """A home with a key that signs, and two releases of the small cell that are not published yet: making them takes
    longer than publishing them.
    """
    create_key(home)
    here = world_at(home, home / "output")
    for lost in (3, 4):
        released(here, answers(lost), key=f"lost {lost}")
    here.store.close()
    return home


def world_at(home: Path, output: Path) -> World:
    """As the settings have it by default."""
    store, evidence = Store.open(f"sqlite:///{home / 'store.db'}"), EvidenceFolder(str(home / "evidence"))
    return World(store, evidence, FolderPublisher(output / "hub"))


@contextmanager
def hub_world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[HubWorld]:
    """Within the block the hubs are there; pauses of libraries and ours take no time."""
    shutil.copytree(home, tmp_path / "flagrelease")
    quiet_libraries(tmp_path, monkeypatch)
    monkeypatch.setattr(baselines, "load", _baseline)
    monkeypatch.setattr(hub, "SETTLING_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(hub_calls, "PAUSES_S", (0.0, 0.0))
    with ExitStack() as stack:
        hubs = {kind: hub_of(kind, tmp_path / kind) for kind in KINDS}
        for each in hubs.values():
            stack.enter_context(each.running())
            each.store.create(TARGET, "public", {".gitattributes": b"", "model.safetensors": b"weights"})
        variables = {
            "HOME": str(tmp_path / "flagrelease"),
            "OUTPUT": str(tmp_path / "output"),
            "HUBS": json.dumps(KINDS),
            "HUB_ENDPOINTS": json.dumps([each.endpoint for each in hubs.values()]),
        }
        for kind, each in hubs.items():
            variables |= {f"{kind.upper()}_ENDPOINT": each.endpoint, f"{kind.upper()}_TOKEN": TOKENS[kind]}
        for name, value in variables.items():
            monkeypatch.setenv(f"FLAGRELEASE_{name}", value)
        settings.cache_clear()
        yield HubWorld(tmp_path, hubs, Run(monkeypatch, capsys), monkeypatch)
        assert [line for each in hubs.values() for line in each.unknown] == []
    settings.cache_clear()


def quiet_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hubs' libraries as the stand-ins know them: online, large files the classic way, nothing in the real home."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
