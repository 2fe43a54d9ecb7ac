"""A sweep's order: never more at once than slots, shared work once, a failure stops only what waits for it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.sweep_simulation import (
    EXACT,
    NONE,
    OTHER_CELLS,
    PAST_RUNS,
    REQUIRED,
    Estimates,
    Sweep,
    ratio,
    run,
    sweep,
)
from flows.scheduling import Schedule, Work, lower_bound, slot_seconds


def work(name: str, seconds: float | None = 1.0, *needs: str, pool: str = "metax", value: float = 1.0) -> Work:
    return Work(id=name, pool=pool, seconds=seconds, needs=needs, value=value)


def names(works: Sequence[Work]) -> list[str]:
    return [each.id for each in works]


def started(schedule: Schedule) -> list[str]:
    """What is started now."""
    ready = names(schedule.ready())
    for name in ready:
        schedule.started(name)
    return ready


def test_the_longest_begins_first_and_slots_are_not_exceeded() -> None:
    schedule = Schedule([work("a", 1), work("b", 3), work("c", 2), work("d", 9, pool="cpu")], {"metax": 2, "cpu": 1})
    assert started(schedule) == ["b", "c", "d"]
    assert started(schedule) == []
    schedule.finished("c", ok=True)
    assert started(schedule) == ["a"]
    for name in "abd":
        assert not schedule.done
        schedule.finished(name, ok=True)
    assert schedule.done
    assert schedule.succeeded == set("abcd")


def test_what_is_not_reported_as_started_is_offered_again() -> None:
    schedule = Schedule([work("a", 1), work("b", 2)], {"metax": 1})
    assert names(schedule.ready()) == names(schedule.ready()) == ["b"]


def test_an_image_comes_first_and_its_cells_wait_for_it() -> None:
    cells = [work("a", 5, "image"), work("b", 4, "image"), work("c", 5.5)]
    schedule = Schedule([*cells, work("image", 1, value=0)], {"metax": 3})
    assert started(schedule) == ["image", "c"]
    schedule.finished("image", ok=True)
    assert started(schedule) == ["a", "b"]


def test_an_image_is_as_long_as_it_and_the_longest_that_waits_for_it() -> None:
    images = [work("first", 3, value=0), work("second", 1, value=0), work("third", 1, value=0)]
    cells = [work("a", 4, "first"), work("b", 5, "second"), work("c", 5, "third"), work("d", 5, "third"), work("e", 9)]
    schedule = Schedule([*images, *cells], {"metax": 4})
    assert started(schedule) == ["e", "first", "third", "second"]


def test_a_baseline_of_another_pool_is_waited_for() -> None:
    schedule = Schedule([work("a", 1, "base"), work("base", 9, pool="nvidia", value=0)], {"metax": 1, "nvidia": 1})
    assert started(schedule) == ["base"]
    schedule.finished("base", ok=True)
    assert started(schedule) == ["a"]


def test_a_failed_build_fails_those_that_wait_for_it_and_no_other() -> None:
    cells = [work("a", 5, "image"), work("b", 4, "image"), work("c", 2)]
    schedule = Schedule([*cells, work("image", 1, value=0)], {"metax": 1})
    assert started(schedule) == ["image"]
    schedule.finished("image", ok=False, cause="the index does not answer")
    assert schedule.failed["b"] == "image failed: the index does not answer"
    assert started(schedule) == ["c"]
    schedule.finished("c", ok=False, cause="the server died")
    assert schedule.done
    assert schedule.failed.keys() == {"image", "a", "b", "c"}
    assert schedule.left == []


def test_an_image_that_nobody_waits_for_any_more_is_not_built() -> None:
    cells = [work("base", 9, pool="nvidia", value=0), work("a", 1, "base", "image"), work("image", 1, value=0)]
    schedule = Schedule([*cells, work("b", 2)], {"metax": 1, "nvidia": 1})
    schedule.started("b")
    schedule.started("base")
    schedule.finished("base", ok=False, cause="no host")
    schedule.finished("b", ok=True)
    assert schedule.done


def test_told_twice_changes_nothing() -> None:
    schedule = Schedule([work("a"), work("b")], {"metax": 1})
    for _ in range(2):
        schedule.started("a")
    assert schedule.running == {"a"}
    for _ in range(2):
        schedule.finished("a", ok=True)
        schedule.started("a")
    schedule.finished("a", ok=False, cause="too late")
    assert (schedule.running, schedule.failed) == (set(), {})
    assert started(schedule) == ["b"]


def test_a_new_schedule_goes_on_where_the_old_one_was_killed() -> None:
    works = [work("image", 1, value=0), work("a", 5, "image"), work("b", 4, "image"), work("c", 3, "image")]
    schedule = Schedule(works, {"metax": 2})
    schedule.finished("image", ok=True)
    schedule.finished("a", ok=False, cause="it broke")
    schedule.started("b")
    assert started(schedule) == ["c"]


def test_fewer_slots_than_what_runs_starts_nothing() -> None:
    schedule = Schedule([work("a"), work("b"), work("c")], {"metax": 1})
    schedule.started("a")
    schedule.started("b")
    schedule.finished("a", ok=True)
    assert schedule.ready() == []


def test_what_does_not_fit_the_budget_is_left_in_order_of_value() -> None:
    works = [work("a", 6, value=1), work("b", 5, value=3), work("c", 5, value=2), work("d", 4, value=1)]
    schedule = Schedule([*works, work("free", 99, pool="cpu")], {"metax": 4, "cpu": 1}, {"metax": 14})
    assert started(schedule) == ["b", "c", "d", "free"]
    assert names(schedule.left) == ["a"]
    for name in ("b", "c", "d", "free"):
        schedule.finished(name, ok=True)
    assert schedule.done
    assert names(schedule.left) == ["a"]


def test_an_image_counts_once_against_the_budget_and_not_without_its_cells() -> None:
    works = [work("image", 4, value=0), work("a", 3, "image"), work("b", 3, "image"), work("c", 8)]
    assert started(Schedule(works, {"metax": 4}, {"metax": 10})) == ["image"]
    small = Schedule(works, {"metax": 4}, {"metax": 6})
    assert small.done
    assert names(small.left) == ["a", "b", "c"]


def test_what_took_less_than_estimated_makes_room() -> None:
    schedule = Schedule([work("a", 6, value=2), work("b", 6)], {"metax": 1}, {"metax": 10})
    assert started(schedule) == ["a"]
    assert names(schedule.left) == ["b"]
    schedule.finished("a", ok=True, seconds=3)
    assert started(schedule) == ["b"]


def test_a_work_of_unknown_length_begins_early() -> None:
    schedule = Schedule([work("a", 5), work("b", 1), work("new", None)], {"metax": 1})
    schedule.started("a")
    schedule.finished("a", ok=True)
    assert started(schedule) == ["new"]


def test_a_budget_in_gpu_hours() -> None:
    assert slot_seconds(16, devices=8) == 7200


def test_no_order_beats_the_longest_chain_or_the_busiest_pool() -> None:
    works = [work("a", 1), work("b", 2), work("c", None), work("d", 5, "base", pool="cpu")]
    works.append(work("base", 4, pool="nvidia", value=0))
    slots = {"metax": 2, "cpu": 1, "nvidia": 1}
    assert lower_bound(works, slots) == (9, "d")
    assert lower_bound([*works, work("e", 20)], slots) == (20, "e")
    assert lower_bound([*works, work("e", 9), work("f", 9)], slots) == (10.5, "metax")
    assert lower_bound([work("c", None)], slots) == (0, None)


@pytest.mark.parametrize(
    ("works", "fault"),
    [
        ([work("a"), work("a")], "a is there twice"),
        ([work("a", 1, "b")], "a needs b, which is not among the works"),
        ([work("a", pool="cpu")], "the pool cpu has no slot"),
        ([work("a", 1, "b"), work("b", 1, "a")], "wait for each other"),
    ],
)
def test_works_that_cannot_be_done_are_refused(works: list[Work], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Schedule(works, {"metax": 1})


# The simulation of the benchmark, on a few seeds


@pytest.mark.parametrize("estimates", [EXACT, PAST_RUNS, OTHER_CELLS], ids=lambda each: each.name)
@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_takes_at_most_a_tenth_longer_than_the_best_possible(seed: int, estimates: Estimates) -> None:
    assert ratio(sweep(seed, estimates)) <= REQUIRED


def test_estimates_are_worth_something_where_slots_are_many() -> None:
    many = [sweep(seed, estimates, lambda _: 8) for estimates in (PAST_RUNS, NONE) for seed in range(3)]
    known, unknown = many[:3], many[3:]
    assert sum(map(ratio, known)) < sum(map(ratio, unknown))
    assert all(ratio(each) <= REQUIRED for each in known)


def test_failures_and_restarts_do_nothing_twice() -> None:
    the_sweep = sweep(7, PAST_RUNS)
    chance = random.Random(7)
    failing = [each.id for each in the_sweep.works if chance.random() < 0.05]
    outcome = run(the_sweep, failing=failing, restarts=frozenset(range(10, 800, 90)))
    assert set(outcome.starts.values()) == {1}
    assert all(outcome.most[pool] <= slots for pool, slots in the_sweep.slots.items())
    broken = {each for each in failing if any(each in other.needs for other in the_sweep.works)}
    assert broken
    waited = {each.id for each in the_sweep.works if broken & set(each.needs)}
    assert outcome.schedule.failed.keys() == set(failing) | waited
    assert outcome.schedule.succeeded == {each.id for each in the_sweep.works} - outcome.schedule.failed.keys()


@st.composite
def small_sweeps(draw: st.DrawFn) -> Sweep:
    """Up to nine works of two pools: images and baselines, and cells that may need them."""
    seconds = st.sampled_from([0.0, 1.0, 2.0, 5.0])
    pools = st.sampled_from(["metax", "nvidia"])
    shared = [
        work(f"image{number}", draw(seconds), pool=draw(pools), value=0) for number in range(draw(st.integers(0, 3)))
    ]
    needs = st.lists(st.sampled_from(names(shared)), unique=True, max_size=2) if shared else st.just([])
    cells = [
        work(f"cell{number}", draw(st.none() | seconds), *draw(needs), pool=draw(pools), value=draw(st.integers(1, 3)))
        for number in range(draw(st.integers(1, 6)))
    ]
    slots = {pool: draw(st.integers(1, 3)) for pool in ("metax", "nvidia")}
    return Sweep([*shared, *cells], slots, {each.id: draw(seconds) for each in (*shared, *cells)})


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(small_sweeps(), st.data())
def test_small_sweeps_end_and_keep_to_slots(the_sweep: Sweep, data: st.DataObject) -> None:
    known = names(the_sweep.works)
    failing = set(data.draw(st.lists(st.sampled_from(known), unique=True, max_size=3)))
    budget = data.draw(st.none() | st.fixed_dictionaries({"metax": st.sampled_from([0.0, 3.0, 6.0])}))
    restarts = data.draw(st.frozensets(st.integers(1, 8), max_size=3))
    outcome = run(the_sweep, failing=failing, budget=budget, restarts=restarts)
    schedule = outcome.schedule
    assert schedule.done
    assert set(outcome.starts.values()) <= {1}
    assert all(outcome.most[pool] <= slots for pool, slots in the_sweep.slots.items())
    cells = {each.id for each in the_sweep.works if each.value}
    ends = (schedule.succeeded, schedule.failed.keys(), set(names(schedule.left)))
    assert cells <= set().union(*ends)
    assert sum(map(len, ends)) == len(set().union(*ends))
    assert budget is not None or not schedule.left
    done = [each for each in the_sweep.real if each.id in outcome.starts]
    assert outcome.makespan >= lower_bound(done, the_sweep.slots).seconds - 1e-9
