"""The canary's arithmetic against scipy's, its bars and words, and what the probes make of servers' answers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from evaluation import canary_probes
from evaluation.canary import bars, distances, judge, spread, statistics
from evaluation.canary_probes import Answer, Connection, NextTokenLogprobs, PromptLogprobs, Text, possible, probing
from evaluation.canary_texts import texts
from evaluation.harness.interface import Endpoint
from flagrelease.errors import ServerError
from flagrelease.policy import CanaryPolicy
from flagrelease.records import CanaryPrompt, CanaryStatistics, TopToken

POLICY = CanaryPolicy(prompts=8, tokens=16, positions=4, factor=2, reason="only for these tests")
VOCABULARY = 50
EQUAL = CanaryStatistics(positions=1000, mean_abs_logprob=0, top1_agreement=1, kl=0)
NOISY = CanaryStatistics(positions=1000, mean_abs_logprob=0.02, top1_agreement=0.99, kl=0.001)

Logprobs = NDArray[np.float64]


def alive(base_url: str = "http://stand-in") -> Endpoint:
    return Endpoint(base_url, "m", 2, lambda: None)


def systems(noise: float, places: int = 200) -> tuple[Logprobs, Logprobs]:
    """Log-probabilities of two systems, places × vocabulary."""
    random = np.random.default_rng(1)
    logits = random.normal(0, 3, (places, VOCABULARY))
    other = logits + random.normal(0, noise, logits.shape)
    return scipy.special.log_softmax(logits, axis=1), scipy.special.log_softmax(other, axis=1)


def listed(row: Logprobs, count: int) -> list[TopToken]:
    return [TopToken(token=int(token), logprob=float(row[token])) for token in np.argsort(-row)[:count]]


def prompt_of(rows: Logprobs, tokens: Sequence[int], count: int = 5) -> CanaryPrompt:
    return CanaryPrompt(
        prompt=[1],
        continuation=list(tokens),
        positions=list(range(len(tokens))),
        logprobs=[float(row[token]) for row, token in zip(rows, tokens, strict=True)],
        top=[listed(row, count) for row in rows],
    )


def answers_of(rows: Logprobs, tokens: Sequence[int], count: int, *, own: bool = True) -> list[Answer]:
    return [
        Answer(listed(row, count), float(row[token]) if own else None) for row, token in zip(rows, tokens, strict=True)
    ]


def test_statistics_are_those_of_scipy() -> None:
    ours, theirs = systems(noise=0.5)
    tokens = [int(token) for token in np.random.default_rng(2).integers(0, VOCABULARY, len(ours))]
    found = statistics(distances([prompt_of(ours, tokens)], [answers_of(theirs, tokens, VOCABULARY)]))

    places = np.arange(len(ours))
    top = np.argsort(-ours, axis=1)[:, :5]

    def buckets(rows: Logprobs) -> Logprobs:
        told = np.exp(np.take_along_axis(rows, top, axis=1))
        return np.column_stack([told, 1 - told.sum(axis=1)])

    floor = math.log(1e-6)
    off = np.maximum(ours[places, tokens], floor) - np.maximum(theirs[places, tokens], floor)
    assert found.positions == len(ours)
    assert found.mean_abs_logprob == pytest.approx(np.abs(off).mean())
    assert found.top1_agreement == pytest.approx((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
    assert 0.5 < found.top1_agreement < 1
    assert found.kl == pytest.approx(scipy.stats.entropy(buckets(ours), buckets(theirs), axis=1).mean(), rel=1e-4)


def test_the_divergence_never_exceeds_that_of_the_whole_distributions() -> None:
    ours, theirs = systems(noise=1)
    tokens = ours.argmax(axis=1).tolist()
    whole = scipy.stats.entropy(np.exp(ours), np.exp(theirs), axis=1)
    for count in (VOCABULARY, 20, 5, 1):
        (found,) = distances([prompt_of(ours, tokens)], [answers_of(theirs, tokens, count, own=False)])
        assert all(distance.kl <= limit + 1e-9 for distance, limit in zip(found, whole, strict=True))


def test_a_system_equals_itself() -> None:
    ours, _ = systems(0)
    tokens = ours.argmax(axis=1).tolist()
    found = statistics(distances([prompt_of(ours, tokens)], [answers_of(ours, tokens, 20)]))
    assert (found.mean_abs_logprob, found.top1_agreement) == (0, 1)
    assert found.kl == pytest.approx(0)


def test_what_is_not_told_is_understated_and_never_invented() -> None:
    def distance(own_logprob: float, told: Sequence[float]) -> float:
        reference = CanaryPrompt(
            prompt=[1],
            continuation=[9],
            positions=[0],
            logprobs=[own_logprob],
            top=[[TopToken(token=9, logprob=own_logprob)]],
        )
        answer = Answer([TopToken(token=token, logprob=math.log(value)) for token, value in enumerate(told)], None)
        return statistics(distances([reference], [[answer]])).mean_abs_logprob

    # The last of the told has 10 %: the token has 10 % at most, though 30 % are left.
    assert distance(math.log(0.8), [0.6, 0.1]) == pytest.approx(math.log(8))
    # Only 2 % are left.
    assert distance(math.log(0.8), [0.88, 0.1]) == pytest.approx(math.log(40))
    # It may well have the 5 % that the reference gives it.
    assert distance(math.log(0.05), [0.6, 0.1]) == 0


def test_a_tie_for_the_likeliest_token_is_no_change() -> None:
    reference = CanaryPrompt(
        prompt=[1],
        continuation=[3],
        positions=[0],
        logprobs=[math.log(0.4)],
        top=[[TopToken(token=3, logprob=math.log(0.4)), TopToken(token=4, logprob=math.log(0.4))]],
    )

    def agreement(*likely: tuple[int, float]) -> float:
        told = [TopToken(token=token, logprob=math.log(value)) for token, value in likely]
        return statistics(distances([reference], [[Answer(told, math.log(dict(likely)[3]))]])).top1_agreement

    assert agreement((4, 0.4), (3, 0.3)) == 1
    assert agreement((5, 0.35), (3, 0.35)) == 1
    assert agreement((5, 0.4), (3, 0.3)) == 0


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="no position"):
        statistics([[], []])


def test_bars_are_a_multiple_of_the_baselines_own_distance() -> None:
    allowed = bars(NOISY, POLICY, positions=1000)
    assert (allowed.mean_abs_logprob, allowed.kl) == (0.04, 0.002)
    assert allowed.top1_agreement == pytest.approx(0.98)


def test_a_baseline_that_repeats_itself_exactly_still_leaves_what_cannot_be_resolved() -> None:
    # float16 logits: two roundings of many values between 16 and 32, as numpy does them.
    random = np.random.default_rng(0)
    logits, shift = random.uniform(16, 31, 200_000), random.uniform(0, 1, 200_000)
    rounded = logits.astype(np.float16).astype(float) - logits
    again = (logits + shift).astype(np.float16).astype(float) - (logits + shift)
    allowed = bars(EQUAL, POLICY, positions=100)
    assert allowed.mean_abs_logprob == pytest.approx(2 * np.abs(rounded - again).mean(), rel=0.02)
    assert allowed.kl == pytest.approx(2 * 0.5 * np.var(rounded - again), rel=0.02)
    # 0 of 100 changed: up to 2.95 % may change (one-sided 95 % bound of Clopper and Pearson).
    bound = scipy.stats.binomtest(0, 100).proportion_ci(0.90, method="exact").high
    assert allowed.top1_agreement == pytest.approx(1 - 2 * bound)


def test_the_judge_says_in_words_what_is_wrong_and_where() -> None:
    ours, theirs = systems(noise=1, places=120)
    tokens = ours.argmax(axis=1).tolist()
    # Three texts; the middle one differs, the last a little.
    mixed = np.concatenate([ours[:40], theirs[40:80], (ours[80:] + theirs[80:]) / 2])
    parts = [slice(0, 40), slice(40, 80), slice(80, 120)]
    prompts = [prompt_of(ours[part], tokens[part]) for part in parts]
    answers = [answers_of(mixed[part], tokens[part], 20) for part in parts]
    result = judge(prompts, answers, NOISY, POLICY)
    assert not result.passed
    assert result.worst == [1, 2, 0]
    off, same, divergence = result.reasons
    assert off == (
        f"mean |Δ log p| {result.found.mean_abs_logprob:.2g} nats, allowed 0.04 "
        "(2 × the baseline's distance from itself)"
    )
    assert same.startswith(
        f"the likeliest token is the same at {result.found.top1_agreement:.2%} of the tokens, wanted"
    )
    assert divergence.startswith(f"KL divergence {result.found.kl:.2g} nats, allowed 0.002 ")

    strict = judge(prompts, answers, EQUAL, POLICY)
    assert strict.reasons[0].endswith(" nats, allowed 0.01 (2 × the resolution)")

    equal = judge(prompts, [answers_of(ours[part], tokens[part], 20) for part in parts], EQUAL, POLICY)
    assert equal.passed
    assert equal.reasons == []


def test_a_text_without_numbers_fails_the_canary() -> None:
    ours, _ = systems(0, places=40)
    tokens = ours.argmax(axis=1).tolist()
    answers = answers_of(ours, tokens, 20)
    answers[7] = Answer([], None)
    result = judge([prompt_of(ours, tokens)], [answers], NOISY, POLICY)
    assert not result.passed
    assert result.reasons[0] == "1 of 40 tokens have no finite log-probability"
    assert result.found.mean_abs_logprob > 0.1
    assert result.found.kl > 0.1
    assert result.found.top1_agreement == pytest.approx(39 / 40)


def test_positions_are_spread_evenly() -> None:
    assert spread(128, 4) == [16, 48, 80, 112]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(0, 8) == []


def test_texts_are_the_same_for_ever_differ_and_have_all_lengths() -> None:
    made = texts(500)
    assert made == texts(500)
    assert made[:10] == texts(10)
    assert len(set(made)) == len(made)
    assert made[0] == "At noon our neighbour wrote a letter near the station."
    lengths = [len(text.encode()) for text in made]
    assert min(lengths) < 100
    assert max(lengths) > 1100


def answering(reply: Callable[[str, dict[str, Any]], httpx.Response]) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: reply(request.url.path, json.loads(request.content or b"{}")))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_probes, "WAITS_S", (0, 0))
    monkeypatch.setattr(canary_probes, "DYING_S", 0)


def test_all_positions_come_from_one_request() -> None:
    asked = []

    def vllm_stand_in(path: str, body: dict[str, Any]) -> httpx.Response:
        asked.append((path, body["prompt"], body["prompt_logprobs"]))
        # The text's own token 8 is not among the twenty likeliest.
        told = {str(100 + rank): {"logprob": -float(rank), "rank": rank} for rank in range(1, 21)}
        own = {"8": {"logprob": -30.5, "rank": 4000}}
        return httpx.Response(200, json={"choices": [{"prompt_logprobs": [None, told, told | own, told | own]}]})

    probe = PromptLogprobs(Connection(alive(), answering(vllm_stand_in)))
    first, second = probe.read(Text([5, 101], [8, 8]), [0, 1])
    assert asked == [("/v1/completions", [5, 101, 8, 8], 20)]
    assert first == second
    assert [entry.token for entry in first.top] == list(range(101, 121))
    assert first.own == -30.5


def test_each_position_is_one_request_where_the_engine_tells_only_the_next_token() -> None:
    asked = []

    def llama_stand_in(path: str, body: dict[str, Any]) -> httpx.Response:
        if path == "/tokenize":
            return httpx.Response(200, json={"tokens": [4]})
        asked.append((body["prompt"], body["n_predict"], body["cache_prompt"]))
        told = [{"id": 3, "logprob": -0.5}, {"id": 8, "logprob": -1.5}]
        answer = {"tokens_evaluated": len(body["prompt"]), "completion_probabilities": [{"top_logprobs": told}]}
        return httpx.Response(200, json=answer)

    probe = NextTokenLogprobs(Connection(alive(), answering(llama_stand_in)))
    found = probe.read(Text([5, 6], [8, 9, 7]), [0, 2])
    assert asked == [([5, 6], 1, False), ([5, 6, 8, 9], 1, True)]
    assert [answer.own for answer in found] == [-1.5, None]
    assert found[0].top == [TopToken(token=3, logprob=-0.5), TopToken(token=8, logprob=-1.5)]


def test_a_server_that_adds_tokens_is_noticed() -> None:
    def stand_in_that_adds_a_token(path: str, body: dict[str, Any]) -> httpx.Response:
        told = {"tokens": [4]} if path == "/tokenize" else {"tokens_evaluated": len(body["prompt"]) + 1}
        return httpx.Response(200, json=told)

    probe = NextTokenLogprobs(Connection(alive(), answering(stand_in_that_adds_a_token)))
    with pytest.raises(ServerError, match="sent 2 tokens and the server read 3"):
        probe.read(Text([5, 6], [8]), [0])


@pytest.mark.parametrize("kind", ["not a number", "breaks down"])
def test_numbers_that_are_none_are_no_answer(kind: str) -> None:
    def broken_stand_in(path: str, body: dict[str, Any]) -> httpx.Response:
        if path == "/tokenize":
            return httpx.Response(200, json={"tokens": [4]})
        if path == "/health":
            return httpx.Response(200, json={})
        if kind == "breaks down":
            return httpx.Response(500, text="Out of range float values are not JSON compliant")
        told = [{"id": 3, "logprob": None}, {"id": 8, "logprob": -1.5}]
        answer = {"tokens_evaluated": len(body["prompt"]), "completion_probabilities": [{"top_logprobs": told}]}
        return httpx.Response(200, json=answer)

    probe = NextTokenLogprobs(Connection(alive(), answering(broken_stand_in)))
    assert probe.read(Text([5, 6], [8]), [0]) == [Answer([], None)]


LISTED = {"choices": [{"prompt_logprobs": [None, None, {"8": {"logprob": -1.5, "rank": 1}}]}]}


@pytest.mark.parametrize("passing", [429, 500, 502, 503, 504, "broken off"])
def test_what_a_request_fails_of_by_the_way_is_not_the_models_fault(passing: int | str) -> None:
    failures = iter([passing, passing])

    def busy_stand_in(_: str, __: dict[str, Any]) -> httpx.Response:
        match next(failures, None):
            case int() as status:
                return httpx.Response(status, text="try again")
            case str():
                raise httpx.ReadError("Connection reset by peer")
        return httpx.Response(200, json=LISTED)

    (answer,) = PromptLogprobs(Connection(alive(), answering(busy_stand_in))).read(Text([5, 6], [8]), [0])
    assert answer.own == -1.5


@pytest.mark.parametrize(
    ("status", "health", "said"),
    [
        (503, 200, r"no time for the canary \(/v1/completions, HTTP 503\)"),
        ("broken off", 200, "broke off the canary: Connection reset by peer"),
        (500, 503, r"not well \(/health, HTTP 503\)"),
    ],
)
def test_a_probe_that_cannot_be_made_is_no_verdict(status: int | str, health: int, said: str) -> None:
    def ill_stand_in(path: str, _: dict[str, Any]) -> httpx.Response:
        if path == "/health":
            return httpx.Response(health)
        if isinstance(status, str):
            raise httpx.ReadError("Connection reset by peer")
        return httpx.Response(status)

    with pytest.raises(ServerError, match=said) as failed:
        PromptLogprobs(Connection(alive(), answering(ill_stand_in))).read(Text([5, 6], [8]), [0])
    assert "run the same command again" in failed.value.remedy


def test_once_a_server_is_known_to_break_down_over_texts_nobody_waits_for_the_next() -> None:
    asked = []

    def broken_stand_in(path: str, _: dict[str, Any]) -> httpx.Response:
        asked.append(path)
        return httpx.Response(200 if path == "/health" else 500)

    probe = PromptLogprobs(Connection(alive(), answering(broken_stand_in)))
    assert [probe.read(Text([5, 6], [8]), [0]) for _ in range(2)] == [[Answer([], None)]] * 2
    assert asked.count("/v1/completions") == 3 + 1


def test_errors_name_what_the_server_said_and_why_it_is_gone() -> None:
    def refuses(_: str, __: dict[str, Any]) -> httpx.Response:
        return httpx.Response(400, text="prompt_logprobs is not supported")

    def dies(_: str, __: dict[str, Any]) -> httpx.Response:
        raise httpx.RemoteProtocolError("Server disconnected without sending a response.")

    def hangs(_: str, __: dict[str, Any]) -> httpx.Response:
        raise httpx.ReadTimeout("timed out")

    def read(endpoint: Endpoint, reply: Callable[[str, dict[str, Any]], httpx.Response]) -> None:
        PromptLogprobs(Connection(endpoint, answering(reply))).read(Text([5, 6], [8]), [0])

    with pytest.raises(ServerError, match=r"HTTP 400.*prompt_logprobs is not supported"):
        read(alive(), refuses)
    with pytest.raises(ServerError, match="died during the canary: ended by signal SIGKILL"):
        read(alive()._replace(failure=lambda: "ended by signal SIGKILL"), dies)
    with pytest.raises(ServerError, match="did not answer the canary within 300 s"):
        read(alive(), hangs)


def test_engines_that_tell_nothing_have_no_canary() -> None:
    assert possible({"generate", "prompt_logprobs"})
    assert possible({"generate", "next_token_logprobs"})
    assert not possible({"generate"})
    with pytest.raises(ValueError, match="needs one of"), probing(alive(), {"generate"}):
        pass
