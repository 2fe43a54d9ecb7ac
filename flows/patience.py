"""Waiting for Prefect's server and the store's database: who follows runs for days outlives a restart of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from prefect.exceptions import PrefectHTTPStatusError

from flagrelease.errors import DeployError, StoreError, is_transient
from runtime.launch.interface import Log

T = TypeVar("T")
OUTAGE_S = 3600.0
RETRY_S = 5.0
SERVER_ERROR = 500


def patiently(call: Callable[[], T], log: Log) -> T:
    """What the call returns; it is made again while what it asks is away, for an hour at most.

    Raises DeployError where Prefect's server, StoreError where the store's database was away for longer; what else
    the call raises at once.
    """
    end, said = time.monotonic() + OUTAGE_S, False
    while True:
        try:
            return call()
        except (httpx.TransportError, PrefectHTTPStatusError, StoreError) as error:
            if not _away(error):
                raise
            if time.monotonic() > end:
                if isinstance(error, StoreError):
                    raise
                raise DeployError(
                    f"Prefect's server has not answered for {OUTAGE_S / 60:.0f} minutes: {error}",
                    remedy="see its log and start it; the same run goes on with: prefect flow-run retry <its id>",
                ) from error
            if not said:
                log(f"asking again each {RETRY_S:.0f} s, as nothing answers: {' '.join(str(error).split())}")
                said = True
            time.sleep(RETRY_S)


def _away(error: Exception) -> bool:
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code >= SERVER_ERROR
    return is_transient(error)
