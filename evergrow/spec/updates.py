"""What of a model is trained again."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from evergrow.spec.base import Part


class Refit(Part):
    """Fit anew: nothing is taken over from the version that serves."""

    kind: Literal["refit"] = "refit"
    control: ClassVar[None] = None


class Control(Part):
    """A refit on the same rows, which an update is held against on the held-out rows, and which never serves."""

    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.02
    """By how much the update's mean loss may be above the control's, as a share of the control's."""


class Recalibrate(Part):
    """Keep the estimator of the version that serves; only how its scores become probabilities is fitted anew."""

    kind: Literal["recalibrate"] = "recalibrate"
    control: Control | None = None
    """Reject what is surely worse than a refit would be; costs a second training. Off unless given."""


class WarmStart(Part):
    """Go on from the estimator of the version that serves, on the rows of the window (scikit-learn's `warm_start`)."""

    kind: Literal["warm-start"] = "warm-start"
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 20
    """How many trees or rounds are added, of an estimator that counts them (`n_estimators`)."""
    control: Control | None = None
    """Reject what is surely worse than a refit would be; costs a second training. Off unless given."""


class PartialFit(Part):
    """Go on from the estimator of the version that serves, on rows that are newer than its own (`partial_fit`)."""

    kind: Literal["partial-fit"] = "partial-fit"
    passes: Annotated[int, Field(ge=1, le=1000)] = 1
    """How often they are gone through."""
    control: Control | None = None
    """Reject what is surely worse than a refit would be; costs a second training. Off unless given."""


Update = Annotated[Refit | Recalibrate | WarmStart | PartialFit, Field(discriminator="kind")]
"""What of a model is trained again."""


def uncontrolled(update: Update) -> Update:
    """The update without its control, which shapes no model."""
    return update if isinstance(update, Refit) else update.model_copy(update={"control": None})
