"""Whatever schedule the matrix accepts, Prefect finds dates for; what it would never come to is refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.server.schemas.schedules import CronSchedule

from flagrelease.schedules import cron_fault, timezone_fault

START = datetime(2026, 1, 1, tzinfo=UTC)
FIELDS = [(0, 59, []), (0, 23, []), (1, 31, []), (1, 12, ["jan", "FEB", "dec"]), (0, 7, ["sun", "Mon", "sat"])]


def field(low: int, high: int, names: list[str]) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    word = number.map(str) | number.map("{:02}".format) | (st.sampled_from(names) if names else st.nothing())
    span = st.lists(number, min_size=2, max_size=2).map(lambda ends: "{}-{}".format(*sorted(ends)))
    step = st.just("") | st.integers(1, high).map("/{}".format)
    part = st.tuples(st.just("*") | word | span, step).map("".join)
    return st.lists(part, min_size=1, max_size=3).map(",".join)


@pytest.mark.slow
@settings(deadline=None)
@given(st.tuples(*(field(*each) for each in FIELDS)).map(" ".join))
def test_prefect_finds_a_date_for_what_is_accepted(expression: str) -> None:
    fault = cron_fault(expression)
    assert fault is None or "never comes" in fault
    if fault is None:
        schedule = CronSchedule(cron=expression, timezone="Asia/Shanghai")
        assert asyncio.run(schedule.get_dates(1, start=START))


@pytest.mark.parametrize("expression", ["* * * * *", "0 3 * * MON-fri", "*/15 0,12 1-31/2 jan,dec 5-7", "0 0 29 2 *"])
def test_what_every_cron_knows_is_accepted(expression: str) -> None:
    assert cron_fault(expression) is None


# Of these Prefect accepts all but the first, and finds no date for the next two, or one that was not meant.
@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 24 * * *", "the hour `24`"),
        ("0 0 31 2 *", "no such month has a day 31"),
        ("0 0 31 4,6 mon", "no such month has a day 31"),
        ("*/90 * * * *", "the minute `*/90`"),
        ("5-1 * * * *", "the minute `5-1`"),
        ("0 0 * * fri-sun", "the weekday `fri-sun`"),
        ("0 0 * * 5#3", "the weekday `5#3`"),
        ("0 0 ? * *", "the day `?`"),
        ("@daily", "cron wants five fields"),
        ("0 0 * * * *", "cron wants five fields"),
        ("x" * 1000, f"`{'x' * 60}…`: cron wants five fields"),
    ],
)
def test_what_never_comes_or_is_understood_in_two_ways_is_refused(expression: str, words: str) -> None:
    assert words in (cron_fault(expression) or "")


def test_a_time_zone_is_the_same_one_on_every_host() -> None:
    assert timezone_fault("UTC") is timezone_fault("Asia/Shanghai") is None
    for name in ("localtime", "Factory", "right/UTC", "Asia", "../Asia/Shanghai", ""):
        assert timezone_fault(name), name
