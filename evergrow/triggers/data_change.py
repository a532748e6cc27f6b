"""The data has changed."""

from __future__ import annotations

from datetime import datetime

from evergrow.contracts import Verdict
from evergrow.spec.retraining import DataChange
from evergrow.triggers.history import History
from evergrow.triggers.look import looked

NAMED = 5
"""Columns that a reason names; of more it says the number."""


def judge(trigger: DataChange, history: History, now: datetime) -> Verdict:
    """Passes if enough columns have changed by monitoring's newest look; a column counts once, in whichever slices."""
    seen = looked(history, trigger.looked_within, now)
    if isinstance(seen, Verdict):
        return seen
    mine = [one for one in seen if one.kind in trigger.of]
    mine = [one for one in mine if not trigger.columns or one.subject in trigger.columns]
    if not mine:
        return Verdict(outcome="error", reason=f"monitoring does not look at {', '.join(trigger.of)}")
    changed = sorted({one.subject for one in mine if one.verdict.outcome == "fail"})
    named = ", ".join(changed[:NAMED]) + (f" and {len(changed) - NAMED} more" if len(changed) > NAMED else "")
    told = f"{len(changed)} of {len({one.subject for one in mine})} columns have changed against {trigger.at_least}"
    return Verdict.when(len(changed) >= trigger.at_least, told + (f": {named}" if named else ""))
