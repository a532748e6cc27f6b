"""Monitoring's newest look, if it says something of the version that serves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from evergrow.contracts import Observation, Verdict
from evergrow.spec.base import write_duration
from evergrow.triggers.history import History


def looked(history: History, within: timedelta, now: datetime) -> Sequence[Observation] | Verdict:
    """What was seen, or why that says nothing.

    A look of before the champion served is about another version: inconclusive. One that is too old is missing: an
    error.
    """
    if history.champion is None:
        return Verdict(outcome="inconclusive", reason="no version serves yet")
    if history.look is None:
        return Verdict(outcome="error", reason="monitoring has never looked")
    at = history.look.at
    if at < history.champion.since:
        told = f"monitoring has not looked since version {history.champion.version} serves"
        return Verdict(outcome="inconclusive", reason=told)
    if now - at > within:
        told = f"monitoring looked at {at:%Y-%m-%d %H:%M} last, more than {write_duration(within)} ago"
        return Verdict(outcome="error", reason=told)
    return history.look.observations
