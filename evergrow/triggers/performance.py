"""The champion does harm."""

from __future__ import annotations

from datetime import datetime

from evergrow.contracts import ObservationKind, Verdict
from evergrow.spec.retraining import Performance
from evergrow.triggers.history import History
from evergrow.triggers.look import looked

KINDS: dict[str, ObservationKind] = {"realised": "performance", "estimated": "estimated-performance"}


def judge(trigger: Performance, history: History, now: datetime) -> Verdict:
    """Passes if monitoring's newest look found harm by what is wanted; other versions' harm is theirs."""
    seen = looked(history, trigger.looked_within, now)
    if isinstance(seen, Verdict):
        return seen
    serving = history.champion.version if history.champion else None
    wanted = [KINDS[by] for by in trigger.by]
    mine = [one for one in seen if one.kind in wanted and one.alarm and one.version in (None, serving)]
    if not mine:
        return Verdict(outcome="error", reason=f"monitoring does not look at {' or '.join(trigger.by)} performance")
    harm = [one for one in mine if one.verdict.outcome == "fail"]
    if harm:
        return Verdict.when(True, "; ".join(one.verdict.reason for one in harm))
    worst = Verdict.worst(one.verdict for one in mine)
    if worst.outcome in ("error", "inconclusive"):
        return worst
    return Verdict.when(False, "; ".join(one.verdict.reason for one in mine))
