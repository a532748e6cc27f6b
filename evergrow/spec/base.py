"""The shape every part of a document has: frozen, closed, camelCase outside and snake_case inside."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel


class Part(BaseModel):
    """Base of every part of a document: an unknown key is an error, and nothing changes after reading."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        use_attribute_docstrings=True,
    )

    def dump(self) -> dict[str, Any]:
        """As a user would write it: camelCase keys, JSON values, defaults included."""
        return self.model_dump(mode="json", by_alias=True)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# ASCII and bounded, so that every reader of the pattern (Python, Rust, Go, JavaScript) means the same, and no length
# is too long to be counted.
_DURATION = "^([0-9]{1,6}d)?([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$"


def _read_duration(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not value or not re.fullmatch(_DURATION, value):
        raise ValueError(f'must be a duration such as "30d", "12h" or "1h30m", found {value!r}')
    return timedelta(seconds=sum(int(n) * _UNITS[unit] for n, unit in re.findall("([0-9]+)([dhms])", value)))


def write_duration(value: timedelta) -> str:
    """Write a duration as documents do, in whole seconds.

    >>> write_duration(timedelta(days=1, hours=2))
    '1d2h'
    """
    left, text = int(value.total_seconds()), ""
    for unit in "dhms":
        count, left = divmod(left, _UNITS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(_read_duration),
    PlainSerializer(write_duration, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": _DURATION,
            "minLength": 1,
            "maxLength": 28,
            "examples": ["30d", "12h", "1h30m"],
        }
    ),
]
"""A length of time: "30d", "12h", "1h30m", "45s"."""

Entrypoint = Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]
"""An importable Python object, "package.module:name"."""

Word = Annotated[str, StringConstraints(max_length=253)]
"""A column, a metric or the like where a rule compares it with others: rules cost by the longest that may come."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=50)]
"""A Kubernetes name: lower-case letters, digits and hyphens, starting with a letter."""
