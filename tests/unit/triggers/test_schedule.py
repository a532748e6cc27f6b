"""When a schedule is due: over changes of summer time, rare days, and against each minute of a calendar."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evergrow.spec.retraining import OnSchedule
from evergrow.triggers.history import Champion, History, Trained
from evergrow.triggers.schedule import judge, next_due

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
DAILY = OnSchedule(cron="30 2 * * *", time_zone="Europe/Zurich")
WINTER = datetime(2024, 1, 10, 12, tzinfo=UTC)


def trained(at: datetime) -> History:
    return History(trained=[Trained(at, at + MINUTE, "rejected")])


def fires(trigger: OnSchedule, began: datetime, now: datetime) -> bool:
    return judge(trigger, trained(began), now).outcome == "pass"


def test_it_is_due_once_until_a_training_is_begun():
    due = datetime(2024, 1, 11, 1, 30, tzinfo=UTC)
    assert not fires(DAILY, WINTER, due - timedelta(seconds=1))
    assert fires(DAILY, WINTER, due)
    assert fires(DAILY, WINTER, due + 20 * DAY)
    assert not fires(DAILY, due, due + DAY - timedelta(seconds=1))
    assert fires(DAILY, due, due + DAY)


def test_the_reason_says_when_it_was_due_and_when_it_is_due_next_where_the_clock_shows_it():
    known = trained(WINTER)
    assert judge(DAILY, known, WINTER + HOUR).reason == (
        "due next at 2024-01-11 02:30, Europe/Zurich; the last training was begun at 2024-01-10 13:00"
    )
    assert judge(DAILY, known, WINTER + 3 * DAY).reason == (
        "due since 2024-01-11 02:30, next at 2024-01-14 02:30, Europe/Zurich; "
        "the last training was begun at 2024-01-10 13:00"
    )


def test_before_any_training_was_begun_it_is_counted_from_the_cut_of_the_champions_data():
    first = History(champions=[Champion(3, WINTER, WINTER + 2 * DAY)])
    verdict = judge(DAILY, first, WINTER + 3 * DAY)
    assert verdict.outcome == "pass"
    assert verdict.reason.endswith("; data of version 3 was cut at 2024-01-10 13:00")
    assert judge(DAILY, History(), WINTER).model_dump() == {
        "outcome": "inconclusive",
        "reason": "no version serves yet",
    }


def dues(trigger: OnSchedule, after: datetime, count: int) -> list[str]:
    found = []
    for _ in range(count):
        after = next_due(trigger, after)
        found.append(f"{after.astimezone(UTC):%m-%d %H:%M}")
    return found


def test_a_time_that_clocks_skip_is_due_right_after_it_and_one_that_they_show_twice_is_due_once():
    spring, autumn = datetime(2024, 3, 29, 12, tzinfo=UTC), datetime(2024, 10, 25, 12, tzinfo=UTC)
    assert dues(DAILY, spring, 3) == ["03-30 01:30", "03-31 01:00", "04-01 00:30"]
    assert dues(DAILY, autumn, 3) == ["10-26 00:30", "10-27 00:30", "10-28 01:30"]


def test_a_training_begun_when_clocks_show_a_time_again_is_not_due_by_what_they_showed_before():
    first, again = datetime(2024, 10, 27, 0, 30, tzinfo=UTC), datetime(2024, 10, 27, 1, 10, tzinfo=UTC)
    assert fires(DAILY, first - 10 * MINUTE, first)
    assert not fires(DAILY, again, again + HOUR)
    zurich = ZoneInfo("Europe/Zurich")
    assert fires(DAILY, (first - MINUTE).astimezone(zurich), first.astimezone(zurich))
    assert not fires(DAILY, again.astimezone(zurich), (again + HOUR).astimezone(zurich))


def test_every_hour_of_a_day_with_25_hours_is_due():
    hourly = OnSchedule(cron="0 * * * *", time_zone="Europe/Zurich")
    assert dues(hourly, datetime(2024, 10, 26, 23, 30, tzinfo=UTC), 4) == [
        "10-27 00:00",
        "10-27 01:00",
        "10-27 02:00",
        "10-27 03:00",
    ]


@pytest.mark.parametrize(
    ("cron", "after", "due"),
    [
        ("0 3 29 2 *", datetime(2024, 3, 1, tzinfo=UTC), datetime(2028, 2, 29, 3, tzinfo=UTC)),
        ("0 3 29 2 *", datetime(2096, 3, 1, tzinfo=UTC), datetime(2104, 2, 29, 3, tzinfo=UTC)),
        ("0 0 * 2 mon#5", datetime(2072, 3, 1, tzinfo=UTC), datetime(2112, 2, 29, tzinfo=UTC)),
        ("0 0 LW * *", datetime(2024, 8, 31, tzinfo=UTC), datetime(2024, 9, 30, tzinfo=UTC)),
        ("0 0 13 * fri", datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 9, 6, tzinfo=UTC)),
    ],
)
def test_rare_days_come(cron, after, due):
    assert next_due(OnSchedule(cron=cron), after) == due


def test_a_time_that_clocks_always_skip_is_never_due():
    skipped = OnSchedule(cron="*/5 2 * 3 7L", time_zone="Europe/Zurich")
    verdict = judge(skipped, trained(WINTER), WINTER + 400 * DAY)
    assert verdict.outcome == "fail"
    assert verdict.reason.startswith("due next at no time, Europe/Zurich")


# -- against each minute -----------------------------------------------------------------------------------------------

CHANGES = {
    "UTC": (datetime(2024, 2, 28, tzinfo=UTC), datetime(2023, 12, 31, tzinfo=UTC)),
    "Asia/Kathmandu": (datetime(2024, 2, 28, tzinfo=UTC), datetime(2023, 12, 31, tzinfo=UTC)),
    "Europe/Zurich": (datetime(2024, 3, 31, tzinfo=UTC), datetime(2024, 10, 27, tzinfo=UTC)),
    "America/New_York": (datetime(2024, 3, 10, tzinfo=UTC), datetime(2024, 11, 3, tzinfo=UTC)),
    "America/Havana": (datetime(2024, 3, 10, tzinfo=UTC), datetime(2024, 11, 3, tzinfo=UTC)),
    "Australia/Lord_Howe": (datetime(2024, 10, 6, tzinfo=UTC), datetime(2024, 4, 7, tzinfo=UTC)),
}
"""Days of a time zone at which something changes: summer time, a month with 29 days, a year."""
# Where clocks change at midnight, or by half an hour, CronSim errs by that for schedules of every so many hours.
UNUSUAL = ("America/Havana", "Australia/Lord_Howe")


@cache
def minutes(zone: str, about: datetime) -> Sequence[tuple[datetime, Sequence[datetime], Sequence[datetime]]]:
    """Each minute around a day: the instant, what the clock shows then, and what it has skipped just before."""
    instants = [about - 2 * DAY + n * MINUTE for n in range(5 * 24 * 60)]
    local = [at.astimezone(ZoneInfo(zone)) for at in instants]
    walls = [at.replace(tzinfo=None) for at in local]
    skipped = [[a + n * MINUTE for n in range(1, (b - a) // MINUTE)] for a, b in pairwise(walls)]
    return list(zip(instants[1:], local[1:], skipped, strict=True))


Field = tuple[str, Callable[[int], bool]]
"""What is written in a field, and whether a number is meant by it."""


ANY: Field = ("*", lambda _: True)


def fields(low: int, high: int) -> st.SearchStrategy[Field]:
    some = st.lists(st.integers(low, high), min_size=1, max_size=4)
    steps = st.integers(2, 9)
    ranges = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    return st.one_of(
        st.just(ANY),
        some.map(lambda them: (",".join(map(str, them)), lambda n: n in them)),
        ranges.map(lambda r: (f"{r[0]}-{r[1]}", lambda n: r[0] <= n <= r[1])),
        steps.map(lambda step: (f"*/{step}", lambda n: (n - low) % step == 0)),
    )


# Sunday is 0; as 7 it would be in steps, too.
days_of_weeks = fields(0, 6).filter(lambda field: "/" not in field[0])
days = st.just((ANY, ANY, ANY)) | st.tuples(fields(1, 31), fields(1, 12), days_of_weeks)
spans = st.tuples(st.floats(0, 8) | st.floats(-30, 30), st.floats(0, 2) | st.floats(0, 30)).map(
    lambda span: (span[0] * HOUR, span[1] * HOUR)
)


def brute_force(zone: str, about: datetime, schedule: Sequence[Field]) -> list[datetime]:
    """The minutes at which Debian's cron would run something: crontab(5) and cron(8)."""
    (minute, is_minute), (hour, is_hour), (day, is_day), (_, is_month), (weekday, is_weekday) = schedule
    both = day.startswith("*") or weekday.startswith("*")
    often = minute.startswith("*") or hour.startswith("*")

    def shown(at: datetime) -> bool:
        of_month, of_week = is_day(at.day), is_weekday(at.isoweekday() % 7)
        on_day = (of_month and of_week) if both else (of_month or of_week)
        return on_day and is_minute(at.minute) and is_hour(at.hour) and is_month(at.month)

    return [
        at
        for at, local, skipped in minutes(zone, about)
        if (shown(local) and (often or not local.fold)) or (not often and any(map(shown, skipped)))
    ]


@given(
    st.sampled_from(sorted(CHANGES)),
    st.integers(0, 1),
    st.tuples(fields(0, 59), fields(0, 4) | fields(0, 23), days).map(lambda parts: (*parts[:2], *parts[2])),
    spans,
)
def test_it_fires_if_a_minute_since_the_last_training_is_one_of_its(zone, which, schedule, span):
    if zone in UNUSUAL and any(text.startswith("*") for text, _ in schedule[:2]):
        schedule = (("30", lambda n: n == 30), ("0-3", lambda n: n <= 3), *schedule[2:])
    about = CHANGES[zone][which]
    began = about + span[0]
    now = began + span[1]
    due = any(began < at <= now for at in brute_force(zone, about, schedule))
    try:
        trigger = OnSchedule(cron=" ".join(text for text, _ in schedule), time_zone=zone)
    except ValidationError:
        assert not due
    else:
        assert fires(trigger, began, now) == due


@given(st.sampled_from(sorted(CHANGES)), st.integers(0, 1), st.floats(0, 1))
def test_a_daily_schedule_is_due_once_a_day_wherever_clocks_change(zone, which, part):
    at = CHANGES[zone][which] - DAY + part * 2 * DAY
    for hour in range(24):
        trigger = OnSchedule(cron=f"15 {hour} * * *", time_zone=zone)
        first = next_due(trigger, at)
        second = next_due(trigger, first)
        assert at < first.astimezone(UTC) <= at + 25 * HOUR
        assert second.date() == first.date() + DAY


# -- what is refused ---------------------------------------------------------------------------------------------------

FIVE = 'must be five fields (minute, hour, day-of-month, month, day-of-week) such as "0 3 * * mon", found '


@pytest.mark.parametrize(
    ("cron", "told"),
    [
        ("", FIVE + "''"),
        ("0 3 * *", FIVE + "'0 3 * *'"),
        ("0 0 3 * * *", FIVE + "'0 0 3 * * *'"),
        ("0 3 * * mon\n", FIVE),
        ("0  3 * * mon", FIVE),
        ("@daily", FIVE),
        ("٣ 3 * * *", FIVE),
        ("60 3 * * *", 'minute must be 0-59; several as "1,2", "1-5" or "*/2"; found \'60 3 * * *\''),
        ("*/0 3 * * *", "minute must be 0-59"),
        ("0 22-3 * * *", "hour must be 0-23"),
        ("0 3 0 * *", "day-of-month must be 1-31"),
        ("0 3 * 13 *", "month must be 1-12 or jan-dec"),
        ("0 3 * * mo", "day-of-week must be 0-7 or sun-sat"),
        ("0 0 30 2 *", "day-of-month must be 1-31, L for the last or LW for the last weekday, in a month that has it"),
        ("0 0 31 2,4,6,9,11 *", "in a month that has it"),
        ("* * */20 * 1L", "must have days that come within 50 years, found '* * */20 * 1L', whose days exclude"),
        ("0 3 * * " + "1" * 93, "must be at most 100 characters, found 101"),
    ],
)
def test_a_schedule_that_is_none_is_refused_with_what_is_wrong(cron, told):
    with pytest.raises(ValidationError) as error:
        OnSchedule(cron=cron)
    (fault,) = error.value.errors()
    assert fault["loc"] == ("cron",)
    assert told in fault["msg"]
    assert len(fault["msg"]) < 400


@given(st.text(alphabet="0123456789*,/-#LW monfeb", max_size=30) | st.text(max_size=120))
def test_any_text_is_a_schedule_that_comes_or_is_refused(text):
    try:
        trigger = OnSchedule(cron=text)
    except ValidationError:
        return
    assert next_due(trigger, WINTER) is not None


def test_servers_read_their_part_of_documents_without_what_schedules_are_read_with():
    code = "import sys; sys.modules['cronsim'] = None; import evergrow.spec.model, components.server.serving_directory"
    subprocess.run([sys.executable, "-c", code], check=True)
