"""The champion's data is old."""

from __future__ import annotations

from datetime import datetime

from evergrow.contracts import Verdict
from evergrow.spec.base import write_duration
from evergrow.spec.retraining import ModelAge
from evergrow.triggers.history import History


def judge(trigger: ModelAge, history: History, now: datetime) -> Verdict:
    """Passes if the champion's training data was cut so long ago."""
    if history.champion is None:
        return Verdict(outcome="inconclusive", reason="no version serves yet")
    age, allowed = now - history.champion.cut, trigger.older_than
    told = f"data of version {history.champion.version} is {age.total_seconds() / 86_400:.1f} days old"
    return Verdict.when(age >= allowed, f"{told} against {write_duration(allowed)}")
