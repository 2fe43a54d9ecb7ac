"""Speed: what the load generator reports is read right, and throughput is judged against the baseline's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation import load_generator, speed
from evaluation.harness.interface import Endpoint
from flagrelease.errors import HarnessError, PreflightError, ServerError
from flagrelease.policy import SpeedPolicy, Workload
from flagrelease.records import Speed, SpeedPoint

ALPHA = 0.05
WORKLOAD = Workload(input=64, output=16, concurrency=1, requests=4)
POLICY = SpeedPolicy(floor=0.8, repeats=5, max_variation=0.05, workloads=[WORKLOAD], reason="chosen for a test")
# A result file of `vllm bench serve --save-detailed`: four requests to llama.cpp, their texts left out.
RESULT: dict[str, Any] = json.loads(Path(__file__).with_name("vllm_bench_serve.json").read_text())
STEADY = [100.0, 101.0, 99.0, 100.5, 99.5]


def measured(throughput: list[float], workload: Workload = WORKLOAD, **changes: Any) -> Speed:
    """A measurement with this output throughput."""
    point = SpeedPoint(
        workload=load_generator.name(workload),
        input_tokens=workload.input,
        output_tokens=workload.output,
        concurrency=workload.concurrency,
        requests=workload.requests,
        request_throughput=[value / workload.output for value in throughput],
        output_throughput=throughput,
        total_throughput=[value * (workload.input + workload.output) / workload.output for value in throughput],
        ttft_ms={},
        tpot_ms={},
        itl_ms={},
        failed=0,
    )
    return Speed(tool="vllm bench serve 1", points=[point.model_copy(update=changes)])


def scaled(factor: float) -> list[float]:
    return [factor * value for value in STEADY]


def test_figures_are_those_that_the_tool_prints() -> None:
    point = load_generator.point(WORKLOAD, [load_generator.Run(RESULT)] * 2)
    assert point.output_throughput == [RESULT["output_throughput"]] * 2
    for metric in ("ttft", "tpot", "itl"):
        of_tool = {f"p{percent}": RESULT[f"p{percent}_{metric}_ms"] for percent in (50, 90, 99)}
        # Two copies move the ranks of a percentile a little; one is the tool's own.
        assert getattr(load_generator.point(WORKLOAD, [load_generator.Run(RESULT)]), f"{metric}_ms") == pytest.approx(
            of_tool, abs=0.01
        )
    assert point.failed == 0


def test_a_request_that_failed_is_counted_and_its_times_are_not() -> None:
    broken = {**RESULT, "completed": 3, "errors": ["", "refused", "", ""]}
    broken |= {"ttfts": [0.1, 9.0, 0.1, 0.1], "output_lens": [16, 0, 16, 16]}
    point = load_generator.point(WORKLOAD, [load_generator.Run(broken)])
    assert point.failed == 1
    assert point.ttft_ms == pytest.approx({"p50": 100, "p90": 100, "p99": 100})


def test_equal_speed_passes() -> None:
    (verdict,), warnings = speed.judge(measured(STEADY), measured(STEADY), POLICY, ALPHA)
    assert verdict.passed
    assert verdict.ratio == pytest.approx(1)
    assert verdict.lower < 1 < verdict.upper
    assert not verdict.warnings
    assert not warnings


@pytest.mark.parametrize(("factor", "passed"), [(0.85, True), (0.79, False), (0.5, False), (2.0, True)])
def test_throughput_below_the_floor_fails(factor: float, passed: bool) -> None:
    (verdict,), _ = speed.judge(measured(scaled(factor)), measured(STEADY), POLICY, ALPHA)
    assert verdict.passed is passed
    assert (verdict.candidate, verdict.baseline) == pytest.approx((100 * factor, 100))


def test_a_ratio_above_the_floor_that_is_not_certain_fails_and_says_why() -> None:
    unsteady = [60.0, 110.0, 85.0, 70.0, 100.0]
    (verdict,), _ = speed.judge(measured(unsteady), measured(STEADY), POLICY, ALPHA)
    assert verdict.ratio > POLICY.floor > verdict.lower
    assert not verdict.passed
    assert any("candidate's repeats vary by 24.3%, more than 5%" in warning for warning in verdict.warnings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"failed": 3}, "3 of 20 requests to the candidate failed"),
        ({"output_tokens": 17}, "the candidate answered with 16.0 tokens where 17 were asked for"),
        ({"requests": 8}, "8 requests a repeat, the baseline had 4"),
    ],
)
def test_what_makes_sides_unlike_is_said(changes: dict[str, Any], said: str) -> None:
    (verdict,), _ = speed.judge(measured(STEADY, **changes), measured(STEADY), POLICY, ALPHA)
    assert said in verdict.warnings


def test_a_workload_that_one_side_lacks_is_named_and_the_others_are_judged() -> None:
    other = Workload(input=8, output=8, concurrency=2, requests=2)
    policy = POLICY.model_copy(update={"workloads": [other, WORKLOAD]})
    verdicts, (warning,) = speed.judge(measured(STEADY), measured(STEADY), policy, ALPHA)
    assert [verdict.workload for verdict in verdicts] == ["64/16 x 1"]
    assert "8/8 x 2" in warning
    assert "candidate and baseline" in warning


@pytest.mark.parametrize(
    ("candidate", "baseline", "who"), [(measured(STEADY), None, "baseline"), (None, measured(STEADY), "candidate")]
)
def test_without_a_measurement_nothing_is_judged(candidate: Speed | None, baseline: Speed | None, who: str) -> None:
    assert speed.judge(candidate, baseline, POLICY, ALPHA) == (
        [],
        [f"speed was not judged: that of the {who} was not measured"],
    )


def test_another_tool_is_said() -> None:
    theirs = measured(STEADY).model_copy(update={"tool": "vllm bench serve 2"})
    _, (warning,) = speed.judge(measured(STEADY), theirs, POLICY, ALPHA)
    assert "vllm bench serve 1, the baseline's with vllm bench serve 2" in warning


def test_a_host_without_vllm_is_told_how_to_get_it(tmp_path: Path) -> None:
    endpoint = Endpoint("http://127.0.0.1:1", "m", 1, lambda: None)
    with pytest.raises(PreflightError, match="there is no vLLM at nowhere") as error:
        speed.measure(endpoint, tmp_path, POLICY, vllm=Path("nowhere/vllm"), work=tmp_path, log=print)
    assert "make vllm" in error.value.remedy


STAND_IN_VLLM = """
import json, os, pathlib

def add_cli_args(parser):
    for name in {names!r}:
        parser.add_argument("--" + name)
    for name in ("ignore-eos", "disable-tqdm", "save-result", "save-detailed"):
        parser.add_argument("--" + name, action="store_true")

def main(args):
    import statistics; statistics.mean([1])  # Python's own, not the project's
    print("what the tool prints is no answer")
    count = int(args.num_prompts)
    result = json.loads({result!r}) | {{"seed": args.seed, "num_prompts": count, "completed": count}}
    mode = {mode!r}
    if mode == "fails":
        raise ValueError("no such tokenizer")
    if mode == "refused":
        result |= {{"completed": 0, "errors": ["Bad Request"] * count}}
    if mode == "hangs":
        import time; time.sleep(600)
    pathlib.Path(args.result_dir, args.result_filename).write_text(json.dumps(result))
"""
OPTIONS = (
    "backend base-url endpoint model tokenizer dataset-name random-input-len random-output-len num-prompts "
    "max-concurrency seed header temperature ready-check-timeout-sec result-dir result-filename"
).split()


def stand_in_vllm(folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str = "answers") -> Path:
    """A vllm command whose load generator returns RESULT each time, or fails."""
    benchmarks = folder / "site" / "vllm" / "benchmarks"
    benchmarks.mkdir(parents=True)
    source = STAND_IN_VLLM.format(names=OPTIONS, result=json.dumps(RESULT), mode=mode)
    (benchmarks / "serve.py").write_text(source)
    about = folder / "site" / "vllm-0.0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.0.1\n")
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (bin_folder / "python").symlink_to(sys.executable)
    (bin_folder / "vllm").touch()
    return bin_folder / "vllm"


def test_repeats_follow_a_warm_up_and_no_two_runs_share_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    vllm, endpoint = stand_in_vllm(tmp_path, monkeypatch), Endpoint("http://127.0.0.1:1", "m", 1, lambda: None)
    other = WORKLOAD.model_copy(update={"concurrency": 2})
    policy = POLICY.model_copy(update={"workloads": [WORKLOAD, other]})
    found = speed.measure(endpoint, tmp_path, policy, vllm=vllm, work=tmp_path / "work", log=said.append)
    assert found.tool == "vllm bench serve 0.0.1"
    assert [point.workload for point in found.points] == ["64/16 x 1", "64/16 x 2"]
    assert [len(point.output_throughput) for point in found.points] == [5, 5]
    assert said[:3] == [
        "speed: 64/16 x 1, warm-up",
        "speed: 64/16 x 1, repeat 1 of 5: 16 output tok/s",
        "speed: 64/16 x 1, repeat 2 of 5: 16 output tok/s",
    ]
    runs = [json.loads(file.read_text()) for file in sorted((tmp_path / "work").glob("*.json"))]
    assert [run["num_prompts"] for run in runs] == [4, 4, 4, 4, 4, 1, 4, 4, 4, 4, 4, 2]
    assert len({run["seed"] for run in runs}) == len(runs)


def test_a_tool_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm, endpoint = stand_in_vllm(tmp_path, monkeypatch, "fails"), Endpoint("http://127.0.0.1:1", "m", 1, lambda: None)
    with pytest.raises(HarnessError, match=r"failed; last lines[\s\S]*no such tokenizer"):
        speed.measure(endpoint, tmp_path, POLICY, vllm=vllm, work=tmp_path / "work", log=print)


def test_a_server_that_answers_nothing_is_no_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_generator, "DEATH_SEEN_S", 0)
    vllm = stand_in_vllm(tmp_path, monkeypatch, "refused")
    endpoint = Endpoint("http://127.0.0.1:1", "m", 1, lambda: None)
    with pytest.raises(HarnessError, match=r"none of 1 requests of 64/16 x 1: Bad Request"):
        speed.measure(endpoint, tmp_path, POLICY, vllm=vllm, work=tmp_path / "work", log=print)


@pytest.mark.parametrize("mode", ["refused", "hangs"])
def test_a_server_that_died_is_the_cause(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm = stand_in_vllm(tmp_path, monkeypatch, mode)
    endpoint = Endpoint("http://127.0.0.1:1", "m", 1, lambda: "ended by signal SIGKILL")
    with pytest.raises(ServerError, match=r"died while its speed was measured: ended by signal SIGKILL"):
        speed.measure(endpoint, tmp_path, POLICY, vllm=vllm, work=tmp_path / "work", log=print)
