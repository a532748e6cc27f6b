"""Clocks of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self


@dataclass(frozen=True)
class OffsetClock:
    """`evergrow.ports.Clock` that is ahead of the machine's, or behind it: another instant that goes on ticking."""

    offset: timedelta = timedelta()

    @classmethod
    def at(cls, now: datetime | None) -> Self:
        """One that says `now` at this moment; None: the machine's."""
        return cls(timedelta() if now is None else now - datetime.now(UTC))

    def now(self) -> datetime:
        """The present instant."""
        return datetime.now(UTC) + self.offset
