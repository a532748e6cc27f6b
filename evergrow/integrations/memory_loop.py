"""An in-memory twin of the world that a loop trains in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import numpy as np

from evergrow.contracts import Observation
from evergrow.loop.ports import Result, Return
from evergrow.triggers.history import Champion, Ending, Instants, Look


class MemoryWorld:
    """`evergrow.loop.ports.World` of this process, whose trainings end as they are told to.

    A training as of the same instant makes the same version, and is on record once.

    Attributes:
        labels: when each row's label becomes known, rising.
        seen: what monitoring sees; None: there is nothing to see.
        endings: how the training of an instant ends; others end with a promotion.
        fails: is called with what is asked before it is answered, and after a training; may raise.
        trained: instants of trainings, each once, in the order in which they were first asked for.
        returns: versions that rollouts take back, and when.
    """

    def __init__(
        self,
        labels: Sequence[datetime] = (),
        endings: Mapping[datetime, Ending] | None = None,
        seen: Sequence[Observation] | None = None,
        fails: Callable[[str], object] = lambda _: None,
        returns: Mapping[int, datetime] | None = None,
    ) -> None:
        self.labels, self.seen, self.fails = sorted(labels), seen, fails
        self.endings, self.returns = dict(endings or {}), dict(returns or {})
        self.trained: list[datetime] = []
        self._champion: Champion | None = None

    def known(self, now: datetime) -> Instants | None:
        """Labels that are known by now."""
        self.fails("known")
        return np.array([at.replace(tzinfo=None) for at in self.labels if at <= now], dtype="datetime64[us]")

    def champion(self, now: datetime) -> Champion | None:
        """The version that was promoted last."""
        self.fails("champion")
        return self._champion

    def look(self, now: datetime) -> Look | None:
        """What monitoring sees now."""
        self.fails("look")
        return None if self.seen is None else Look(now, tuple(self.seen))

    def train(self, now: datetime) -> Result:
        """Train as of an instant."""
        self.fails("train")
        if now not in self.trained:
            self.trained.append(now)
        outcome = self.endings.get(now, "promoted")
        made = [at for at in self.trained if self.endings.get(at, "promoted") != "failed"]
        version = None if outcome == "failed" else made.index(now) + 1
        if outcome == "promoted" and version is not None:
            self._champion = Champion(version, now, now)
        self.fails("trained")
        return Result(outcome=outcome, version=version, cpu_hours=0.5, reason=f"{outcome} as it was told to")

    def sent_back(self, version: int, since: datetime) -> Return | None:
        """As it was told to, whenever its training was begun."""
        self.fails("sent back")
        return Return(at=self.returns[version], reason="harm") if version in self.returns else None
