"""Which runs that died are put back, by the states that they went through."""

from __future__ import annotations

from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelling, Crashed, Pending, Running, Scheduled

from flows.recover import came_back, cancelled

BEGUN: list[State] = [Scheduled(), Pending(), Running(), Crashed()]
UNBEGUN: list[State] = [Scheduled(), Pending(), Crashed()]


def test_a_run_comes_back_once() -> None:
    assert not came_back(BEGUN)
    assert came_back([*BEGUN, *BEGUN])


def test_a_run_that_dies_before_it_begins_comes_back_three_times() -> None:
    # Prefect's own count is zero then.
    assert not came_back(UNBEGUN * 3)
    assert came_back(UNBEGUN * 4)
    # Its one time as a run that had begun is left to it, and is not more than one.
    assert not came_back([*BEGUN, *UNBEGUN])
    assert not came_back([*UNBEGUN, *UNBEGUN, *BEGUN])
    assert came_back([*BEGUN, *UNBEGUN, *BEGUN])
    assert came_back([*UNBEGUN, *BEGUN, *UNBEGUN, *UNBEGUN])


def test_a_run_that_was_taken_for_dead_and_lived_did_not_come_back() -> None:
    assert not came_back([Scheduled(), Running(), Crashed(), Running(), Crashed()])


def test_a_run_that_was_to_be_cancelled_is_not_started_again() -> None:
    assert cancelled([Scheduled(), Running(), Cancelling(), Crashed()])
    assert not cancelled([Scheduled(), Running(), Crashed()])
    # Cancelled earlier, then started again by a person.
    before: list[State] = [Scheduled(), Running(), Cancelling(), State(type=StateType.CANCELLED)]
    assert not cancelled([*before, Scheduled(), Running(), Crashed()])
