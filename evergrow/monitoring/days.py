"""What the answers of one version on one day look like, and of which segments of the prediction log that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from evergrow.contracts import EVENT_TIMESTAMP
from evergrow.monitoring import tables
from evergrow.monitoring.baseline import Baseline
from evergrow.monitoring.profile import Axis, Profile, misfits, profile, profile_groups
from evergrow.monitoring.quality import LATENCY, age_axis, is_age, quantile

ALL = ""
_SUFFIX = "__event_timestamp"


@dataclass(frozen=True)
class Day:
    """One version's answers on a day.

    Attributes:
        day: UTC.
        version: that answered.
        axes: those of the version's baseline, then of the latency, then one a view for the age of its features.
        profiles: of all rows (ALL), and of each slice by its name.
        segments: the segments that were counted; none is ever counted twice.
        misfits: columns that were absent or of another kind in any of them, and what they were.
    """

    day: date
    version: int
    axes: tuple[Axis, ...]
    profiles: Mapping[str, Profile]
    segments: frozenset[str]
    misfits: Mapping[str, str]

    @classmethod
    def none(cls, day: date, version: int, baseline: Baseline, columns: list[str]) -> Self:
        """Of no segment yet; the log's columns tell which views there are."""
        views = [column.removesuffix(_SUFFIX) for column in columns if column.endswith(_SUFFIX)]
        axes = (*baseline.axes, LATENCY, *map(age_axis, views))
        return cls(day, version, axes, {ALL: Profile.empty(axes)}, frozenset(), {})

    def add(self, segment: str, rows: pa.Table, baseline: Baseline) -> Self:
        """With a segment's rows; one that is counted already changes nothing."""
        if segment in self.segments:
            return self
        aged = with_ages(rows, self.axes)
        found = {ALL: profile(self.axes, aged), **profile_groups(self.axes, aged, baseline.groupings)}
        both = {name: self.profiles[name] + part if name in self.profiles else part for name, part in found.items()}
        return replace(
            self,
            profiles={**self.profiles, **both},
            segments=self.segments | {segment},
            misfits={**self.misfits, **misfits(baseline.axes, rows)},
        )

    @property
    def rows(self) -> int:
        """Predictions."""
        return self.profiles[ALL].rows

    @property
    def latency_ms(self) -> tuple[float, float] | None:
        """Median and 99 % quantile; None if the log does not say."""
        counts = self.profiles[ALL].of(LATENCY.name)
        middle, most = quantile(LATENCY, counts, 0.5), quantile(LATENCY, counts, 0.99)
        return None if middle is None or most is None else (middle, most)

    def save(self) -> bytes:
        """As a Parquet file."""
        about = {
            "day": self.day.isoformat(),
            "version": self.version,
            "segments": sorted(self.segments),
            "misfits": dict(self.misfits),
        }
        return tables.write(self.profiles, self.axes, about)

    @classmethod
    def load(cls, content: bytes) -> Self:
        """What `save` made."""
        profiles, axes, about = tables.read(content)
        return cls(
            date.fromisoformat(about["day"]),
            about["version"],
            axes,
            profiles,
            frozenset(about["segments"]),
            about["misfits"],
        )


def with_ages(rows: pa.Table, axes: tuple[Axis, ...]) -> pa.Table:
    """Rows of the log with how old each view's features were, in seconds; missing where nothing was found."""
    asked = _microseconds(rows[EVENT_TIMESTAMP])
    for axis in axes:
        column = f"{axis.name.removeprefix('age of ')}{_SUFFIX}"
        if is_age(axis) and column in rows.column_names:
            age = pc.cast(pc.subtract(asked, _microseconds(rows[column])), pa.float64())
            rows = rows.append_column(axis.name, pc.divide(age, 1e6))
    return rows


def _microseconds(instants: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(pc.cast(instants, pa.timestamp("us", "UTC"), safe=False), pa.int64())
