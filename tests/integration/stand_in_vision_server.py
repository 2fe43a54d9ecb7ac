"""A stand-in for a served vision model: `stand_in_vision_server.py [blind]`. It prints the port that it listens on.

It is no model: it decodes the picture of the request and works out the answer. It cannot count beyond three. A blind
one refuses pictures.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import sys
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from evaluation.pictures import BACKGROUNDS, COLOURS

Rows = list[bytes]


def decode(data: bytes) -> tuple[Rows, list[tuple[int, int, int]]]:
    """Rows of palette indices, and the palette."""
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(
            data[at + 4 : at + 8] + body
        )
        chunks[data[at + 4 : at + 8]] = body
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    pixels, palette = zlib.decompress(chunks[b"IDAT"]), chunks[b"PLTE"]
    rows = [pixels[y * (width + 1) + 1 : (y + 1) * (width + 1)] for y in range(height)]
    return rows, [(palette[i], palette[i + 1], palette[i + 2]) for i in range(0, len(palette), 3)]


def blobs(rows: Rows) -> list[set[tuple[int, int]]]:
    """The connected parts of the foreground."""
    open_ = {(x, y) for y, row in enumerate(rows) for x, value in enumerate(row) if value}
    found = []
    while open_:
        blob, front = set(), [open_.pop()]
        while front:
            x, y = front.pop()
            blob.add((x, y))
            near = {(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)} & open_
            open_ -= near
            front.extend(near)
        found.append(blob)
    return found


def shape(blob: set[tuple[int, int]]) -> str:
    """By the share of its bounding box that it fills."""
    width, height = (max(values) - min(values) + 1 for values in zip(*blob, strict=True))
    filled = len(blob) / (width * height)
    return next(
        name for name, least in (("square", 0.9), ("circle", 0.65), ("triangle", 0.4), ("cross", 0)) if filled >= least
    )


def see(question: str, picture: bytes) -> str:
    rows, palette = decode(picture)
    counted = Counter(value for row in rows for value in row)
    colour = {rgb: name for name, rgb in (COLOURS | BACKGROUNDS).items()}
    if "background" in question:
        return colour[palette[counted.most_common(1)[0][0]]]
    if "How many" in question:
        return str(min(3, len(blobs(rows))))
    return shape(blobs(rows)[0]) if "shape is" in question else colour[palette[1]]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "blind" in sys.argv:
            self.answer(400, {"error": {"message": "this model takes no pictures"}})
            return
        parts = body["messages"][0]["content"]
        text = "".join(part.get("text", "") for part in parts)
        (url,) = (part["image_url"]["url"] for part in parts if part["type"] == "image_url")
        seen = see(text, base64.b64decode(url.partition(",")[2]))
        options = {word: letter for letter, word in re.findall(r"^([A-D])\) (.+)$", text, re.M)}
        said = f"I see {seen}.\n\nANSWER: {options[seen]}"
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": len(said.split())}
        self.answer(200, {"choices": [choice], "usage": usage})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
