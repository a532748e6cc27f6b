"""Metrics over parts of the rows: where a model that is good on average is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, Metric, Slice
from evergrow.errors import DataError
from evergrow.evaluation.metrics import Floats, measure
from evergrow.statistics.means import Ints

MINIMUM_ROWS = 100
"""A slice of fewer rows is left out, by name and with its count: its interval would say nothing."""
MOST_VALUES = 20
"""Numbers of more distinct values than this are cut into quarters of equal rows."""


@dataclass(frozen=True)
class Scored:
    """Held-out rows with their labels, one model's scores, and the block of time of each."""

    rows: pd.DataFrame
    y: Floats
    scores: Floats
    blocks: Ints

    def measured(self, names: Sequence[str], mask: NDArray[np.bool_] | None = None) -> tuple[Metric, ...]:
        """The metrics that are defined on the rows of `mask`, or on all."""
        part = slice(None) if mask is None else mask
        _, blocks = np.unique(self.blocks[part], return_inverse=True)
        found = (measure(name, self.y[part], self.scores[part], blocks) for name in names)
        return tuple(metric for metric in found if metric is not None)


@dataclass(frozen=True)
class Skipped:
    """A slice that was left out, and why."""

    column: str
    value: str
    rows: int
    reason: str


def by_column(scored: Scored, column: str, names: Sequence[str]) -> Iterator[Slice | Skipped]:
    """Metrics for each value of a column, most rows first.

    Raises:
        DataError: the training set has no such column.
    """
    if column not in scored.rows:
        raise DataError(
            f"spec.evaluation.slices: the training set has no column {column!r}",
            hint=f"it has {', '.join(map(str, scored.rows.columns))}",
        )
    yield from _slices(scored, column, values_of(scored.rows[column]), names)


def by_month(scored: Scored, names: Sequence[str]) -> Iterator[Slice | Skipped]:
    """Metrics for each month (UTC) of the prediction instants."""
    months = scored.rows[EVENT_TIMESTAMP].dt.strftime("%Y-%m")
    yield from sorted(_slices(scored, "month", months, names), key=lambda month: month.value)


def values_of(column: pd.Series) -> pd.Series:
    """A column's values as text; numbers of many values as quarters, e.g. "(2.5, 8]"; "missing" where there is none."""
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > MOST_VALUES:
        edges = np.unique(np.quantile(column.dropna(), (0, 0.25, 0.5, 0.75, 1)))
        names = np.array([f"{'(' if i else '['}{a:.4g}, {b:.4g}]" for i, (a, b) in enumerate(pairwise(edges))], object)
        quarter = np.searchsorted(edges[1:-1], column.to_numpy(np.float64, na_value=np.nan), side="left")
        text = pd.Series(names[quarter], index=column.index).where(column.notna())
    elif pd.api.types.is_float_dtype(column):
        text = column.map(lambda value: f"{value:g}", na_action="ignore").astype(object)
    else:
        text = column.astype(object)
    named: pd.Series = text.where(text.notna(), "missing").astype(str)
    return named


def _slices(scored: Scored, column: str, values: pd.Series, names: Sequence[str]) -> Iterator[Slice | Skipped]:
    texts = values.to_numpy()
    for value, count in values.value_counts().items():
        rows, text = int(count), str(value)
        if rows < MINIMUM_ROWS:
            yield Skipped(column, text, rows, f"fewer than {MINIMUM_ROWS} rows")
            continue
        metrics = scored.measured(names, texts == text)
        yield (
            Slice(column=column, value=text, metrics=metrics)
            if metrics
            else Skipped(column, text, rows, "one class or one block of time only")
        )
