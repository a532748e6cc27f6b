"""What the loop asks of the world, and what it writes into.

Adapters: `integrations.loop_local` on one machine, `integrations.loop_cluster`, and in memory
`integrations.memory_loop`; books are `loop.book.BookFile` and `integrations.book_store.StoredBook`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, Self

from pydantic import Field

from evergrow.contracts import Instant, Value
from evergrow.loop.book import Entry
from evergrow.rollout.attempt import Attempt
from evergrow.triggers.history import Champion, Ending, Instants, Look


class Result(Value):
    """What became of a training."""

    outcome: Ending
    version: int | None
    cpu_hours: float
    reason: str
    at: Instant | None = None
    """When it ended; None: just now."""


class Return(Value):
    """A version was promoted by the gate, and its rollout has taken it back."""

    at: Instant
    reason: str = Field(description="the rollout's")

    @classmethod
    def of(cls, attempts: Sequence[Attempt], version: int, since: datetime) -> Self | None:
        """What the newest rollout of a version came to; None: it promoted it, or has not ended on its own.

        Args:
            attempts: rollouts of the model, in the order in which they were asked for.
            version: the candidate.
            since: when the training that made it was begun. What started earlier is of a training before it that made
                the same version.
        """
        mine = [one.status for one in attempts if version in one.document.spec.candidates]
        if not mine or mine[-1].ended is None:
            return None
        last = mine[-1]
        if last.started is None or last.started < since:
            return None
        kept = last.phase == "Superseded" or last.winner == version
        return None if kept else cls(at=last.ended, reason=last.reason)


class Book(Protocol):
    """The book of a model's loop. Nothing in it is ever changed."""

    def entries(self) -> Sequence[Entry]:
        """All of them, oldest first."""
        ...

    def append(self, entry: Entry) -> None:
        """Add an entry; killed at any point, all of it is there or nothing.

        Raises:
            ConflictError: others have written since it was read, where that is refused.
        """
        ...


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

    def train(self, now: datetime) -> Result | None:
        """Train, judge and, if the gate passes, promote as of an instant; what fails is a result, too.

        None: it is under way, and is asked for again later.

        Raises:
            SpecError: the document asks for what there is not; no training of it can do better.
        """
        ...

    def sent_back(self, version: int, since: datetime) -> Return | None:
        """Whether the newest rollout of a version has taken it back; None: it has not, or there was none since then."""
        ...
