"""So many newly labelled rows have come."""

from __future__ import annotations

from datetime import datetime

from evergrow.contracts import Verdict
from evergrow.spec.retraining import DataVolume
from evergrow.triggers.history import History


def judge(trigger: DataVolume, history: History, now: datetime) -> Verdict:
    """Passes if enough labels have become known since the champion's training data was cut."""
    if history.champion is None:
        return Verdict(outcome="inconclusive", reason="no version serves yet")
    if history.known is None:
        return Verdict(outcome="error", reason="it is not known when labels became known")
    rows = history.labelled(history.champion.cut, now)
    told = f"{rows:,} newly labelled rows against {trigger.rows:,}"
    return Verdict.when(rows >= trigger.rows, told)
