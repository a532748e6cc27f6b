"""Whether to train a model again now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from evergrow.contracts import Instant, Value, Verdict
from evergrow.spec.retraining import Retraining
from evergrow.triggers import asked, data_change, data_volume, model_age, performance, schedule
from evergrow.triggers.history import History
from evergrow.triggers.restraint import withheld

JUDGES: Mapping[str, Callable[[Any, History, datetime], Verdict]] = {
    "asked": asked.judge,
    "data-volume": data_volume.judge,
    "model-age": model_age.judge,
    "schedule": schedule.judge,
    "performance": performance.judge,
    "data-change": data_change.judge,
}
"""By a trigger's kind."""


class Judged(Value):
    """What a trigger says: it fires where its verdict passes."""

    trigger: str = Field(description="its kind")
    verdict: Verdict


class Retrain(Value):
    """Whether to train a model again, and all that was decided by: a "no" is on record as a "yes" is."""

    model: str
    as_of: Instant
    wanted: bool = Field(description="enough triggers fire, somebody asks for it, or nobody serves yet")
    withheld: str = Field(description="why what is wanted is not begun; empty: nothing keeps it")
    judged: tuple[Judged, ...]
    reason: str

    @property
    def train(self) -> bool:
        """Whether a training is to be begun."""
        return self.wanted and not self.withheld


def decide(model: str, retraining: Retraining, history: History, now: datetime) -> Retrain:
    """Decide, by nothing that is later than now.

    A request is always enough. A model that nobody serves yet is wanted if it has any trigger.

    Args:
        model: its name.
        retraining: of its document.
        history: of it.
        now: the instant.
    """
    known = history.as_of(now)
    judged = tuple(Judged(trigger=one.kind, verdict=JUDGES[one.kind](one, known, now)) for one in retraining.triggers)
    fired = [one for one in judged if one.verdict.outcome == "pass"]
    is_asked = any(one.trigger == "asked" for one in fired)
    is_first = known.champion is None and bool(judged)
    wanted = is_first or is_asked or len(fired) >= retraining.needed
    kept = withheld(retraining, known, now, asked=is_asked) if wanted else ""
    reason = _reason(retraining, judged, fired, is_first=is_first)
    return Retrain(
        model=model, as_of=now, wanted=wanted, withheld=kept, judged=judged,
        reason=f"{reason}; withheld: {kept}" if kept else reason,
    )  # fmt: skip


def _reason(retraining: Retraining, judged: tuple[Judged, ...], fired: list[Judged], *, is_first: bool) -> str:
    """With the numbers of what fired, else of all."""
    if not judged:
        return "there are no triggers"
    told = "; ".join(f"{one.trigger}: {one.verdict.reason}" for one in fired or judged)
    counted = f"{len(fired)} of {len(judged)} triggers fire, {retraining.needed} needed"
    return f"{'no version serves yet; ' if is_first else ''}{counted}: {told}"
