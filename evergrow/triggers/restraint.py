"""What keeps a training that is wanted from being begun."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from evergrow.spec.base import write_duration
from evergrow.spec.retraining import WEEKDAYS, Budget, QuietHours, Retraining
from evergrow.triggers.history import History, Trained, in_vain


def withheld(retraining: Retraining, history: History, now: datetime, *, asked: bool) -> str:
    """Why nothing may be begun now; empty: it may.

    Args:
        retraining: of the model's document.
        history: as of now.
        now: the instant.
        asked: somebody asks for it: then neither the cooldown nor quiet hours hold it up.
    """
    under_way = [one for one in history.trained if one.ended is None]
    if history.frozen:
        return f"frozen: {history.frozen}"
    if under_way:
        return f"a training is under way since {under_way[-1].began:%Y-%m-%d %H:%M}"
    spent = over_budget(retraining.budget, history.trained, now)
    if spent or asked:
        return spent
    return too_soon(retraining, history.trained, now) or in_quiet_hours(retraining.quiet, now)


def wait(retraining: Retraining, trained: Sequence[Trained]) -> timedelta:
    """How long nothing is begun after the last training.

    The cooldown, twice as long after each training in a row that brought no champion, or one that a rollout sent back,
    up to `longest`.

    >>> from datetime import UTC
    >>> day = datetime(2024, 3, 1, tzinfo=UTC)
    >>> tried = [Trained(day, day, outcome) for outcome in ("promoted", "rejected", "failed")]
    >>> [wait(Retraining(cooldown="1d", longest="3d"), tried[:n]).days for n in range(4)]
    [1, 1, 2, 3]
    """
    pause, longest = retraining.cooldown, max(retraining.longest, retraining.cooldown)
    for _ in range(in_vain(trained)):
        pause = min(2 * pause, longest)
    return pause


def too_soon(retraining: Retraining, trained: Sequence[Trained], now: datetime) -> str:
    """That the last training has ended too short a time ago; empty: it has not."""
    ended = [one.ended for one in trained if one.ended is not None]
    if not ended:
        return ""
    pause, last = wait(retraining, trained), max(ended)
    if now - last >= pause:
        return ""
    more = "" if pause == retraining.cooldown else ", longer after trainings that brought no champion"
    return f"the last training ended at {last:%Y-%m-%d %H:%M}, the cooldown is {write_duration(pause)}{more}"


def over_budget(budget: Budget | None, trained: Sequence[Trained], now: datetime) -> str:
    """That no more may be taken now; empty: it may."""
    if budget is None:
        return ""
    recent = [one for one in trained if one.began > now - budget.per]
    hours, per = sum(one.cpu_hours for one in recent), write_duration(budget.per)
    if budget.trainings is not None and len(recent) >= budget.trainings:
        return f"{len(recent)} trainings were begun within {per}, the budget is {budget.trainings}"
    if budget.cpu_hours is not None and hours >= budget.cpu_hours:
        return f"trainings of {per} have used {hours:.2f} CPU hours, the budget is {budget.cpu_hours:g}"
    return ""


def in_quiet_hours(quiet: Sequence[QuietHours], now: datetime) -> str:
    """That nothing is begun at this time of the day; empty: it may be."""
    for one in quiet:
        local = now.astimezone(ZoneInfo(one.time_zone))
        if _is_quiet(one, f"{local:%H:%M}", local.weekday()):
            return f"quiet hours from {one.since} to {one.until}, {one.time_zone}"
    return ""


def _is_quiet(quiet: QuietHours, at: str, weekday: int) -> bool:
    """Whether a time of a weekday, 0 for Monday, is quiet: two digits each, times compare as words do."""
    today, yesterday = (WEEKDAYS[day % 7] in quiet.days for day in (weekday, weekday - 1))
    if quiet.since < quiet.until:
        return today and quiet.since <= at < quiet.until
    return (today and at >= quiet.since) or (yesterday and at < quiet.until)
