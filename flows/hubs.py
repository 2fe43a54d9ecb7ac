"""The hubs that this host publishes to, by its settings."""

from __future__ import annotations

from collections.abc import Callable, Collection

from flagrelease.publish.guards import Places
from flagrelease.publish.hub import HubPublisher
from flagrelease.publish.hub_client import Creation, HubClient
from flagrelease.publish.huggingface import HuggingFaceClient
from flagrelease.publish.ledger import Ledger
from flagrelease.publish.modelscope import ModelScopeClient
from flagrelease.settings import Settings


def hubs_of(
    host: Settings,
    log: Callable[[str], None],
    *,
    create: Creation | None = None,
    replace: str | None = None,
    taken_back: Collection[str] = (),
) -> list[HubPublisher]:
    """A publisher for each hub of the settings; PreflightError where its library is missing."""
    places = Places(endpoints=tuple(host.hub_endpoints), namespaces=tuple(host.hub_namespaces))
    ledger = Ledger(host.work_path / "publishing")
    return [
        HubPublisher(
            _client(name, host),
            places=places,
            ledger=ledger,
            log=log,
            create=create,
            replace=replace,
            taken_back=taken_back,
        )
        for name in host.hubs
    ]


def reader_of(name: str, host: Settings) -> HubClient:
    """A client to read from a hub with: at an address that may not have the token, such as a mirror's, without it."""
    places = Places(endpoints=tuple(host.hub_endpoints), namespaces=())
    endpoint = host.huggingface_endpoint if name == "huggingface" else host.modelscope_endpoint
    return _client(name, host, anonymous=not places.trusted(endpoint))


def _client(name: str, host: Settings, *, anonymous: bool = False) -> HubClient:
    if name == "huggingface":
        return HuggingFaceClient(
            endpoint=host.huggingface_endpoint,
            token=host.huggingface_token,
            pull_requests=host.huggingface_pull_requests,
            anonymous=anonymous,
        )
    return ModelScopeClient(endpoint=host.modelscope_endpoint, token=host.modelscope_token, anonymous=anonymous)
