"""A stand-in for a server of a model that calls tools: it knows the expected calls, and answers with them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, Any]]


def called(question: dict[str, Any]) -> Reply:
    """The expected call, or a text where none is expected."""
    message: dict[str, Any] = {"role": "assistant", "content": None if question["expected"] else "No tool is needed."}
    if question["expected"]:
        arguments = json.dumps(question["arguments"])
        function = {"name": question["expected"], "arguments": arguments}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
    reason = "tool_calls" if question["expected"] else "stop"
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    return 200, {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": usage}


class StandInToolCaller:
    """Answers `questions`, each tool adding 100 tokens to the prompt; `reply` and `tokens_of_a_tool` may be replaced.

    `asked` are the requests whose answer may be longer than a token; the shorter ones only look at the prompt.
    """

    def __init__(self, questions: list[dict[str, Any]]) -> None:
        self._by_text = {question["messages"][0]["content"]: question for question in questions}
        self.reply: Callable[[dict[str, Any]], Reply] = called
        self.tokens_of_a_tool = 100
        self.asked: list[dict[str, Any]] = []
        self.alive = True

    def answer(self, body: dict[str, Any]) -> Reply:
        """The reply to a request."""
        if body["max_tokens"] > 1:
            self.asked.append(body)
        status, reply = self.reply(self._by_text[body["messages"][0]["content"]])
        if "usage" in reply:
            reply["usage"]["prompt_tokens"] += self.tokens_of_a_tool * len(body.get("tools", []))
        return status, reply

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve until the end of the block; the base URL."""
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not stand_in.alive:
                    # As a killed server does: the connection ends without a response.
                    self.close_connection = True
                    return
                status, reply = stand_in.answer(body)
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
