"""Beginnings of texts that the baseline writes on for the canary: the same for ever, made by the project itself.

They are of many kinds and lengths, because an operator can be wrong for one shape or one part of the vocabulary only.
"""

from __future__ import annotations

import random
from collections.abc import Callable

SEED = 20_261_121
LENGTHS = (40, 120, 300, 600, 1200)
"""Least lengths, in bytes, which the texts take in turn: some ten to a thousand tokens."""

_PEOPLE = "the baker|a nurse|our neighbour|the captain|Maria|the old teacher|a student|Tom and his sister".split("|")
_ACTS = "found a key|opened the window|wrote a letter|counted the boxes|repaired the boat|looked for the map".split("|")
_PLACES = "in the harbour|behind the school|near the station|under the bridge|on the third floor|at sea".split("|")
_TIMES = "Before sunrise|On Monday|After the storm|Last winter|At noon|Two days later|Every evening".split("|")
_SUBJECTS = "Iron|Rain|Bread|A glacier|The moon|Paper|A compass|Salt water|Glass|A violin".split("|")
_FACTS = (
    "is made in several steps|changes when it gets warm|was known long before it was understood|can be measured"
    "|is heavier than it looks|follows a simple rule"
).split("|")
_BECAUSE = (
    "because heat moves from warm to cold|since its parts attract each other|as anybody can test at home"
    "|although the details are difficult|so that small causes have large effects"
).split("|")
_NAMES = "total|count|width|price|index|offset|weight|limit".split("|")
_CHINESE_WHO = "老师|我的朋友|船长|邻居|小王|那位医生".split("|")
_CHINESE_DID = "在学校后面找到一把钥匙|给家人写了一封信|修好了旧自行车|去市场买了三斤苹果|在图书馆读了一本书".split("|")
_CHINESE_WHEN = "昨天早上|下雨以后|去年冬天|每天晚上|星期一".split("|")


def _story(pick: random.Random) -> str:
    return f"{pick.choice(_TIMES)} {pick.choice(_PEOPLE)} {pick.choice(_ACTS)} {pick.choice(_PLACES)}. "


def _explanation(pick: random.Random) -> str:
    return f"{pick.choice(_SUBJECTS)} {pick.choice(_FACTS)}, {pick.choice(_BECAUSE)}. "


def _sums(pick: random.Random) -> str:
    first, second = pick.randint(2, 99), pick.randint(2, 99)
    return f"{first} + {second} = {first + second}\n"


def _code(pick: random.Random) -> str:
    name, other = pick.sample(_NAMES, 2)
    return f"def {name}_of({other}):\n    {name} = {other} * {pick.randint(2, 9)}\n    return {name}\n\n"


def _table(pick: random.Random) -> str:
    return f"| {pick.choice(_NAMES)} | {pick.randint(1, 999)} | {pick.choice(_PLACES)} |\n"


def _dialogue(pick: random.Random) -> str:
    person = pick.choice(_PEOPLE)
    return f"Question: What did {person} do {pick.choice(_PLACES)}?\nAnswer: {person} {pick.choice(_ACTS)}.\n"


def _chinese(pick: random.Random) -> str:
    return f"{pick.choice(_CHINESE_WHEN)}，{pick.choice(_CHINESE_WHO)}{pick.choice(_CHINESE_DID)}。"


_KINDS: tuple[Callable[[random.Random], str], ...] = (
    _story,
    _explanation,
    _sums,
    _code,
    _table,
    _dialogue,
    _chinese,
)


def texts(count: int) -> list[str]:
    """`count` different beginnings; fewer are the first of more. Every kind meets every length within 35 texts."""
    made: list[str] = []
    for number in range(count):
        pick = random.Random(SEED + number)  # noqa: S311 - not cryptography
        kind, length = _KINDS[number % len(_KINDS)], LENGTHS[number % len(LENGTHS)]
        text = kind(pick)
        while len(text.encode()) < length or text.rstrip() in made:
            text += kind(pick)
        made.append(text.rstrip())
    return made
