"""When a model is trained again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from evergrow.contracts import ObservationKind
from evergrow.spec.base import Duration, Part, Word

# What zones are called besides, and whether capitals matter, differs between places.
_ZONE = "^(UTC|[A-Z][A-Za-z]+(/[A-Za-z0-9_+-]+){1,2})$"
_ZONE_LENGTH = 64


def _known_zone(name: str) -> str:
    with suppress(ZoneInfoNotFoundError, ValueError, OSError):
        if len(name) <= _ZONE_LENGTH and re.fullmatch(_ZONE, name):
            ZoneInfo(name)
            return name
    raise ValueError(f"must be a time zone such as Europe/Zurich or UTC, found {name[:_ZONE_LENGTH]!r}")


TimeZone = Annotated[
    str,
    AfterValidator(_known_zone),
    WithJsonSchema(
        {"type": "string", "pattern": _ZONE, "maxLength": _ZONE_LENGTH, "examples": ["UTC", "Europe/Zurich"]}
    ),
]
"""UTC, or of the IANA database: "Europe/Zurich"."""

_CRON = "^[0-9A-Za-z*,/#-]+( [0-9A-Za-z*,/#-]+){4}$"
_CRON_LENGTH = 100
_CRON_FIELDS: Mapping[str, str] = {
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, L for the last or LW for the last weekday, in a month that has it",
    "month": "1-12 or jan-dec",
    "day-of-week": "0-7 or sun-sat, fri#2 for the second or 5L for the last",
}
"""What may stand in each field, by the name that cronsim has for it."""


def _read_cron(text: str) -> str:
    # Where documents with schedules are read: servers, which read parts of others, do without it.
    from cronsim import CronSim, CronSimError

    if len(text) > _CRON_LENGTH:
        raise ValueError(f"must be at most {_CRON_LENGTH} characters, found {len(text)}")
    if not re.fullmatch(_CRON, text):
        raise ValueError(f'must be five fields ({", ".join(_CRON_FIELDS)}) such as "0 3 * * mon", found {text!r}')
    try:
        first = next(CronSim(text, datetime(2000, 1, 1)), None)
    except CronSimError as error:
        field = str(error).removeprefix("Bad ")
        rule = f'{_CRON_FIELDS[field]}; several as "1,2", "1-5" or "*/2"'
        raise ValueError(f"{field} must be {rule}; found {text!r}") from None
    if first is None:
        raise ValueError(f"must have days that come within 50 years, found {text!r}, whose days exclude each other")
    return text


Cron = Annotated[
    str,
    AfterValidator(_read_cron),
    WithJsonSchema(
        {"type": "string", "pattern": _CRON, "maxLength": _CRON_LENGTH, "examples": ["0 3 * * *", "30 22 * * mon-fri"]}
    ),
]
"""As Debian's cron reads it: "0 3 * * mon"."""
ClockTime = Annotated[str, StringConstraints(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")]
"""Of a day: "22:30"."""
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
"""A day of the week."""
WEEKDAYS: tuple[Weekday, ...] = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Asked(Part):
    """Train when somebody asks for it."""

    kind: Literal["asked"] = "asked"


class DataVolume(Part):
    """Train when so many newly labelled rows have come."""

    kind: Literal["data-volume"] = "data-volume"
    rows: PositiveInt
    """Whose label became known since the champion's training data was cut."""


class ModelAge(Part):
    """Train when the champion's data is old."""

    kind: Literal["model-age"] = "model-age"
    older_than: Duration
    """Since its training data was cut."""


class OnSchedule(Part):
    """Train at the times of a schedule."""

    kind: Literal["schedule"] = "schedule"
    cron: Cron
    """Minute, hour, day of month, month and day of week, as cron has them."""
    time_zone: TimeZone = "UTC"
    """In which they are read: a time that a change to summer time skips is due right after it."""


class Performance(Part):
    """Train when the champion does harm, by monitoring's tests, which may be looked at at any time."""

    kind: Literal["performance"] = "performance"
    by: Annotated[tuple[Literal["realised", "estimated"], ...], Field(min_length=1, max_length=2)] = ("realised",)
    """By labels that have come; by what is estimated before they do. Any of them is enough."""
    looked_within: Duration = Field(default="2d", validate_default=True)
    """Monitoring that looked longer ago is missing, and says nothing."""


class DataChange(Part):
    """Train when the data has changed, whether or not that has done harm."""

    kind: Literal["data-change"] = "data-change"
    of: Annotated[tuple[ObservationKind, ...], Field(min_length=1, max_length=17)] = (
        "feature-drift",
        "multivariate-drift",
        "label-drift",
    )
    """Which of monitoring's observations count: "schema" and "categories" are changes upstream."""
    columns: Annotated[tuple[Word, ...], Field(max_length=1000)] = ()
    """Only these; empty: all."""
    at_least: PositiveInt = 1
    """So many columns must have changed."""
    looked_within: Duration = Field(default="2d", validate_default=True)
    """Monitoring that looked longer ago is missing, and says nothing."""


Trigger = Annotated[Asked | DataVolume | ModelAge | OnSchedule | Performance | DataChange, Field(discriminator="kind")]


class QuietHours(Part):
    """When nothing is begun."""

    since: ClockTime
    """From this time of the day on."""
    until: ClockTime
    """Up to this one, of the next day if it is not later."""
    days: Annotated[tuple[Weekday, ...], Field(min_length=1, max_length=7)] = WEEKDAYS
    """On which they begin."""
    time_zone: TimeZone = "UTC"
    """In which both are read."""


class Budget(Part):
    """What training may take."""

    per: Duration = Field(default="30d", validate_default=True)
    """In so long a time, whenever that is."""
    trainings: PositiveInt | None = None
    """So many may be begun; null: any number."""
    cpu_hours: PositiveFloat | None = None
    """A training is not begun once those of the time have used so many; null: any number."""


class Retraining(Part):
    """When a model is trained again, and what keeps it from being."""

    triggers: Annotated[tuple[Trigger, ...], Field(max_length=20)] = ()
    """What asks for it; empty: nothing, and whoever wants it trains it."""
    needed: PositiveInt = 1
    """How many triggers have to fire: 1 is any of them, their number is all. Being asked is always enough."""
    cooldown: Duration = Field(default="1d", validate_default=True)
    """Nothing is begun for so long after a training has ended; twice as long after each that brought no champion."""
    longest: Duration = Field(default="30d", validate_default=True)
    """As long it becomes at most."""
    quiet: Annotated[tuple[QuietHours, ...], Field(max_length=20)] = ()
    """Nothing is begun then; what was wanted is begun afterwards, if it still is."""
    budget: Budget | None = None
    """Null: it may take anything."""

    @model_validator(mode="after")
    def _enough_triggers(self) -> Self:
        if self.triggers and self.needed > len(self.triggers):
            told = f"found {self.needed} of {len(self.triggers)}"
            raise ValueError(f"`needed` must be at most the number of triggers, {told}")
        return self
