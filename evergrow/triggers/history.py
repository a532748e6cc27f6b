"""What is known of a model when it is decided whether to train it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from evergrow.contracts import Observation

Ending = Literal["promoted", "rejected", "failed"]
"""How a training ended: its version became the champion, or did not; or there was no version."""
Instants = NDArray[np.datetime64]


@dataclass(frozen=True)
class Champion:
    """The version that serves.

    Attributes:
        version: its number.
        cut: as of when its training data was known.
        since: since when it serves.
    """

    version: int
    cut: datetime
    since: datetime


@dataclass(frozen=True)
class Look:
    """What monitoring saw at once.

    Attributes:
        at: as of when.
        observations: all of them.
    """

    at: datetime
    observations: tuple[Observation, ...]


@dataclass(frozen=True)
class Trained:
    """A training that was begun.

    Attributes:
        began: when.
        ended: when its version was promoted or not; None: it is under way.
        outcome: how; None: it is under way.
        cpu_hours: that it has used so far.
        sent_back: when a rollout took its version back; None: none did.
    """

    began: datetime
    ended: datetime | None = None
    outcome: Ending | None = None
    cpu_hours: float = 0.0
    sent_back: datetime | None = None

    @property
    def fruitless(self) -> bool:
        """Whether it has ended and brought no champion: by the gate, or by what became of its version in service."""
        return self.ended is not None and (self.outcome != "promoted" or self.sent_back is not None)


def in_vain(trained: Sequence[Trained]) -> int:
    """How many trainings in a row have brought no champion, up to the last that ended."""
    ended = [one for one in trained if one.ended is not None]
    return sum(1 for _ in takewhile(lambda one: one.fruitless, reversed(ended)))


@dataclass(frozen=True)
class Request:
    """Somebody asks for a training.

    Attributes:
        at: when.
        by: who.
        reason: why.
    """

    at: datetime
    by: str
    reason: str = ""


@dataclass(frozen=True)
class History:
    """All that triggers go by; each part in the order of its time.

    It may hold what is later than the instant at which is decided, as the past does when it is replayed: `as_of` is
    what was known then.

    Attributes:
        champions: who has served, one after the other.
        known: when each row's label became known first; "datetime64[us]" in UTC, [rows]. None: that is not known.
        looks: monitoring's.
        trained: trainings, in the order of their beginning.
        requests: for trainings.
        frozen: why nothing may be trained now; empty: it may.
    """

    champions: Sequence[Champion] = ()
    known: Instants | None = None
    looks: Sequence[Look] = ()
    trained: Sequence[Trained] = ()
    requests: Sequence[Request] = ()
    frozen: str = ""

    @property
    def champion(self) -> Champion | None:
        """Who serves; None: nobody yet."""
        return self.champions[-1] if self.champions else None

    @property
    def look(self) -> Look | None:
        """Monitoring's newest; None: it has never looked."""
        return self.looks[-1] if self.looks else None

    def labelled(self, since: datetime, until: datetime) -> int:
        """Rows whose label became known in (since, until]; 0 where that is not known."""
        if self.known is None:
            return 0
        first, last = np.searchsorted(self.known, [_utc(since), _utc(until)], side="right")
        return int(max(0, last - first))

    def as_of(self, now: datetime) -> Self:
        """What of it was known then.

        A training that ended later was under way, and nobody knew how it would end; nor that its version would be sent
        back, if it was later.
        """
        return replace(
            self,
            champions=tuple(one for one in self.champions if one.since <= now),
            known=self.known if self.known is None else self.known[: self.known.searchsorted(_utc(now), "right")],
            looks=tuple(one for one in self.looks if one.at <= now),
            trained=tuple(_as_of(one, now) for one in self.trained if one.began <= now),
            requests=tuple(one for one in self.requests if one.at <= now),
        )


def _as_of(trained: Trained, now: datetime) -> Trained:
    if trained.ended is not None and trained.ended > now:
        return Trained(trained.began)
    return replace(trained, sent_back=None) if trained.sent_back and trained.sent_back > now else trained


def _utc(at: datetime) -> np.datetime64:
    return np.datetime64(round(at.timestamp() * 1e6), "us")
