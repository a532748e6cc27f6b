"""What the loop asks of the world. Adapters: `integrations.loop_local`, and in memory `integrations.memory_loop`."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from evergrow.contracts import Value
from evergrow.triggers.history import Champion, Ending, Instants, Look


class Result(Value):
    """What became of a training."""

    outcome: Ending
    version: int | None
    cpu_hours: float
    reason: str


class World(Protocol):
    """A model's data, registry, monitoring and training. Asked the same again, each answers and leaves the same.

    What may go well a moment later is raised as an error that is `retriable`; nothing is lost by it.
    """

    def known(self, now: datetime) -> Instants | None:
        """Bring the data up to an instant, and tell when labels became known; None if it cannot be brought there."""
        ...

    def champion(self, now: datetime) -> Champion | None:
        """Who serves, by the registry; None: nobody yet."""
        ...

    def look(self, now: datetime) -> Look | None:
        """Have monitoring look, if there is anything to see, and tell what it saw last; None: it has never looked."""
        ...

    def train(self, now: datetime) -> Result:
        """Train, judge and, if the gate passes, promote as of an instant; what fails is a result, too.

        Raises:
            SpecError: the document asks for what there is not; no training of it can do better.
        """
        ...
