"""A schedule is due."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim

from evergrow.contracts import Verdict
from evergrow.spec.retraining import OnSchedule
from evergrow.triggers.history import History


def judge(trigger: OnSchedule, history: History, now: datetime) -> Verdict:
    """Passes if it was due after the last training was begun; if none was, after the champion's data was cut."""
    if history.trained:
        since, event = history.trained[-1].began, "the last training was begun"
    elif history.champion is not None:
        since, event = history.champion.cut, f"data of version {history.champion.version} was cut"
    else:
        return Verdict(outcome="inconclusive", reason="no version serves yet")
    due, following = next_due(trigger, since), next_due(trigger, now)
    is_due = due is not None and due.astimezone(UTC) <= now.astimezone(UTC)
    told = f"due since {_written(due)}, next at {_written(following)}" if is_due else f"due next at {_written(due)}"
    at = since.astimezone(ZoneInfo(trigger.time_zone))
    return Verdict.when(is_due, f"{told}, {trigger.time_zone}; {event} at {_written(at)}")


def next_due(trigger: OnSchedule, after: datetime) -> datetime | None:
    """The first instant of a schedule after another one, in its time zone; None: there is none in 50 years.

    Instants are compared in UTC: those of one time zone Python compares by what clocks show, which is not their order
    where clocks are set back. There, CronSim begins too early, too.

    >>> daily = OnSchedule(cron="30 2 * * *", time_zone="Europe/Zurich")
    >>> [next_due(daily, datetime(2024, 3, day, 12, tzinfo=UTC)).isoformat() for day in (29, 30)]
    ['2024-03-30T02:30:00+01:00', '2024-03-31T03:00:00+02:00']
    """
    begin = after.astimezone(UTC)
    found = CronSim(trigger.cron, begin.astimezone(ZoneInfo(trigger.time_zone)))
    return next((at for at in found if at.astimezone(UTC) > begin), None)


def _written(at: datetime | None) -> str:
    return "no time" if at is None else f"{at:%Y-%m-%d %H:%M}"
