"""Somebody asks for a training."""

from __future__ import annotations

from datetime import datetime

from evergrow.contracts import Verdict
from evergrow.spec.retraining import Asked
from evergrow.triggers.history import History


def judge(trigger: Asked, history: History, now: datetime) -> Verdict:
    """Passes if somebody asked after the last training was begun."""
    began = history.trained[-1].began if history.trained else None
    open_ = [one for one in history.requests if began is None or one.at > began]
    if not open_:
        return Verdict.when(False, "nobody asks for it")
    last = open_[-1]
    why = f": {last.reason}" if last.reason else ""
    return Verdict.when(True, f"asked for by {last.by} at {last.at:%Y-%m-%d %H:%M}{why}")
