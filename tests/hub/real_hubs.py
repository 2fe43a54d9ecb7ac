"""The contract with the real hubs, which a person with accounts runs; no other run of the tests collects this file.

    FLAGRELEASE_TEST_REAL_HUBS=<organisation> pytest tests/hub/real_hubs.py

with tokens as for publishing. It leaves a private repository `flagrelease-contract` in the organisation of each hub.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flagrelease.errors import PublishError
from flagrelease.publish.hub import HubPublisher
from flagrelease.publish.hub_client import Creation
from flagrelease.publish.interface import manifest
from flagrelease.settings import Settings
from flows.hubs import hubs_of
from tests.hub.hosts import files

ORGANISATION = os.environ["FLAGRELEASE_TEST_REAL_HUBS"]
TARGET = f"{ORGANISATION}/flagrelease-contract"


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_release_is_published_once_and_read_back(kind: str, tmp_path: Path) -> None:
    said: list[str] = []

    def publisher() -> HubPublisher:
        host = Settings(home=tmp_path, hubs=[kind], hub_namespaces=[ORGANISATION])
        return hubs_of(host, said.append, create=Creation(visibility="private", licence="apache-2.0"))[0]

    # Each run is a newer release than the one before.
    release = int(time.time())
    published = files(release - 1, **{"old.json": b"{}"}), files(release)
    for content in published:
        assert publisher().plan(content, TARGET).refusal is None
        done = publisher().publish(content, TARGET)
        assert done.files == manifest(content)
        assert publisher().current(TARGET) == done
        assert publisher().publish(content, TARGET) == done
        assert publisher().plan(content, TARGET).nothing_to_do
    with pytest.raises(PublishError, match="it holds the newer release"):
        publisher().publish(published[0], TARGET)
    print("\n".join(said))
