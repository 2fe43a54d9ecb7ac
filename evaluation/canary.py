"""Tier 0 of the gate: next-token distributions on the baseline's own texts, before any benchmark is asked.

The baseline writes texts; every system then reads them (teacher forcing), so that systems are compared at the same
places, however differently they would have written. A broken operator shows here within a minute.

What is compared, at each scored position (natural logarithms, so the unit is nats):

* |Δ log p| of the text's own token;
* whether the baseline's likeliest token is the candidate's likeliest too (a tie counts as yes);
* the Kullback-Leibler divergence KL(baseline ‖ candidate) over K + 1 buckets: the K tokens that the baseline told, and
  all others together. Those of the K that the candidate did not tell join the others. Merging tokens never adds
  divergence (log-sum inequality), so this is a lower bound of the whole divergence.

The text's own token, where the candidate did not tell it, is at most as likely as the least likely token that it told,
and has at most the mass that is left; it is given that bound. So both distances are understated rather than invented.
Probabilities below `SMALLEST` count as `SMALLEST`. An answer without numbers counts as one that gives each of the
baseline's tokens just that.

KL divergence tells changed systems apart that accuracy does not (Dutta et al. 2024, arXiv 2407.09141).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from evaluation.canary_probes import Answer, Probe, Text, probing
from evaluation.canary_texts import texts
from evaluation.harness.interface import Endpoint
from flagrelease.errors import ServerSettingsError
from flagrelease.policy import CanaryPolicy
from flagrelease.records import CanaryPrompt, CanaryReference, CanaryStatistics, TopToken
from flagrelease.verdicts import CanaryResult

Log = Callable[[str], None]

Asked = TypeVar("Asked")
Told = TypeVar("Told")

KEPT = 5
"""Likeliest tokens that the reference keeps of each position: the K of the divergence."""
SMALLEST = 1e-6
"""Probability below which tokens are not told apart: the rest of a float32 sum of probabilities is no more exact."""
LOGIT_STEP = 2.0**-6
"""Distance of neighbouring float16 numbers from 16 to 32, where the likeliest tokens' logits lie."""
ALPHA = 0.05
IN_FLIGHT = 16
"""Texts read at once, at most."""
WORST = 8
"""Texts that a result names."""
SAY_EVERY_S = 10.0


class Distance(NamedTuple):
    """How far two systems lie apart at one position."""

    logprob: float
    """|Δ log p| of the text's own token, nats."""
    agrees: bool
    kl: float
    """Nats."""


def write(endpoint: Endpoint, capabilities: Collection[str], policy: CanaryPolicy, log: Log) -> list[CanaryPrompt]:
    """The baseline's texts and how likely it finds their tokens: `policy.prompts` of them, up to `policy.tokens` long.

    A text ends early where the model ends it. ServerError where the server dies, does not answer, or tells nothing.
    """
    with probing(endpoint, capabilities) as asked:

        def one(beginning: str) -> CanaryPrompt:
            text = asked.write(beginning, policy.tokens)
            count = len(text.continuation)
            positions = list(range(count)) if asked.every else spread(count, policy.positions)
            answers = asked.read(text, positions)
            # The text was written greedily, so its tokens are among the likeliest; rounding may undo that at a tie.
            told = [(at, answer, answer.own) for at, answer in zip(positions, answers, strict=True)]
            kept = [(at, answer.top[:KEPT], own) for at, answer, own in told if own is not None]
            return CanaryPrompt(
                prompt=text.prompt,
                continuation=text.continuation,
                positions=[at for at, _, _ in kept],
                logprobs=[own for _, _, own in kept],
                top=[top for _, top, _ in kept],
            )

        prompts = _each(one, texts(policy.prompts), endpoint.concurrency, log, "written")
    if not any(prompt.positions for prompt in prompts):
        raise ServerSettingsError(
            "the baseline wrote nothing that the canary can use: no text, or no log-probabilities",
            remedy="see what the server answers to a completion; it cannot be a reference like this",
        )
    return prompts


def make_reference(
    prompts: list[CanaryPrompt], again: Endpoint, capabilities: Collection[str], how: str, log: Log
) -> CanaryReference:
    """The texts with the baseline's distance from itself: `again` serves the same weights once more.

    `how` says for people what differs between the two servers. Errors as in `write`.
    """
    with probing(again, capabilities) as asked:
        answers = read(prompts, asked, again.concurrency, log)
    return CanaryReference(prompts=prompts, floor=statistics(distances(prompts, answers)), how=how)


def measure(
    reference: CanaryReference, endpoint: Endpoint, capabilities: Collection[str], policy: CanaryPolicy, log: Log
) -> CanaryResult:
    """The served candidate against the reference. Errors as in `write`."""
    start = time.monotonic()
    with probing(endpoint, capabilities) as asked:
        prompts = reference.prompts if asked.every else [_scored(p, policy.positions) for p in reference.prompts]
        answers = read(prompts, asked, endpoint.concurrency, log)
    result = judge(prompts, answers, reference.floor, policy)
    log(
        f"canary: {'passed' if result.passed else 'FAILED'} on {result.found.positions} tokens in "
        f"{time.monotonic() - start:.0f} s: {'; '.join(result.reasons) or _words(result.found)}"
    )
    return result


def read(prompts: Sequence[CanaryPrompt], asked: Probe, concurrency: int, log: Log) -> list[list[Answer]]:
    """What the probed model says at each position of each text. Errors as in `write`."""
    return _each(
        lambda prompt: asked.read(Text(prompt.prompt, prompt.continuation), prompt.positions),
        prompts,
        concurrency,
        log,
        "read",
    )


def distances(prompts: Sequence[CanaryPrompt], answers: Sequence[Sequence[Answer]]) -> list[list[Distance]]:
    """How far the answers lie from the reference, at each position of each text."""
    return [
        [
            _distance(token, logprob, top, answer)
            for token, logprob, top, answer in zip(
                [prompt.continuation[at] for at in prompt.positions], prompt.logprobs, prompt.top, told, strict=True
            )
        ]
        for prompt, told in zip(prompts, answers, strict=True)
    ]


def statistics(found: Sequence[Sequence[Distance]]) -> CanaryStatistics:
    """Means over all positions of all texts; ValueError where there is none."""
    flat = [distance for text in found for distance in text]
    if not flat:
        msg = "there is no position to compare"
        raise ValueError(msg)
    return CanaryStatistics(
        positions=len(flat),
        mean_abs_logprob=sum(distance.logprob for distance in flat) / len(flat),
        top1_agreement=sum(distance.agrees for distance in flat) / len(flat),
        kl=sum(distance.kl for distance in flat) / len(flat),
    )


def bars(floor: CanaryStatistics, policy: CanaryPolicy, positions: int) -> CanaryStatistics:
    """What is allowed of a candidate that was scored at `positions` positions: `policy.factor` times the floor.

    The floor is the baseline's distance from itself, but at least what such a comparison can resolve. A server that
    repeats itself to the last bit has a distance of 0, which no other implementation of the same model can keep.

    * Two roundings of a logit to float16, of step s = 2⁻⁶ where the likeliest tokens' logits lie, differ by s/3 in the
      mean, with the variance s²/6; KL ≈ ½ Var(Δ logit) to second order, so that is s²/12.
    * Not one changed token in n leaves open that up to 1 − 0.05^(1/n) of them change (95 %; Hanley and Lippman-Hand
      1983, JAMA 249). n is the smaller number of positions of both comparisons.
    """
    unseen = 1 - ALPHA ** (1 / min(floor.positions, positions))
    return CanaryStatistics(
        positions=floor.positions,
        mean_abs_logprob=policy.factor * max(floor.mean_abs_logprob, LOGIT_STEP / 3),
        top1_agreement=max(0.0, 1 - policy.factor * max(1 - floor.top1_agreement, unseen)),
        kl=policy.factor * max(floor.kl, LOGIT_STEP**2 / 12),
    )


def judge(
    prompts: Sequence[CanaryPrompt],
    answers: Sequence[Sequence[Answer]],
    floor: CanaryStatistics,
    policy: CanaryPolicy,
) -> CanaryResult:
    """Whether the answers are as near to the reference as the baseline is to itself; the reasons say what is not."""
    found = distances(prompts, answers)
    have = statistics(found)
    allowed = bars(floor, policy, have.positions)
    reasons = []
    if unread := sum(not answer.top for text in answers for answer in text):
        reasons.append(f"{unread} of {have.positions} tokens have no finite log-probability")
    if have.mean_abs_logprob > allowed.mean_abs_logprob:
        why = _why(floor.mean_abs_logprob, allowed.mean_abs_logprob, policy)
        reasons.append(
            f"mean |Δ log p| {have.mean_abs_logprob:.2g} nats, allowed {allowed.mean_abs_logprob:.2g} ({why})"
        )
    if have.top1_agreement < allowed.top1_agreement:
        why = _why(1 - floor.top1_agreement, 1 - allowed.top1_agreement, policy)
        reasons.append(
            f"the likeliest token is the same at {have.top1_agreement:.2%} of the tokens, "
            f"wanted {allowed.top1_agreement:.2%} ({why})"
        )
    if have.kl > allowed.kl:
        reasons.append(
            f"KL divergence {have.kl:.2g} nats, allowed {allowed.kl:.2g} ({_why(floor.kl, allowed.kl, policy)})"
        )
    means = {
        number: sum(distance.kl for distance in text) / len(text) for number, text in enumerate(found) if len(text)
    }
    worst = sorted(means, key=lambda number: (-means[number], number))[:WORST]
    return CanaryResult(found=have, bars=allowed, passed=not reasons, reasons=reasons, worst=worst)


def _why(own: float, allowed: float, policy: CanaryPolicy) -> str:
    """Where a bar comes from, for people."""
    source = "the baseline's distance from itself" if math.isclose(allowed, policy.factor * own) else "the resolution"
    return f"{policy.factor:g} × {source}"


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the indices below `count`, evenly spread, each from the middle of its part."""
    wanted = min(wanted, count)
    return [(2 * number + 1) * count // (2 * wanted) for number in range(wanted)]


def _scored(prompt: CanaryPrompt, wanted: int) -> CanaryPrompt:
    """The text with at most `wanted` of its positions."""
    kept = spread(len(prompt.positions), wanted)
    return prompt.model_copy(
        update={
            "positions": [prompt.positions[at] for at in kept],
            "logprobs": [prompt.logprobs[at] for at in kept],
            "top": [prompt.top[at] for at in kept],
        }
    )


def _distance(token: int, logprob: float, top: Sequence[TopToken], answer: Answer) -> Distance:
    known = [entry.token for entry in top]
    told = {entry.token: math.exp(entry.logprob) for entry in answer.top} or dict.fromkeys([*known, token], SMALLEST)
    least = min(told.values())
    if answer.own is not None:
        told[token] = math.exp(answer.own)
    left = max(0.0, 1 - sum(told.values()))

    lead = _log(math.exp(logprob)) - _log(told.get(token, min(least, left)))
    both = [entry for entry in top if entry.token in told]
    ours = _buckets([math.exp(entry.logprob) for entry in both])
    theirs = _buckets([told[entry.token] for entry in both])
    likeliest = {entry.token for entry in top if entry.logprob == top[0].logprob}
    return Distance(
        logprob=abs(lead) if token in told else max(0.0, lead),
        agrees=bool(answer.top) and max(told.values()) in {told[other] for other in likeliest & told.keys()},
        kl=sum(p * math.log(p / q) for p, q in zip(ours, theirs, strict=True)),
    )


def _log(probability: float) -> float:
    return math.log(max(probability, SMALLEST))


def _buckets(probabilities: Sequence[float]) -> list[float]:
    """The probabilities and what is left of 1, none below `SMALLEST`, made to sum to 1."""
    floored = [max(value, SMALLEST) for value in [*probabilities, 1 - sum(probabilities)]]
    total = sum(floored)
    return [value / total for value in floored]


def _words(found: CanaryStatistics) -> str:
    return (
        f"mean |Δ log p| {found.mean_abs_logprob:.2g} nats, same likeliest token {found.top1_agreement:.1%}, "
        f"KL {found.kl:.2g} nats"
    )


def _each(ask: Callable[[Asked], Told], what: Sequence[Asked], concurrency: int, log: Log, done: str) -> list[Told]:
    """`ask` of each, several at once, in their order; says how far it is."""
    told: list[Told] = []
    said = time.monotonic()
    with ThreadPoolExecutor(min(concurrency, IN_FLIGHT)) as pool:
        # Where one fails, `map` drops those that have not begun.
        for answer in pool.map(ask, what):
            told.append(answer)
            if time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                log(f"canary: {len(told)} of {len(what)} texts {done}")
    return told
