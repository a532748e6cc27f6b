"""What a raw table must look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import pandera.pandas as pa


@dataclass(frozen=True)
class Table:
    """A raw table of a source.

    Attributes:
        name: its name.
        schema: its columns and the rules a single row must keep; a row that breaks one goes into quarantine. A column
            that it does not declare is a fault if the schema is strict, else it is left out.
        key: columns that identify a row; a second row of the same key goes into quarantine.
        known_at: column with the instant (UTC) a row became known: the watermark. Rows arrive in its order.
        happened_at: column with the instant of what a row tells of, if that must lie before it became known.
        categories: columns whose new levels are worth telling, and whose frequent levels must not vanish.
        shift: for numeric columns, by which factor the median of a batch may differ from what is stored before it
            counts as a changed unit; 0 switches the check off. The default catches minutes for hours and kilometres
            for metres, and lets a season pass.
        pace: the span in which at least one row always arrives. A batch with a longer gap is refused as lost.
        least: the share of the usual number of rows per day that a batch must reach, else rows are lost; 0 switches
            the check off. Usual is what is stored.
    """

    name: str
    schema: pa.DataFrameSchema
    key: tuple[str, ...]
    known_at: str
    happened_at: str | None = None
    categories: tuple[str, ...] = ()
    shift: Mapping[str, float] = field(default_factory=dict)
    pace: timedelta | None = None
    least: float = 0.0
