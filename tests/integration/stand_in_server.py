"""A stand-in for a model server: `stand_in_server.py MODE PORT [HOST]`. It answers as an engine or fails as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


def main() -> None:
    mode, port = sys.argv[1], int(sys.argv[2])
    print("loading the model", flush=True)
    if mode == "dies":
        print("RuntimeError: corrupt tensor blk.3", flush=True)
        sys.exit(7)
    if mode == "dies_oddly":
        sys.exit(-1)
    if mode == "killed":
        os.kill(os.getpid(), 9)
    if mode == "children":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}", flush=True)
    if mode == "hangs":
        time.sleep(600)

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.answer({"data": [{"id": "other" if mode == "other_model" else "stand-in"}]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer({"choices": [{"text": "" if mode == "mute" else " Paris"}]})

        def log_message(self, *_: object) -> None:
            pass

    HTTPServer((sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
