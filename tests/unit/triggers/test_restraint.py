"""What holds a training up: each in both directions, and quiet hours against a calendar made day by day."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evergrow.spec.retraining import WEEKDAYS, Budget, QuietHours, Retraining
from evergrow.triggers.history import History, Trained
from evergrow.triggers.restraint import in_quiet_hours, over_budget, too_soon, wait, withheld

NOW = datetime(2024, 3, 20, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def trained(days_ago: float, outcome="promoted", cpu_hours=1.0) -> Trained:
    began = NOW - days_ago * DAY
    return Trained(began, began + HOUR, outcome, cpu_hours)


def test_nothing_is_begun_while_it_is_frozen_or_one_is_under_way():
    free = Retraining(cooldown="0s")
    assert withheld(free, History(), NOW, asked=False) == ""
    assert withheld(free, History(frozen="audit until Friday"), NOW, asked=True) == "frozen: audit until Friday"
    told = withheld(free, History(trained=[trained(3), Trained(NOW - HOUR)]), NOW, asked=True)
    assert told == "a training is under way since 2024-03-20 11:00"


def test_after_a_training_nothing_is_begun_until_the_cooldown_is_over():
    daily = Retraining(cooldown="1d")
    ended = trained(0).ended
    assert too_soon(daily, [trained(0)], ended + DAY - timedelta(seconds=1))
    assert too_soon(daily, [trained(0)], ended + DAY) == ""
    assert too_soon(daily, [], NOW) == ""


@given(st.lists(st.sampled_from(["promoted", "rejected", "failed"]), max_size=60), st.integers(0, 40))
def test_each_training_in_a_row_that_brings_no_champion_doubles_the_wait_up_to_the_longest(outcomes, longest):
    made = Retraining(cooldown="3h", longest=f"{longest}d")
    tried = [trained(100 - i, outcome) for i, outcome in enumerate(outcomes)]
    in_vain = next((i for i, outcome in enumerate(reversed(outcomes)) if outcome == "promoted"), len(outcomes))

    assert wait(made, tried).total_seconds() == min(3 * 3600 * 2**in_vain, max(longest * 86_400, 3 * 3600))


def test_a_version_that_its_rollout_sends_back_is_as_fruitless_as_one_that_the_gate_rejects():
    made, back = Retraining(cooldown="1d", longest="30d"), NOW - HOUR
    kept, sent = trained(2), replace(trained(2), sent_back=back)
    assert [wait(made, [trained(9, "rejected"), one]) for one in (kept, sent)] == [DAY, 4 * DAY]
    assert [wait(made, [one, trained(1)]) for one in (kept, sent)] == [DAY, DAY]
    history = History(trained=[sent])
    assert history.as_of(back).trained == (sent,)
    assert history.as_of(back - timedelta(seconds=1)).trained == (kept,)


def test_a_budget_counts_what_was_begun_in_its_time_and_no_more():
    budget = Budget(per="7d", trainings=2, cpu_hours=3)
    assert over_budget(None, [trained(1)] * 99, NOW) == ""
    assert over_budget(budget, [trained(7), trained(8), trained(1)], NOW) == ""
    told = over_budget(budget, [trained(6.9), trained(1)], NOW)
    assert told == "2 trainings were begun within 7d, the budget is 2"
    told = over_budget(budget, [trained(9, cpu_hours=50), trained(1, cpu_hours=3.5)], NOW)
    assert told == "trainings of 7d have used 3.50 CPU hours, the budget is 3"
    assert over_budget(Budget(), [trained(1)] * 99, NOW) == ""


def test_who_asks_waits_for_no_cooldown_and_no_quiet_hours_but_has_the_same_budget():
    always = [QuietHours(since="00:00", until="00:00")]
    made = Retraining(cooldown="9d", quiet=always, budget=Budget(trainings=2))
    assert withheld(made, History(trained=[trained(1)]), NOW, asked=True) == ""
    assert "cooldown" in withheld(made, History(trained=[trained(1)]), NOW, asked=False)
    assert "quiet hours" in withheld(made, History(trained=[trained(20)]), NOW, asked=False)
    assert "budget" in withheld(made, History(trained=[trained(2), trained(1)]), NOW, asked=True)


def by_calendar(quiet: QuietHours, local: datetime) -> bool:
    """Whether a wall clock is within a stretch that begins on one of the days around it."""
    since, until = (time.fromisoformat(text) for text in (quiet.since, quiet.until))
    for day in (local.date() - DAY, local.date()):
        if WEEKDAYS[date.weekday(day)] in quiet.days:
            end = day if until > since else day + DAY
            if datetime.combine(day, since) <= local < datetime.combine(end, until):
                return True
    return False


clock = st.times(timezones=st.none()).map(lambda t: f"{t:%H:%M}")


@given(
    clock,
    clock,
    st.sets(st.sampled_from(WEEKDAYS), min_size=1),
    st.sampled_from(["UTC", "Europe/Zurich", "America/New_York", "Asia/Kathmandu"]),
    st.datetimes(datetime(2024, 1, 1), datetime(2024, 12, 31), timezones=st.just(UTC)),
)
def test_quiet_hours_are_those_of_the_wall_clock_there(since, until, days, zone, now):
    quiet = QuietHours(since=since, until=until, days=tuple(sorted(days)), time_zone=zone)
    local = now.astimezone(ZoneInfo(zone)).replace(tzinfo=None)

    assert bool(in_quiet_hours([quiet], now)) == by_calendar(quiet, local)


def test_quiet_hours_follow_summer_time():
    night = [QuietHours(since="22:00", until="06:00", time_zone="Europe/Zurich")]
    winter, summer = datetime(2024, 1, 10, 5, 30, tzinfo=UTC), datetime(2024, 7, 10, 5, 30, tzinfo=UTC)
    assert [bool(in_quiet_hours(night, at)) for at in (winter, winter - HOUR)] == [False, True]
    assert [bool(in_quiet_hours(night, at)) for at in (summer, summer - 2 * HOUR)] == [False, True]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"since": "24:00", "until": "06:00"}, "since"),
        ({"since": "6:00", "until": "07:00"}, "since"),
        ({"since": "22:00", "until": "06:00", "time_zone": "Mars/Base"}, "must be a time zone such as Europe/Zurich"),
        ({"since": "22:00", "until": "06:00", "time_zone": "../etc"}, "must be a time zone"),
        ({"since": "22:00", "until": "06:00", "days": []}, "days"),
    ],
)
def test_quiet_hours_that_are_none_are_refused(wrong, told):
    with pytest.raises(ValidationError, match=told):
        QuietHours(**wrong)
