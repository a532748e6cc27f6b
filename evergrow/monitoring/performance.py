"""Realised performance: what labels say of predictions, by day, version and slice, and where it is worst.

Only matured days are judged; an immature day's numbers are those of the labels that came early, which are no fair part
of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from evergrow.contracts import EVENT_TIMESTAMP, Metric, Slice
from evergrow.evaluation.slices import Scored, Skipped, by_column, values_of
from evergrow.monitoring.truth import LABEL, LabelDay, State
from evergrow.statistics.means import time_blocks

Floats = NDArray[np.float64]

VERSION, SCORE = "version", "score"
HOUR, DAY = 3600, 86400
BLOCKS = 60
"""Intervals are made of at most so many blocks of time."""
LEAST_SHARE = 0.02
"""A slice that is searched for has at least this share of the rows."""
PAIRED = 8
"""Columns of which pairs of values are searched: those whose values differ most certainly."""
TAIL = 0.025


@dataclass(frozen=True)
class DayPerformance:
    """How a version did on a day.

    Attributes:
        day: of the predictions (UTC).
        version: that answered.
        state: of the day's labels.
        rows: predictions with labels.
        metrics: over them, with 95 % intervals from the hours of the day.
    """

    day: date
    version: int
    state: State
    rows: int
    metrics: tuple[Metric, ...]


def labelled(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The predictions whose labels are known."""
    return outcomes[outcomes[LABEL].notna()].reset_index(drop=True)


def of_days(outcomes: pd.DataFrame, days: Sequence[LabelDay], metrics: Sequence[str]) -> list[DayPerformance]:
    """The performance of each version on each day that has labels, oldest first."""
    state = {day.day: day.state for day in days}
    known = labelled(outcomes)
    found = []
    for at, of_day in known.groupby(known[EVENT_TIMESTAMP].dt.date):
        for version, rows in of_day.groupby(VERSION):
            measured = scored(rows.reset_index(drop=True), HOUR).measured(metrics)
            found.append(DayPerformance(at, int(str(version)), state[at], len(rows), measured))
    return found


def of_slices(outcomes: pd.DataFrame, columns: Sequence[str], metrics: Sequence[str]) -> list[Slice | Skipped]:
    """The performance on each value of each column, over all rows with labels; intervals from days."""
    known = scored(labelled(outcomes), DAY)
    return [part for column in columns if column in known.rows for part in by_column(known, column, metrics)]


def matured(outcomes: pd.DataFrame, days: Sequence[LabelDay]) -> pd.DataFrame:
    """The predictions of matured days that have their label."""
    judged = {day.day for day in days if day.state == "matured"}
    known = labelled(outcomes)
    rows: pd.DataFrame = known[known[EVENT_TIMESTAMP].dt.date.isin(judged)].reset_index(drop=True)
    return rows


def scored(rows: pd.DataFrame, block: int) -> Scored:
    """Rows with labels and scores, in blocks of so many seconds."""
    blocks = time_blocks(seconds(rows), block, BLOCKS) if len(rows) else np.zeros(0, np.intp)
    return Scored(rows, rows[LABEL].to_numpy(np.float64), rows[SCORE].to_numpy(np.float64), blocks)


def seconds(rows: pd.DataFrame) -> NDArray[np.int64]:
    """When each row was asked, in seconds since 1970, [n]."""
    return rows[EVENT_TIMESTAMP].astype("datetime64[s, UTC]").to_numpy(dtype="datetime64[s]").astype(np.int64)


@dataclass(frozen=True)
class WorstSlice:
    """A part of the rows that fares worse than the rest.

    Attributes:
        where: "carrier=EV", or two of these.
        rows: of it.
        loss: its mean loss.
        excess: by how much that is above the mean loss of the rest.
        low: lower end of the excess's interval, which holds for all slices that were searched at once.
    """

    where: str
    rows: int
    loss: float
    excess: float
    low: float


def worst_slices(rows: pd.DataFrame, losses: Floats, columns: Sequence[str], most: int = 5) -> list[WorstSlice]:
    """The slices whose loss is most certainly above that of the rest, among all values of all columns, and pairs.

    Every value of every column is a slice (numbers in quarters); of the columns that tell most, every pair of values is
    one, too. That so many are searched is allowed for: an interval holds for all of them at once (Bonferroni). A pair
    is told if it is surely worse than either of its parts; and nothing that shares a part with a worse one is.

    Args:
        rows: with `event_timestamp` and the columns, [n].
        losses: [n].
        columns: that are searched.
        most: how many are told.
    """
    blocks = time_blocks(seconds(rows), DAY, BLOCKS) if len(rows) else np.zeros(0, np.intp)
    codes = {column: pd.factorize(values_of(rows[column])) for column in columns}
    least = max(50, LEAST_SHARE * len(rows))
    singles = [_excess(where, inside, losses, blocks) for where, inside in _singles(codes, least)]
    strongest = sorted(singles, key=lambda one: -abs(one.excess) / max(one.error, 1e-12))
    paired = list(dict.fromkeys(one.where[0].partition("=")[0] for one in strongest))[:PAIRED]
    pairs = [_excess(*pair, losses, blocks) for pair in _pairs({column: codes[column] for column in paired}, least)]
    searched = [*singles, *pairs]
    usual = {one.where[0]: max(0.0, one.excess) for one in singles}
    told = [(one.told(TAIL / len(searched)), max(usual.get(part, 0.0) for part in one.where)) for one in searched]
    worse = [one for one, parts in told if one.low > (parts if " and " in one.where else 0)]
    return _without_parts(sorted(worse, key=lambda one: -one.low))[:most]


_Codes = dict[str, tuple[NDArray[np.intp], pd.Index]]
_Candidates = Iterator[tuple[tuple[str, ...], NDArray[np.bool_]]]


def _singles(codes: _Codes, least: float) -> _Candidates:
    for column, (code, names) in codes.items():
        for i in _large(np.bincount(code, minlength=len(names)), least, len(code)):
            yield (f"{column}={names[i]}",), code == i


def _pairs(codes: _Codes, least: float) -> _Candidates:
    for (a, (code_a, names_a)), (b, (code_b, names_b)) in combinations(codes.items(), 2):
        counts = np.bincount(code_a * len(names_b) + code_b, minlength=len(names_a) * len(names_b))
        for pair in _large(counts, least, len(code_a)):
            i, j = divmod(int(pair), len(names_b))
            yield (f"{a}={names_a[i]}", f"{b}={names_b[j]}"), (code_a == i) & (code_b == j)


def _large(counts: NDArray[np.intp], least: float, rows: int) -> NDArray[np.intp]:
    return np.flatnonzero((counts >= least) & (counts <= rows - least))


@dataclass(frozen=True)
class _Excess:
    """How much worse a slice is than the rest, with the standard error of that and its degrees of freedom."""

    where: tuple[str, ...]
    rows: int
    loss: float
    excess: float
    error: float
    freedom: int

    def told(self, tail: float) -> WorstSlice:
        reach = float(stdtrit(self.freedom, 1 - tail)) * self.error if self.freedom else np.inf
        return WorstSlice(" and ".join(self.where), self.rows, self.loss, self.excess, self.excess - reach)


def _excess(where: tuple[str, ...], inside: NDArray[np.bool_], losses: Floats, blocks: NDArray[np.intp]) -> _Excess:
    """The difference of two means, with its error from what each block contributes to it.

    A slice is held against the rest of the same days: what days have in common falls out, and what is left is taken
    for independent from day to day.
    """
    here, rest, share = float(losses[inside].mean()), float(losses[~inside].mean()), float(inside.mean())
    contribution = np.where(inside, (losses - here) / share, -(losses - rest) / (1 - share))
    count = int(blocks.max()) + 1
    by_block = np.bincount(blocks, contribution, count) * count / len(losses)
    error = float(by_block.std(ddof=1)) / np.sqrt(count) if count > 1 else np.inf
    return _Excess(where, int(inside.sum()), here, here - rest, error, count - 1)


def _without_parts(worse: Sequence[WorstSlice]) -> list[WorstSlice]:
    """Leave out what shares a part with one that is told already."""
    kept: list[WorstSlice] = []
    for one in worse:
        parts = set(one.where.split(" and "))
        if not any(parts & set(other.where.split(" and ")) for other in kept):
            kept.append(one)
    return kept
