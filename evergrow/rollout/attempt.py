"""A ModelRollout as it was read: what is asked for, what has become of it, and what somebody orders meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, get_args

from evergrow.errors import SpecError
from evergrow.rollout.machine import ENDS, Order
from evergrow.spec.rollout import ModelRollout, RolloutStatus

ORDER, ORDERED_BY = "evergrow.dev/order", "evergrow.dev/ordered-by"
"""Annotations: what somebody orders, and who. The first is taken away once the order is carried out."""
REQUESTED = "evergrow.dev/requested"
"""Annotation: when it was asked for, by which a model's attempts are ordered."""
TRAINED_ON = "evergrow.dev/trained-on"
"""Annotation: as of when the candidate was trained."""


@dataclass(frozen=True)
class Attempt:
    """One attempt to put a version into service.

    Attributes:
        document: with its status.
        revision: of the store that it was read from; a status is written only over the one that was read.
        deleted: somebody deletes it: it is to end first.
    """

    document: ModelRollout
    revision: str = ""
    deleted: bool = False

    @property
    def name(self) -> str:
        """The attempt's name."""
        return self.document.name

    @property
    def status(self) -> RolloutStatus:
        """What has become of it."""
        return self.document.status

    def becoming(self, status: RolloutStatus) -> Self:
        """The same with another status, not written down."""
        return replace(self, document=self.document.model_copy(update={"status": status}))

    @property
    def begun(self) -> bool:
        """Whether it has a status yet."""
        return self.status.started is not None

    @property
    def over(self) -> bool:
        """Whether it has come to an end."""
        return self.status.phase in ENDS

    @property
    def order(self) -> Order | None:
        """What somebody orders; who deletes it orders to abort.

        Raises:
            SpecError: that is no order.
        """
        if self.deleted:
            return "abort"
        said = self.document.metadata.annotations.get(ORDER)
        if said is None:
            return None
        for known in get_args(Order):
            if said == known:
                return known  # type: ignore[no-any-return]
        raise SpecError(f"annotation {ORDER}: must be one of {', '.join(get_args(Order))}, found {said!r}")

    @property
    def ordered_by(self) -> str:
        """Who orders it."""
        return self.document.metadata.annotations.get(ORDERED_BY, "its deletion" if self.deleted else "annotation")
