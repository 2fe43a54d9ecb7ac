"""Question sets that the project makes itself: the same seed gives the same questions, for ever.

They ask for skills that a model of some hundred million parameters has in part, so that a difference
between two servers of it can show: at 0 % or 100 % nothing could.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from evaluation.pictures import shapes
from evaluation.tool_call_questions import tool_calls

Question = dict[str, Any]

WORDS = (
    "apple river stone cloud tiger piano bread chair ocean window garden mirror pencil rabbit candle bottle "
    "forest hammer island jacket kitten ladder market needle orange pocket ribbon saddle tunnel basket"
).split()


def last_word(seed: int, items: int) -> list[Question]:
    """Lists of four words, of which the last is asked for."""
    random_source = random.Random(seed)  # noqa: S311 - not cryptography
    lists: dict[str, str] = {}
    while len(lists) < items:
        words = random_source.sample(WORDS, 4)
        lists[" ".join(words)] = words[-1]
    return [{"words": words, "answer": answer} for words, answer in lists.items()]


def number_sequence(seed: int, items: int) -> list[Question]:
    """Five numbers with a constant step, of which the sixth is asked for."""
    pairs = [(start, step) for start in range(1, 61) for step in range(1, 6)]
    chosen = random.Random(seed).sample(pairs, items)  # noqa: S311 - not cryptography
    return [
        {"numbers": ", ".join(str(start + step * i) for i in range(5)), "answer": str(start + step * 5)}
        for start, step in chosen
    ]


def addition(seed: int, items: int) -> list[Question]:
    """Sums of two numbers from 1 to 15: each pair once."""
    pairs = [(a, b) for a in range(1, 16) for b in range(1, 16)]
    chosen = random.Random(seed).sample(pairs, items)  # noqa: S311 - not cryptography
    return [{"a": a, "b": b, "answer": str(a + b)} for a, b in chosen]


GENERATORS: Mapping[str, Callable[[int, int], list[Question]]] = {
    "last_word": last_word,
    "number_sequence": number_sequence,
    "addition": addition,
    "tool_calls": tool_calls,
    "shapes": shapes,
}
