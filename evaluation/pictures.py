"""Questions about pictures of coloured shapes that the project draws itself: the same seed gives the same bytes.

A picture is an indexed-colour PNG (W3C, Portable Network Graphics, third edition), written here so that no drawing
library and no version of a compressor can change its bytes.
"""

from __future__ import annotations

import base64
import itertools
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

SIDE = 64
CELL = 28
"""Pixels of a quarter of the picture that a shape has, with its margin."""
SHAPE = 21
"""Pixels of a shape's side."""
GAP = 5
COLOURS = {"red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 119, 180), "orange": (255, 127, 14)}
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (127, 127, 127), "yellow": (255, 240, 130)}
COUNTS = ("1", "2", "3", "4")
Inside = Callable[[int, int], bool]
_MIDDLE = SHAPE // 2
SHAPES: dict[str, Inside] = {
    "square": lambda _x, _y: True,
    "circle": lambda x, y: (x - _MIDDLE) ** 2 + (y - _MIDDLE) ** 2 <= _MIDDLE**2,
    "triangle": lambda x, y: abs(x - _MIDDLE) <= y / 2,
    "cross": lambda x, y: min(abs(x - _MIDDLE), abs(y - _MIDDLE)) <= 1,
}
QUESTIONS = (
    ("Which shape is in the picture?", tuple(SHAPES)),
    ("Which colour do the shapes have?", tuple(COLOURS)),
    ("How many shapes are in the picture?", COUNTS),
    ("Which colour does the background have?", tuple(BACKGROUNDS)),
)


def shapes(seed: int, items: int) -> list[dict[str, Any]]:
    """Four questions with four choices on each picture, in the fields that evalscope's `general_vmcq` reads.

    `items` must be a multiple of 4; there are 1,024 at most.
    """
    random_source = random.Random(seed)  # noqa: S311 - not cryptography
    every = list(itertools.product(SHAPES, COLOURS, COUNTS, BACKGROUNDS))
    questions = []
    for facts in random_source.sample(every, items // len(QUESTIONS)):
        picture = "data:image/png;base64," + base64.b64encode(_draw(random_source, *facts)).decode()
        for (text, words), fact in zip(QUESTIONS, facts, strict=True):
            options = random_source.sample(words, len(words))
            questions.append(
                {
                    "question": f"<image 1> {text}",
                    "options": options,
                    "answer": "ABCD"[options.index(fact)],
                    "image_1": picture,
                }
            )
    return questions


def _draw(random_source: random.Random, shape: str, colour: str, count: str, background: str) -> bytes:
    rows = [bytearray(SIDE) for _ in range(SIDE)]
    quarters = random_source.sample(list(itertools.product((0, 1), repeat=2)), int(count))
    for across, down in quarters:
        left = GAP + across * CELL + random_source.randrange(CELL - SHAPE)
        top = GAP + down * CELL + random_source.randrange(CELL - SHAPE)
        for y, x in itertools.product(range(SHAPE), repeat=2):
            if SHAPES[shape](x, y):
                rows[top + y][left + x] = 1
    return png(rows, [BACKGROUNDS[background], COLOURS[colour]])


def png(rows: Sequence[bytes | bytearray], palette: Sequence[tuple[int, int, int]]) -> bytes:
    """A PNG of 8-bit palette indices, one sequence a row, at most 65,535 bytes of them.

    Its data are one stored block (RFC 1951, 3.2.4): what a compressor would write depends on its version.
    """
    data = b"".join(b"\0" + bytes(row) for row in rows)
    block = struct.pack("<BHH", 1, len(data), len(data) ^ 0xFFFF) + data
    stream = b"\x78\x01" + block + struct.pack(">I", zlib.adler32(data))
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    colours = b"".join(bytes(colour) for colour in palette)
    chunks = ((b"IHDR", header), (b"PLTE", colours), (b"IDAT", stream), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
