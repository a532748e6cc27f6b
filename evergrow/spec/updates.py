"""What of a model is trained again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from evergrow.spec.base import Part


class Refit(Part):
    """Fit anew: nothing is taken over from the version that serves."""

    kind: Literal["refit"] = "refit"


class Recalibrate(Part):
    """Keep the estimator of the version that serves; only how its scores become probabilities is fitted anew."""

    kind: Literal["recalibrate"] = "recalibrate"


class WarmStart(Part):
    """Go on from the estimator of the version that serves, on the rows of the window (scikit-learn's `warm_start`)."""

    kind: Literal["warm-start"] = "warm-start"
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 20
    """How many trees or rounds are added, of an estimator that counts them (`n_estimators`)."""


class PartialFit(Part):
    """Go on from the estimator of the version that serves, on rows that are newer than its own (`partial_fit`)."""

    kind: Literal["partial-fit"] = "partial-fit"
    passes: Annotated[int, Field(ge=1, le=1000)] = 1
    """How often they are gone through."""


Update = Annotated[Refit | Recalibrate | WarmStart | PartialFit, Field(discriminator="kind")]
"""What of a model is trained again."""
