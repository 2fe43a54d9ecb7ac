"""Tier 2 of the gate, speed: a served model under fixed loads, and its throughput against the baseline's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.harness.interface import Endpoint
from evaluation.load_generator import load_generator, name, point
from evaluation.ratios import coefficient_of_variation, log_ratio_interval
from flagrelease.policy import SpeedPolicy
from flagrelease.records import Speed, SpeedPoint
from flagrelease.verdicts import SpeedVerdict

TOKENS_TOLERANCE = 0.02
"""How far, as a share, an answer's mean length may lie from what was asked: some servers do not tell how many tokens
they sent, and then the text is tokenised again."""


class Judged(NamedTuple):
    """One verdict a workload that both sides measured, and sentences on what could not be judged."""

    verdicts: list[SpeedVerdict]
    warnings: list[str]


def measure(
    endpoint: Endpoint, tokenizer: Path, policy: SpeedPolicy, *, vllm: Path, work: Path, log: Callable[[str], None]
) -> Speed:
    """Throughput and latency of the served model under each of the policy's workloads.

    Each workload is warmed up with one wave of requests and then timed `policy.repeats` times. `tokenizer`: a folder
    with the model's tokenizer in Hugging Face's format. `vllm`: the vllm command, whose `bench serve` is the load
    generator for every engine. Its result files and its output are left in `work`.

    Raises PreflightError where vLLM cannot be started, ServerError where the server died or hangs, HarnessError where
    the tool failed or no request of a repeat was answered.
    """
    work.mkdir(parents=True, exist_ok=True)
    points = []
    with load_generator(vllm, endpoint, tokenizer, work / "bench.log") as load:
        for number, workload in enumerate(policy.workloads):
            # No two runs share their seed, and so their prompts: a prefix cache would answer the later one.
            seed = 1000 * number
            log(f"speed: {name(workload)}, warm-up")
            wave = min(workload.concurrency, workload.requests)
            load.run(workload, requests=wave, seed=seed, file=work / f"{number}-warm-up.json")
            runs = []
            for repeat in range(1, policy.repeats + 1):
                file = work / f"{number}-{repeat}.json"
                run = load.run(workload, requests=workload.requests, seed=seed + repeat, file=file)
                failures = f", {run.failed} requests failed: {run.first_error}" if run.failed else ""
                rate = f"{run.output_throughput:.0f} output tok/s"
                log(f"speed: {name(workload)}, repeat {repeat} of {policy.repeats}: {rate}{failures}")
                runs.append(run)
            points.append(point(workload, runs))
        return Speed(tool=load.tool, points=points)


def judge(candidate: Speed | None, baseline: Speed | None, policy: SpeedPolicy, alpha: float) -> Judged:
    """Whether the candidate is fast enough under each of the policy's workloads.

    It is where the lower bound of the two-sided 1 − 2·alpha interval of the ratio of output throughputs lies above
    `policy.floor` (`ratios.log_ratio_interval`). Requests and all tokens per second have the same ratio, since all
    requests are of one size. None: that side was not measured.
    """
    ours, theirs = _by_workload(candidate), _by_workload(baseline)
    for who, points in (("candidate", ours), ("baseline", theirs)):
        if not points:
            return Judged([], [f"speed was not judged: that of the {who} was not measured"])
    verdicts, warnings = [], []
    for workload in map(name, policy.workloads):
        if lacking := [who for who, points in (("candidate", ours), ("baseline", theirs)) if workload not in points]:
            sides = " and ".join(lacking)
            warnings.append(f"speed under {workload} was not judged: it was not measured for the {sides}")
        else:
            verdicts.append(_verdict(ours[workload], theirs[workload], policy, alpha))
    if candidate and baseline and candidate.tool != baseline.tool:
        warnings.append(f"speed was measured with {candidate.tool}, the baseline's with {baseline.tool}")
    return Judged(verdicts, warnings)


def _verdict(candidate: SpeedPoint, baseline: SpeedPoint, policy: SpeedPolicy, alpha: float) -> SpeedVerdict:
    found = log_ratio_interval(candidate.output_throughput, baseline.output_throughput, alpha)
    warnings = []
    for who, side in (("candidate", candidate), ("baseline", baseline)):
        if (variation := coefficient_of_variation(side.output_throughput)) > policy.max_variation:
            warnings.append(
                f"the {who}'s repeats vary by {variation:.1%}, more than {policy.max_variation:.0%}: "
                "something else may have used the machine"
            )
        if side.failed:
            asked = side.requests * len(side.output_throughput)
            warnings.append(f"{side.failed} of {asked} requests to the {who} failed")
        tokens = float(np.mean(side.output_throughput) / np.mean(side.request_throughput))
        if abs(tokens / side.output_tokens - 1) > TOKENS_TOLERANCE:
            warnings.append(f"the {who} answered with {tokens:.1f} tokens where {side.output_tokens} were asked for")
    if candidate.requests != baseline.requests:
        warnings.append(f"{candidate.requests} requests a repeat, the baseline had {baseline.requests}")
    return SpeedVerdict(
        workload=candidate.workload,
        baseline=float(np.mean(baseline.output_throughput)),
        candidate=float(np.mean(candidate.output_throughput)),
        ratio=found.ratio,
        lower=found.lower,
        upper=found.upper,
        floor=policy.floor,
        passed=found.lower > policy.floor,
        warnings=warnings,
    )


def _by_workload(speed: Speed | None) -> dict[str, SpeedPoint]:
    return {point.workload: point for point in speed.points} if speed else {}
