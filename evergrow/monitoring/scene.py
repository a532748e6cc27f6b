"""What all observations of one look at a model share, and how one is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from evergrow.contracts import Observation, ObservationKind, Verdict

MONTH_DAYS = 365.25 / 12


@dataclass(frozen=True)
class Scene:
    """Which rows are looked at, against what, and how rare a false alarm must be.

    Attributes:
        model: its name.
        version: whose answers; None: of all.
        since: the first instant, included.
        until: the last, excluded.
        reference: what is compared with, in words: "holdout of version 3".
        alpha: probability that any of a family's checks fails although nothing has changed.
    """

    model: str
    version: int | None
    since: datetime
    until: datetime
    reference: str
    alpha: float

    def against(self, reference: str) -> Self:
        """The same rows, held against something else."""
        return replace(self, reference=reference)

    def observe(
        self, kind: ObservationKind, subject: str, test: str, effect: float, threshold: float, rows: int,
        verdict: Verdict, *, alarm: bool = False, **more: Any,
    ) -> Observation:  # fmt: skip
        """An observation of this scene."""
        return Observation(
            model=self.model,
            version=self.version,
            kind=kind,
            subject=subject,
            since=self.since,
            until=self.until,
            rows=rows,
            reference=self.reference,
            test=test,
            effect=effect,
            threshold=threshold,
            alarm=alarm,
            verdict=verdict,
            **more,
        )


def daily_alpha(per_month: float, share: float) -> float:
    """Probability of a false alarm a day that a share of the accepted number a month allows.

    Expectations add up whatever hangs together: m checks at alpha / m raise alpha alarms a day at most (Bonferroni).
    """
    return min(0.5, per_month * share / MONTH_DAYS)
