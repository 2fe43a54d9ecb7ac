"""Which runs that died are put back, by the states that they went through."""

from __future__ import annotations

from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelling, Crashed, Pending, Running, Scheduled

from flows.recover import came_back, cancelled


def test_a_run_comes_back_once() -> None:
    begun: list[State] = [Scheduled(), Pending(), Running()]
    assert not came_back([*begun, Crashed()])
    # By us or by hand, whether it began again or not.
    assert came_back([*begun, Crashed(), Scheduled(), Pending(), Running(), Crashed()])
    assert came_back([*begun, Crashed(), Scheduled(), Crashed()])
    # It died before it began: Prefect's own count is zero.
    assert came_back([Scheduled(), Pending(), Crashed(), Scheduled(), Pending(), Crashed()])


def test_a_run_that_was_taken_for_dead_and_lived_did_not_come_back() -> None:
    assert not came_back([Scheduled(), Running(), Crashed(), Running(), Crashed()])


def test_a_run_that_was_to_be_cancelled_is_not_started_again() -> None:
    assert cancelled([Scheduled(), Running(), Cancelling(), Crashed()])
    assert not cancelled([Scheduled(), Running(), Crashed()])
    # Cancelled earlier, then started again by a person.
    before: list[State] = [Scheduled(), Running(), Cancelling(), State(type=StateType.CANCELLED)]
    assert not cancelled([*before, Scheduled(), Running(), Crashed()])
