"""Whether a Prefect server can be used, and what is said when a call to it fails."""

from __future__ import annotations

import asyncio

import httpx
import prefect
from packaging.version import Version
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL

from flagrelease.errors import DeployError, PreflightError
from runtime.launch.interface import Log

# Of a server that does not refuse connections and does not answer either.
ANSWER_TIMEOUT_S = 30
UNAUTHORIZED = (401, 403)
SERVER_ERROR = 500
# What a failed call raises.
TROUBLE = (httpx.HTTPError, PrefectException)


async def check(client: PrefectClient, say: Log) -> None:
    """Raise PreflightError unless a Prefect server answers that this client can talk to."""
    url = PREFECT_API_URL.value()
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            server = Version(await client.api_version())
    except (TimeoutError, httpx.TransportError) as error:
        raise PreflightError(
            f"the Prefect server at {url} does not answer: {error or type(error).__name__}",
            remedy="start it (prefect server start), or name another: prefect config set PREFECT_API_URL=…",
        ) from error
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in UNAUTHORIZED or status >= SERVER_ERROR:
            message, remedy = _explained(error)
            raise PreflightError(message, remedy=remedy) from error
        raise _no_api() from error
    except (ValueError, TypeError) as error:
        raise _no_api() from error
    ours = Version(prefect.__version__)
    if server.major != ours.major:
        raise PreflightError(
            f"the server at {url} runs Prefect {server}, this host has {ours}: they do not understand each other",
            remedy=f'bring both to one version: pip install "prefect=={ours}" where the server runs',
        )
    if server < ours:
        say(f"note: the server runs Prefect {server}, older than this host's {ours}; bring it to {ours} or newer")


def _no_api() -> PreflightError:
    return PreflightError(
        f"{PREFECT_API_URL.value()} answers, but is not the API of a Prefect server",
        remedy="its address ends in /api: prefect config set PREFECT_API_URL=http://<server>:4200/api",
    )


def failed(error: Exception, doing: str) -> DeployError:
    """A call that failed, with what was being done."""
    message, remedy = _explained(error)
    return DeployError(f"{doing}: {message}", remedy=remedy)


def _explained(error: Exception) -> tuple[str, str]:
    """What went wrong, and the next step."""
    url = PREFECT_API_URL.value()
    http = error if isinstance(error, httpx.HTTPStatusError) else getattr(error, "http_exc", None)
    if http is None:
        return (
            f"the Prefect server at {url} stopped answering ({type(error).__name__})",
            "see why in its log, start it, and run the same command again: it goes on with the rest",
        )
    status = http.response.status_code
    if status in UNAUTHORIZED:
        return (
            f"the Prefect server at {url} refused this client ({status})",
            "give it the server's name and password: prefect config set PREFECT_API_AUTH_STRING=<name>:<password>",
        )
    try:
        detail = http.response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = http.response.text.strip()
    return (
        f"the Prefect server at {url} answered {status}: {detail}",
        "see its log; the same command goes on where this one stopped",
    )
