"""Which of the labelled rows a model is fitted on."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, WithJsonSchema, model_validator

from evergrow.contracts import Instant
from evergrow.spec.base import Duration, Part

_SHORTEST = timedelta(minutes=1)
# What Python, and an API server by RFC 3339, read alike.
_MOMENT = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"


def _read_moment(value: Any) -> Any:
    if isinstance(value, datetime) or (isinstance(value, str) and re.fullmatch(_MOMENT, value)):
        return value
    raise ValueError(f'must be an instant such as "2024-03-01T00:00:00Z", found {value!r}')


Moment = Annotated[
    Instant,
    BeforeValidator(_read_moment),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": _MOMENT,
            "maxLength": 32,
            "examples": ["2024-03-01T00:00:00Z"],
        }
    ),
]
"""An instant with its offset from UTC: "2024-03-01T00:00:00Z"."""


class All(Part):
    """Train on all history."""

    kind: Literal["all"] = "all"


class Fixed(Part):
    """Train on what was asked for between two instants, whatever comes after."""

    kind: Literal["fixed"] = "fixed"
    since: Moment
    """The first instant."""
    until: Moment
    """The instant after the last."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.until <= self.since:
            raise ValueError("`until` must be after `since`")
        return self


class Sliding(Part):
    """Train on the newest `length` of history."""

    kind: Literal["sliding"] = "sliding"
    length: Duration
    """How far back from the newest labelled row."""


class Dynamic(Part):
    """Train on all history since features last meant something else: a window that grows, and is cut at a change."""

    kind: Literal["dynamic"] = "dynamic"
    least: Duration = Field(default="28d", validate_default=True, ge=timedelta(days=1))
    """The newest that is always kept, by which older days are judged."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Probability of a cut where nothing has changed, for each length that is looked at."""


class Season(Part):
    """Train on what is recent, and on the same time of the year, or of another period, in the past."""

    kind: Literal["season"] = "season"
    period: Duration = Field(default="365d", validate_default=True, ge=_SHORTEST)
    """After which things come round again."""
    within: Duration = Field(default="30d", validate_default=True, ge=_SHORTEST)
    """How far from the end of the window, one, two, ... whole periods ago, on either side."""
    recent: Duration = Field(default="28d", validate_default=True, ge=_SHORTEST)
    """The newest, of which every row is kept."""


class Decay(Part):
    """Train on rows that are the rarer, the older they are."""

    kind: Literal["decay"] = "decay"
    half_life: Duration = Field(ge=_SHORTEST)
    """Age at which every second row is kept; at twice the age every fourth, and so on."""


class Reservoir(Part):
    """Train on what is recent, and on so many rows from all the time before."""

    kind: Literal["reservoir"] = "reservoir"
    recent: Duration = Field(ge=_SHORTEST)
    """The newest, of which every row is kept."""
    rows: PositiveInt
    """How many older ones are kept; each is as likely as any other."""


class Similar(Part):
    """Train on what is recent, and on older rows that are the rarer, the less they resemble it."""

    kind: Literal["similar"] = "similar"
    recent: Duration = Field(default="28d", validate_default=True, ge=_SHORTEST)
    """The newest, of which every row is kept."""


class Hard(Part):
    """Train on what is recent, and on the older rows that a model of it predicts worst."""

    kind: Literal["hard"] = "hard"
    recent: Duration = Field(ge=_SHORTEST)
    """The newest, of which every row is kept."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Of the older rows, how many are kept."""


Window = Annotated[
    All | Fixed | Sliding | Dynamic | Season | Decay | Reservoir | Similar | Hard, Field(discriminator="kind")
]
"""Which of the labelled rows a model is fitted on."""
