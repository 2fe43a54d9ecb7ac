"""Tool calls: the questions can be answered, answers are scored as a client sees them, a loss is told from noise."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from evaluation.fidelity import Decision, judge
from evaluation.harness.tool_calls import decide
from evaluation.tool_call_questions import SCHEMAS, tool_calls
from flagrelease.policy import FidelityPolicy
from flagrelease.records import Item, NoiseFloor
from flagrelease.verdicts import FidelityVerdict

SEED = 20261101
POLICY = FidelityPolicy(min_drop_points=2, reason="for these tests")
NEEDED, N = 120, 200
QUESTIONS = tool_calls(SEED, N)


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}


def question(tool: str) -> dict[str, Any]:
    return next(question for question in QUESTIONS if question["expected"] == tool)


def perfect(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """What a perfect stand-in calls."""
    return [call(asked["expected"], asked["arguments"])] if asked["expected"] else []


def test_three_fifths_need_a_tool_that_is_offered_and_the_rest_none() -> None:
    kinds = Counter(question["kind"] for question in QUESTIONS)
    assert kinds == {"tool": NEEDED, "not_offered": 40, "chat": 40}
    for asked in QUESTIONS:
        offered = [tool["function"]["name"] for tool in asked["tools"]]
        assert 1 <= len(set(offered)) == len(offered) <= 4
        assert (asked["expected"] in offered) == (asked["kind"] == "tool")
    expected = Counter(question["expected"] for question in QUESTIONS if question["expected"])
    assert expected == dict.fromkeys(SCHEMAS, 15)


@pytest.mark.parametrize("tool", SCHEMAS)
def test_schemas_are_schemas_and_refuse_fields_that_they_do_not_name(tool: str) -> None:
    schema = SCHEMAS[tool][1]
    Draft202012Validator.check_schema(schema)
    assert not Draft202012Validator(schema).is_valid({})
    assert not Draft202012Validator(schema).is_valid({**question(tool)["arguments"], "invented": 1})


def test_a_perfect_stand_in_is_right_on_every_question() -> None:
    for asked in QUESTIONS:
        decision = decide(asked, perfect(asked))
        assert decision.right, asked
        assert decision.valid is (True if asked["expected"] else None)


TIMER = {"minutes": 10, "label": "tea"}
ORDER = question("place_order")["arguments"]


@pytest.mark.parametrize(
    ("tool", "calls", "valid"),
    [
        ("set_timer", [], None),
        ("set_timer", [call("set_timer", '{"minutes": 10')], False),
        ("set_timer", [call("set_timer", "")], False),
        ("set_timer", [call("set_timer", {"label": "tea"})], False),
        ("set_timer", [call("set_timer", {"minutes": "10"})], False),
        ("set_timer", [call("set_timer", {"minutes": 181})], False),
        ("set_timer", [{"name": "set_timer", "arguments": TIMER}], False),
        ("set_timer", [call("start_countdown", TIMER)], False),
        ("set_timer", [call("set_timer", TIMER), call("set_timer", TIMER)], True),
        ("get_weather", [call("get_weather", {"city": "Oslo", "unit": "kelvin"})], False),
        ("place_order", [call("place_order", {**ORDER, "products": []})], False),
        ("place_order", [call("place_order", {**ORDER, "products": [{"name": "marker", "quantity": 0}]})], False),
        ("place_order", [call("place_order", {**ORDER, "delivery": {"street": "1 Mill Lane"}})], False),
    ],
)
def test_calls_that_are_not_as_needed_score_nothing(tool: str, calls: list[dict[str, Any]], valid: bool | None) -> None:
    decision = decide(question(tool), calls)
    assert not decision.right
    assert decision.valid is valid


def test_another_offered_tool_and_a_call_that_is_not_needed_are_wrong_though_valid() -> None:
    several = next(question for question in QUESTIONS if question["expected"] and len(question["tools"]) > 1)
    other = next(
        tool["function"]["name"] for tool in several["tools"] if tool["function"]["name"] != several["expected"]
    )
    chat = next(question for question in QUESTIONS if question["kind"] == "chat")
    offered = chat["tools"][0]["function"]["name"]
    for asked, name in ((several, other), (chat, offered)):
        decision = decide(asked, [call(name, question(name)["arguments"])])
        assert (decision.right, decision.valid) == (False, True)


@cache
def item(number: int, called: bool, valid: bool = True, repeat: int = 0) -> Item:
    """The answer to one question; the first 120 need a tool."""
    decision = Decision(
        expected="a" if number < NEEDED else None, called=["a"] * called, valid=valid if called else None
    )
    return Item(
        benchmark="tool_calls",
        item=str(number),
        repeat=repeat,
        score=float(decision.right),
        prompt="p",
        answer="said",
        extracted=decision.model_dump_json(),
    )


def side(hits: int, extra: int = 0, invalid: int = 0) -> list[Item]:
    """Calls in the first `hits` questions and in `extra` that need no tool; `invalid` of them with wrong arguments."""
    called = {*range(hits), *range(NEEDED, NEEDED + extra)}
    return [item(number, number in called, number >= invalid) for number in range(N)]


def verdict(candidate: list[Item], baseline: list[Item], floor: NoiseFloor | None = None) -> FidelityVerdict:
    return judge("Tool calls", candidate, baseline, floor, POLICY, 0.05)


def test_equal_sides_pass_and_the_values_are_those_of_the_definitions() -> None:
    found = verdict(side(100, 20, 6), side(100, 20, 6))
    assert found.passed
    assert found.n == N
    # Precision 100/120, recall 100/120; 6 of 120 calls do not fit.
    assert found.trigger_f1 == pytest.approx((100 / 120, 100 / 120))
    assert found.schema_validity == pytest.approx((0.95, 0.95))
    assert found.allowed_drop == 0.02
    assert "F1 of calling where the baseline does: 1.00" in found.reason


@pytest.mark.parametrize(
    ("candidate", "drop"),
    [
        (side(100), "trigger F1 90.9% against 100.0% (drop allowed: 2.0)"),
        (side(120, 10), "trigger F1 96.0% against 100.0% (drop allowed: 2.0)"),
        (side(120, 0, 6), "schema validity 95.0% against 100.0% (drop allowed: 2.0)"),
    ],
)
def test_a_drop_fails_and_is_named_but_a_gain_passes(candidate: list[Item], drop: str) -> None:
    found = verdict(candidate, side(120))
    assert not found.passed
    assert drop in found.reason
    assert verdict(side(120), candidate).passed


def test_a_drop_of_exactly_what_is_allowed_passes() -> None:
    policy = FidelityPolicy(min_drop_points=2.5, reason="3 of 120 calls")
    assert judge("Tool calls", side(120, 0, 3), side(120), None, policy, 0.05).passed
    assert not judge("Tool calls", side(120, 0, 4), side(120), None, policy, 0.05).passed


def test_a_baseline_that_changes_against_itself_allows_more() -> None:
    floor = NoiseFloor(benchmark="tool_calls", n=N, flips=20, discordance=0.1, how="for this test")
    assert not verdict(side(114), side(120)).passed
    found = verdict(side(114), side(120), floor)
    assert found.passed
    # z · √(ψ n) items, each of them 1 of 240 calls made or needed.
    assert found.allowed_drop == pytest.approx(1.6449 * np.sqrt(0.1 * N) / 240, rel=1e-3)


def test_unanswered_questions_count_as_no_call() -> None:
    found = verdict(side(120)[10:], side(120))
    assert not found.passed
    assert found.trigger_f1[1] == pytest.approx(2 * 110 / 230)
    assert not verdict([], side(120)).passed


def test_where_nobody_calls_nothing_is_lost_and_nothing_is_known() -> None:
    found = verdict(side(0), side(0))
    assert found.passed
    assert (found.trigger_f1, found.schema_validity) == ((0, 0), (1, 1))
    assert "nothing is known" in found.reason


def test_a_candidate_that_calls_where_the_baseline_never_does_fails() -> None:
    assert verdict(side(0, 4), side(0)).passed
    found = verdict(side(0, 5), side(0))
    assert not found.passed
    assert "the candidate in 5" in found.reason
    assert not verdict(side(100), side(0)).passed


def test_a_candidate_that_calls_nothing_fails_by_its_decisions_alone() -> None:
    found = verdict(side(0), side(120))
    assert not found.passed
    assert found.schema_validity == (1, 1)
    assert "schema validity" not in found.reason


def test_a_baseline_without_items_is_refused() -> None:
    with pytest.raises(ValueError, match="no items"):
        verdict([], [])


def simulated(chance: np.ndarray, fits: np.ndarray, repeats: int, rng: np.random.Generator) -> list[Item]:
    """A stand-in for a sampling model: its chance to call, and that the arguments fit, item by item."""
    return [
        item(number, bool(rng.random() < chance[number]), bool(rng.random() < fits[number]), repeat)
        for repeat in range(repeats)
        for number in range(N)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [2, 4])
def test_equal_sampling_systems_pass_and_a_loss_is_found(repeats: int) -> None:
    rng = np.random.default_rng(SEED)
    passed = found = 0
    trials = 30
    for _ in range(trials):
        chance = np.where(np.arange(N) < NEEDED, 0.98, 0.02)
        unsteady = rng.random(N) < 0.15
        chance[unsteady] = rng.uniform(0.2, 0.8, unsteady.sum())
        fits = np.where(rng.random(N) < 0.05, 0.5, 1.0)
        baseline = simulated(chance, fits, repeats, rng)
        passed += verdict(simulated(chance, fits, repeats, rng), baseline).passed
        found += not verdict(simulated(chance * 0.85, fits, repeats, rng), baseline).passed
    # Of equal systems at most alpha = 5 % fail in the long run: of thirty, four or more with a chance of 6 %.
    assert passed >= trials - 3
    assert found >= trials - 3
