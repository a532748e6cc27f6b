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
        schema: its columns and the rules a single row must keep; a row that breaks one goes into quarantine.
        key: columns that identify a row; a second row of the same key goes into quarantine.
        known_at: column with the instant (UTC) a row became known: the watermark. Rows arrive in its order.
        categories: columns whose new levels are worth telling.
        shift: for numeric columns, by which factor the median of a batch may differ from what is stored before it
            counts as a changed unit; 0 switches the check off. The default catches minutes for hours and kilometres
            for metres, and lets a season pass.
        pace: the shortest span in which rows always arrive. A batch that spans more without any is refused as lost.
    """

    name: str
    schema: pa.DataFrameSchema
    key: tuple[str, ...]
    known_at: str
    categories: tuple[str, ...] = ()
    shift: Mapping[str, float] = field(default_factory=dict)
    pace: timedelta | None = None
