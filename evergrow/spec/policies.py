"""PolicySet: the retraining policies that a backtest tries."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from evergrow.contracts import Instant
from evergrow.spec.base import Duration, Part
from evergrow.spec.model import API_VERSION

Option = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=40)]
"""Name of a choice, or of one of its options."""
Patch = Mapping[str, Any]
"""What is another in `spec`, as a JSON merge patch (RFC 7386): null takes a key away."""
MOST = 2000


class WhatIf(Part):
    """In what the past is taken to have been another."""

    label_delay: Duration = Field(default="0s", validate_default=True)
    """Labels become known so much later."""
    takes: Duration = Field(default="1h", validate_default=True)
    """So long after a training was begun its version may serve."""
    cpu_hours_per_million_rows: Annotated[float, Field(ge=0)] = 0.0
    """What a training costs in budgets and in money, by the rows it is fitted on. What it took here is measured, too,
    but decides nothing: it is another on every machine."""
    spec: Patch = {}  # noqa: RUF012 - frozen
    """Of every policy, whatever its options say: a budget, what predictions are worth, prices."""


class Recommend(Part):
    """Which policy is recommended: of those that are shown to be no worse than the best, the one that trains least."""

    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """By what share of the best policy's loss another may be worse."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Probability of recommending any that is worse by more."""
    chosen_by: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the time, from the beginning, that is chosen by; the rest says how the choice has done."""


class PolicySet(Part):
    """Policies to try on a model's past: one for each combination of options."""

    api_version: Literal["evergrow.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    """Version of this document's format."""
    kind: Literal["PolicySet"] = "PolicySet"
    """Always PolicySet."""
    base: Patch = {}  # noqa: RUF012 - frozen
    """Of every policy, before the options."""
    choices: Mapping[Option, Mapping[Option, Patch]] = Field(min_length=1, max_length=8)
    """What is chosen, by name ("when", "window", "gate"), and of each the options: what they change in the document."""
    reference: Mapping[Option, Option] = {}
    """The policy that the others are held against, an option per choice; default: each choice's first."""
    since: Instant | None = None
    """First instant at which is decided; default: when the document's parts and four weeks to fit on are there."""
    until: Instant | None = None
    """No decision is later; default: when the last label came."""
    every: Duration = Field(default="1d", validate_default=True, ge=timedelta(minutes=1))
    """How often is decided."""
    what_if: WhatIf = WhatIf()
    """In what the past is taken to have been another."""
    recommend: Recommend = Recommend()
    """How one of them is recommended."""

    @model_validator(mode="after")
    def _some_of_each(self) -> Self:
        for choice, options in self.choices.items():
            if not options:
                raise ValueError(f"`choices.{choice}` must have at least one option, found none")
        if self.count > MOST:
            raise ValueError(f"`choices` must combine to at most {MOST:,} policies, found {self.count:,}")
        return self

    @model_validator(mode="after")
    def _reference_exists(self) -> Self:
        for choice, option in self.reference.items():
            known = self.choices.get(choice)
            if known is None:
                raise ValueError(f"`reference` must name choices, one of {', '.join(self.choices)}, found {choice!r}")
            if option not in known:
                raise ValueError(f"`reference.{choice}` must be one of {', '.join(known)}, found {option!r}")
        return self

    @property
    def count(self) -> int:
        """How many policies there are."""
        count = 1
        for options in self.choices.values():
            count *= len(options)
        return count
