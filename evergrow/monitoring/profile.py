"""Profiles: how often each value occurs, counted on a grid that a reference fixes once.

A profile is integers only. Those of two segments add up to that of both, in any order and to the last digit, so a
segment is read once and a day is the sum of its segments. All distances between distributions are made of profiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evergrow.contracts import Feature, Value
from evergrow.errors import DataError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

BINS = 50
"""Cells of equal reference mass that a number's range is cut into."""
TAILS = (0.001, 0.005, 0.01, 0.99, 0.995, 0.999)
"""Shares at which the range is cut, too: far values lie far apart."""
SHARES = np.union1d(np.arange(1, BINS + 1) / BINS, TAILS)
LEVELS = 100
"""Categories with a cell of their own; rarer ones share one."""
BLOCK = 1 << 14
"""Numbers that are sorted at a time."""
NAMED = 1000
"""Unseen categories of a column that are counted by name; further ones are counted only."""
GROUPS = 50
"""Values of a slice column that are looked at."""


class Axis(Value):
    """How the values of one column are counted.

    Cells of a number: far below all that was ever seen, then (edge, edge] …, far above. Cells of a category: one a
    level, and one for all that is none of them. The last cell of both counts missing values.

    Attributes:
        name: of the column.
        kind: numeric or categorical.
        edges: ends of the cells, rising; the first and the last are as far from all that was ever seen as that is wide.
        levels: the reference's categories, the commonest first.
        spread: standard deviation of the reference's values; what distances in the column's unit are divided by.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    edges: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    spread: float = 0.0

    @property
    def cells(self) -> int:
        """How many cells there are, that of missing values included."""
        return len(self.edges) + 2 if self.kind == "numeric" else len(self.levels) + 2

    @classmethod
    def of(
        cls, feature: Feature, values: pa.ChunkedArray, seen: tuple[float, float] | None = None, most: int | None = None
    ) -> Self:
        """The axis that a reference's values make.

        Args:
            feature: name and kind.
            values: the reference's, missing ones included.
            seen: least and greatest number ever seen, if that is more than the reference's.
            most: cells or levels at most; BINS and the tails, or LEVELS, if not given.
        """
        if feature.kind == "categorical":
            counted = pc.value_counts(pc.drop_null(_texts(values))).to_pylist()
            common = sorted(counted, key=lambda c: (-c["counts"], str(c["values"])))[: most or LEVELS]
            return cls(name=feature.name, kind=feature.kind, levels=tuple(str(c["values"]) for c in common))
        numbers = _numbers(values)
        numbers = numbers[np.isfinite(numbers)]
        if not len(numbers):
            return cls(name=feature.name, kind=feature.kind)
        shares = np.arange(1, most + 1) / most if most else SHARES
        ends = np.quantile(numbers, shares, method="inverted_cdf")
        known = [numbers.min(), numbers.max(), *(seen or ())]
        low, high, width = min(known), max(known), max(known) - min(known)
        below = np.nextafter([low - width, low, numbers.min()], -np.inf)
        edges = np.unique([*below, *ends, high, high + width])
        return cls(name=feature.name, kind=feature.kind, edges=tuple(edges.tolist()), spread=float(numbers.std()))

    def cell_of(self, values: pa.ChunkedArray) -> Counts:
        """The cell of each value, [n]."""
        if self.kind == "numeric":
            # NaN is sorted after infinity: it falls into the cell of missing values by itself.
            return np.searchsorted(np.append(self.edges, np.inf), _numbers(values), side="left").astype(np.int64)
        encoded = pc.dictionary_encode(_texts(values)).combine_chunks()
        place = {level: cell for cell, level in enumerate(self.levels)}
        cells = [place.get(name, len(self.levels)) for name in encoded.dictionary.to_pylist()]
        codes = encoded.indices.fill_null(len(cells)).to_numpy(zero_copy_only=False)
        found: Counts = np.array([*cells, self.cells - 1], np.int64)[codes]
        return found

    def name_of(self, cell: int) -> str:
        """A cell in words: a category, or a half-open range of numbers."""
        if cell == self.cells - 1:
            return "missing"
        if self.kind == "categorical":
            return self.levels[cell] if cell < len(self.levels) else "other"
        if not self.edges:
            return "any"
        if cell == 0:
            return f"below {self.edges[0]:.4g}"
        if cell == len(self.edges):
            return f"> {self.edges[-1]:.4g}"
        below = "" if cell == 1 else f"({self.edges[cell - 1]:.4g}, "
        return f"{below}{self.edges[cell]:.4g}]" if below else f"≤ {self.edges[cell]:.4g}"


@dataclass(frozen=True)
class Profile:
    """How often the values of some rows fall into each cell of each axis.

    Attributes:
        axes: of the columns, k.
        rows: how many.
        counts: of all cells of all axes, one axis after the other.
        low: least value of each number, [k]; +inf if there is none.
        high: greatest value of each number, [k]; -inf if there is none.
        unseen: per categorical column, how often categories occur that are no level of its axis.
    """

    axes: tuple[Axis, ...]
    rows: int
    counts: Counts
    low: Floats
    high: Floats
    unseen: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def empty(cls, axes: Sequence[Axis]) -> Self:
        """Of no rows: what adding starts from."""
        k = len(axes)
        return cls(
            tuple(axes),
            0,
            np.zeros(sum(axis.cells for axis in axes), np.int64),
            np.full(k, np.inf),
            np.full(k, -np.inf),
        )

    def __add__(self, other: Profile) -> Profile:
        """The profile of both's rows.

        Raises:
            DataError: they are counted on different axes.
        """
        if self.axes != other.axes:
            raise DataError("profiles of different axes cannot be added", hint="they belong to different versions")
        return Profile(
            self.axes,
            self.rows + other.rows,
            self.counts + other.counts,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            _added(self.unseen, other.unseen),
        )

    def __sub__(self, other: Profile) -> Profile:
        """The profile without rows that are part of it; the extremes stay those of all."""
        return Profile(self.axes, self.rows - other.rows, self.counts - other.counts, self.low, self.high, self.unseen)

    def first(self, axes: int) -> Profile:
        """The profile of the first so many columns."""
        cells = sum(axis.cells for axis in self.axes[:axes])
        kept = {axis.name: self.unseen[axis.name] for axis in self.axes[:axes] if axis.name in self.unseen}
        return Profile(self.axes[:axes], self.rows, self.counts[:cells], self.low[:axes], self.high[:axes], kept)

    def columns(self) -> Iterator[tuple[Axis, Counts]]:
        """Each axis with the counts of its cells."""
        yield from zip(self.axes, self._split(), strict=True)

    def of(self, name: str) -> Counts:
        """The counts of one column's cells.

        Raises:
            KeyError: it has no such column.
        """
        for axis, counts in self.columns():
            if axis.name == name:
                return counts
        raise KeyError(name)

    def _split(self) -> list[Counts]:
        ends = np.cumsum([axis.cells for axis in self.axes])
        return np.split(self.counts, ends[:-1]) if len(self.axes) else []


def total(profiles: Sequence[Profile], axes: Sequence[Axis]) -> Profile:
    """The profile of all rows of several."""
    return sum(profiles, Profile.empty(axes))


def axes_of(
    features: Sequence[Feature], table: pa.Table, seen: Mapping[str, tuple[float, float]] = MappingProxyType({})
) -> tuple[Axis, ...]:
    """The axes that a reference's columns make, in the order of `features`; `seen` as of `Axis.of`, by column."""
    return tuple(Axis.of(feature, table[feature.name], seen.get(feature.name)) for feature in features)


def profile(axes: Sequence[Axis], table: pa.Table) -> Profile:
    """Count the rows of a table; a column that it lacks counts as missing in every row."""
    seen = [_seen(axis, table) for axis in axes]
    return Profile(
        tuple(axes),
        table.num_rows,
        np.concatenate([column.counts for column in seen]) if seen else np.zeros(0, np.int64),
        np.array([column.low for column in seen]),
        np.array([column.high for column in seen]),
        {axis.name: column.unseen for axis, column in zip(axes, seen, strict=True) if column.unseen},
    )


class Grouping(Value):
    """How rows are told apart by the values of a column.

    Attributes:
        column: its name.
        axis: whose cells the groups are.
    """

    column: str
    axis: Axis

    @classmethod
    def by(cls, column: str, values: pa.ChunkedArray) -> Self:
        """Groups of a reference's values: categories and numbers of few values each, other numbers in quarters."""
        numeric = pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
        if numeric and pc.count_distinct(values).as_py() > GROUPS:
            return cls(column=column, axis=Axis.of(Feature(name=column, kind="numeric"), values, most=4))
        return cls(column=column, axis=Axis.of(Feature(name=column, kind="categorical"), values, most=GROUPS))

    def split(self, table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """The rows of each group that has any, by the name "column=value"; none if the table lacks the column."""
        if self.column not in table.column_names:
            return
        cells = self.axis.cell_of(table[self.column])
        ends = np.cumsum(np.bincount(cells, minlength=self.axis.cells))
        ordered = table.take(np.argsort(cells, kind="stable"))
        for cell, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
            if end > start:
                yield f"{self.column}={self.axis.name_of(cell)}", ordered.slice(start, end - start)


def profile_groups(axes: Sequence[Axis], table: pa.Table, groupings: Sequence[Grouping]) -> dict[str, Profile]:
    """The profile of each group's rows, by the groups' names."""
    return {name: profile(axes, part) for grouping in groupings for name, part in grouping.split(table)}


@dataclass(frozen=True)
class _Seen:
    """One column: counts by cell, extremes, and how often categories occur that are no level."""

    counts: Counts
    low: float = math.inf
    high: float = -math.inf
    unseen: Mapping[str, int] = field(default_factory=dict)


def misfits(axes: Sequence[Axis], table: pa.Table) -> dict[str, str]:
    """Columns that cannot be counted, and what they are instead: "absent", or a type that is no number's.

    Their values count as missing.
    """
    fields = {field.name: field.type for field in table.schema}
    found = {axis.name: _misfit(axis, fields.get(axis.name)) for axis in axes}
    return {name: what for name, what in found.items() if what}


def _misfit(axis: Axis, kind: pa.DataType | None) -> str:
    if kind is None:
        return "absent"
    number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return "" if number or axis.kind == "categorical" or pa.types.is_null(kind) else str(kind)


def _seen(axis: Axis, table: pa.Table) -> _Seen:
    fits = not misfits([axis], table)
    values = table[axis.name] if fits else pa.chunked_array([pa.nulls(table.num_rows)])
    return _seen_numbers(axis, _numbers(values)) if axis.kind == "numeric" else _seen_categories(axis, values)


def _seen_numbers(axis: Axis, numbers: Floats) -> _Seen:
    """Sorting blocks that fit a cache and looking the edges up in them is ten times as fast as looking values up."""
    edges = np.asarray(axis.edges, np.float64)
    up_to, there, low, high = np.zeros(len(edges), np.int64), 0, math.inf, -math.inf
    for start in range(0, len(numbers), BLOCK):
        block = np.sort(numbers[start : start + BLOCK])
        values = int(np.searchsorted(block, np.nan))  # NaN is sorted last
        up_to += np.searchsorted(block[:values], edges, side="right")
        there += values
        if values:
            low, high = min(low, float(block[0])), max(high, float(block[values - 1]))
    return _Seen(np.diff([0, *up_to, there, len(numbers)]), low, high)


def _seen_categories(axis: Axis, values: pa.ChunkedArray) -> _Seen:
    counted = {c["values"]: int(c["counts"]) for c in pc.value_counts(_texts(values)).to_pylist()}
    missing = counted.pop(None, 0)
    levels = [counted.pop(level, 0) for level in axis.levels]
    commonest = sorted(counted.items(), key=lambda one: (-one[1], one[0]))[:NAMED]
    return _Seen(np.array([*levels, sum(counted.values()), missing], np.int64), unseen=dict(commonest))


def _added(a: Mapping[str, Mapping[str, int]], b: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    both = {column: dict(counts) for column, counts in a.items()}
    for column, counts in b.items():
        here = both.setdefault(column, {})
        for name, n in counts.items():
            if name in here or len(here) < NAMED:
                here[name] = here.get(name, 0) + n
    return both


def _numbers(values: pa.ChunkedArray) -> Floats:
    """As float64 [n]; missing is NaN."""
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        values = values.cast(pa.float64())
    found: Floats = values.to_numpy().astype(np.float64, copy=False)
    return found


def _texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values if pa.types.is_string(values.type) else values.cast(pa.string())
