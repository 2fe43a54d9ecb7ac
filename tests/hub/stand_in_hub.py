"""A stand-in for a hub on this host: it serves the real libraries, keeps everything in git, and fails where asked to.

It refuses what real hubs are known to refuse. What it cannot prove: their checks of a card, their limits, how long
their listings lag.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.git_store import GitStore


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with requests that match."""

    method: str
    path: str
    """Regular expression, searched in the path."""
    status: int | None = None
    """Answer with this, having done nothing."""
    says: str = "asked to fail"
    """In the fields where hubs say why; of a 200 the whole answer, which is no JSON."""
    code: int = 0
    """Number of the reason, which ModelScope gives."""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    """Break the connection, having done nothing."""
    halfway: bool = False
    """Break it while the request is still being sent."""
    lost: bool = False
    """Do it, then answer with `status`, or break the connection."""
    before: Callable[[], object] | None = None
    """Called before the request is done; with nothing else set it is then done."""
    stale: bool = False
    """Answer as before the newest commit."""
    times: int = 1
    """Requests that it still befalls."""

    def answer(self) -> Answer | None:
        """What the client gets; None: the connection breaks."""
        if self.status == 200:
            return Answer(200, self.says.encode(), {"Content-Type": "text/html"})
        if self.status is None:
            return None
        body = {"error": self.says, "Message": self.says, "Code": self.code}
        return Answer.of(body, self.status, **self.headers)


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body or b"null")


@dataclass(frozen=True)
class Answer:
    """What it gets."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Any, status: int = 200, **headers: str) -> Answer:
        return cls(status, json.dumps(data).encode(), {"Content-Type": "application/json", **headers})


class StandInHub:
    """One hub. Its protocol is a subclass: `ROUTES` maps a method and a path with groups to the name of a function."""

    BRANCH: ClassVar[str]
    ROUTES: ClassVar[tuple[tuple[str, str, str], ...]]

    def __init__(self, root: Path, *, token: str, namespaces: tuple[str, ...]) -> None:
        self.store = GitStore(root, self.BRANCH)
        self.token, self.namespaces = token, namespaces
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        """Method and path of each, in their order."""
        self.answered: list[tuple[str, str, int]] = []
        """Method, path with query, and status of each that got an answer."""
        self.unknown: list[str] = []
        """Those that no route is for: a library that asks something new, and a mistake in a test."""
        self.foreign_tokens: list[str] = []
        """Requests that carried the token to where it does not belong."""
        self.endpoint = ""
        self._lock = threading.Lock()
        self._before: dict[str, str] = {}

    def fail(self, method: str, path: str, **what: Any) -> None:
        """Let the next request (or `times`) that matches go wrong."""
        self.faults.append(Fault(method=method, path=path, **what))

    def write(self, name: str, files: Mapping[str, bytes], title: str = "somebody else") -> None:
        """What another writer does."""
        self.store.commit(name, files, (), title)

    def head(self, name: str, *, stale: bool) -> str | None:
        """The branch's commit; `stale`: the one before."""
        commit = self.store.resolve(name, self.BRANCH)
        return (self.store.resolve(name, f"{commit}~1") or commit) if stale and commit else commit

    @contextmanager
    def running(self) -> Iterator[StandInHub]:
        hub = self

        class Handler(_Handler):
            served = hub

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def serve(self, request: Request) -> Answer | None:
        """The answer to a request; None: the connection breaks."""
        with self._lock:
            self.requests.append(f"{request.method} {request.path}")
        fault = self._fault(request.method, request.path)
        if fault is None:
            return self._route(request, stale=False)
        if fault.before:
            fault.before()
        if fault.lost or not (fault.status or fault.cut):
            answer = self._route(request, stale=fault.stale)
            if not fault.lost:
                return answer
        return fault.answer()

    def breaks_halfway(self, method: str, path: str) -> bool:
        """Whether a request that is being sent is not read to its end."""
        return self._fault(method, path, halfway=True) is not None

    def _fault(self, method: str, path: str, *, halfway: bool = False) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                due = fault.times and fault.halfway == halfway and fault.method == method
                if due and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def _route(self, request: Request, *, stale: bool) -> Answer:
        for method, pattern, name in self.ROUTES:
            found = re.fullmatch(pattern, request.path)
            if found and method == request.method:
                groups = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
                if "stale" in getattr(self, name).__code__.co_varnames:
                    groups["stale"] = stale  # type: ignore[assignment]
                with self.store.lock:
                    return self.refused(request, groups) or getattr(self, name)(request, **groups)
        self.unknown.append(f"{request.method} {request.path}")
        return Answer.of({"error": "no such route"}, 404)

    def open_to_all(self, request: Request, name: str | None) -> bool:
        """Whether a request without a token may be answered: it reads from a public repository."""
        return (
            "authorization" not in request.headers
            and request.method in ("GET", "HEAD")
            and self.store.visibility.get(name or "") == "public"
        )

    def refused(self, request: Request, groups: Mapping[str, str]) -> Answer | None:
        """Why a request is refused before it is looked at."""
        raise NotImplementedError


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave together: else each answer waits for the client's delayed acknowledgement.
    wbufsize = -1
    served: ClassVar[StandInHub]

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if self.served.breaks_halfway(self.command, parts.path):
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        answer = self.served.serve(Request(self.command, parts.path, query, headers, body))
        if answer is None:
            self.close_connection = True
            return
        self.served.answered.append((self.command, self.path, answer.status))
        self.send_response(answer.status)
        for key, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass
