"""Whether a benchmark can be run on this host, and if not, what is missing. Asks nothing of a model."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from evaluation.catalogue import Benchmark, Hub, missing, require_questions
from evaluation.run import HARNESSES
from flagrelease.errors import PreflightError

HUB_TIMEOUT_S = 3
HUB_NAMES = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}
ALL_CAPABILITIES = frozenset({"generate", "prompt_logprobs"})
TRUE = {"1", "ON", "YES", "TRUE"}


def obstacle(benchmark: Benchmark) -> str | None:
    """What this host lacks to run `benchmark` through an engine that can serve it; none: it can be run.

    Asks each hub once, with one request of at most 3 s, and only for questions that are not in the hub's cache.
    """
    if benchmark.harness is None:
        return missing(benchmark, ALL_CAPABILITIES, "any engine")
    harness = HARNESSES.get(benchmark.harness)
    if harness is None:
        return f"the adapter of {benchmark.harness} is not part of this installation"
    try:
        harness.version()
        require_questions(benchmark)
    except PreflightError as error:
        return f"{error.message}; {error.remedy}"
    except PackageNotFoundError as error:
        return f"the package {error.name} is not installed"
    return _hub_obstacle(benchmark.dataset) if isinstance(benchmark.dataset, Hub) else None


def _hub_obstacle(dataset: Hub) -> str | None:
    if cached(dataset):
        return None
    where = HUB_NAMES[dataset.hub]
    absent = f"the questions ({dataset.repository}) are not in the cache {_cache_folder(dataset.hub)}"
    offline = next((name for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE") if _set(name)), None)
    if dataset.hub == "huggingface" and offline:
        return f"{absent}, and {offline} forbids asking {where}"
    if not reachable(_address(dataset.hub)):
        return f"{absent}, and {where} ({_address(dataset.hub)}) cannot be reached"
    if dataset.gated and not (os.environ.get("HF_TOKEN") or (_home() / "token").is_file()):
        return f"{dataset.repository} is gated: accept its terms on {where} and set HF_TOKEN"
    return None


def cached(dataset: Hub) -> bool:
    """Whether the hub's own cache on this host holds the data set (whole or in part: its client completes it)."""
    folder = _cache_folder(dataset.hub)
    if dataset.hub == "huggingface":
        return any((folder / f"datasets--{dataset.repository.replace('/', '--')}").glob("snapshots/*/*"))
    return any((folder / "datasets" / dataset.repository).glob("*"))


@cache
def reachable(address: str) -> bool:
    """Whether a server answers at `address`, whatever it says; asked once."""
    import httpx

    try:
        httpx.head(address, timeout=HUB_TIMEOUT_S, follow_redirects=False)
    except httpx.HTTPError:
        return False
    return True


def _set(name: str) -> bool:
    return os.environ.get(name, "").upper() in TRUE


def _home() -> Path:
    return Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()


def _cache_folder(hub: str) -> Path:
    if hub == "huggingface":
        return Path(os.environ.get("HF_HUB_CACHE") or _home() / "hub").expanduser()
    return Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope/hub").expanduser()


def _address(hub: str) -> str:
    if hub == "huggingface":
        return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return "https://www.modelscope.cn"
