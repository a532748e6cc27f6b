"""Has the challenger forgotten earlier periods? Backward transfer on rows that are set aside, period by period.

D. Lopez-Paz & M. Ranzato, Gradient episodic memory for continual learning, NeurIPS 2017, take how much the accuracy on
a task has changed since it was learnt, and average over tasks. Here a period, or a slice of one, is a task, and the
change is the mean over rows of the champion's loss less the challenger's: what replacing the one by the other does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from evergrow.contracts import Check, Transfer, Verdict
from evergrow.data.references import EPOCH
from evergrow.evaluation.gate import ChallengerLosses, ChampionLosses, fault_of
from evergrow.evaluation.slices import values_of
from evergrow.spec.model import MINIMUM_BLOCKS, Gate, References
from evergrow.statistics.means import Estimate, alike, mean, time_blocks

CHECK = "forgetting"


@dataclass(frozen=True)
class Remembered:
    """Rows that are set aside, of the periods that are judged.

    Attributes:
        asked: microseconds since 1970 (UTC), int64 [n].
        columns: those that slices are made by, [n].
    """

    asked: NDArray[np.int64]
    columns: pd.DataFrame


def judge(
    rule: References, gate: Gate, rows: Remembered, champion: ChampionLosses, challenger: ChallengerLosses
) -> tuple[Check, tuple[Transfer, ...]]:
    """Fail if, of any period or slice, it is shown that the loss has risen by more than is tolerated; else pass.

    Of each set of rows it is tested, one-sided, whether the challenger's mean loss is above (1 + tolerance) times the
    champion's; over all sets by S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal
    of Statistics 6, 1979. A challenger that is nowhere worse than tolerated fails with probability alpha at most. What
    cannot be told passes. A loss that is not finite is an error.

    Args:
        rule: periods, slices, tolerance and alpha.
        gate: metric, and the blocks of time that losses are averaged over.
        rows: that both models were asked.
        champion: its losses.
        challenger: its losses, on the same rows in the same order.
    """
    if len(rows.asked) and (told := fault_of(champion.values, challenger.values, gate.metric, "champion")):
        return Check(name=CHECK, verdict=Verdict(outcome="error", reason=f"rows set aside: {told}")), ()
    measured = [_measured(rule, gate, one, rows, champion, challenger) for one in _sets(rule, rows)]
    transfers = _held_against(rule.alpha, [one.told() for one in _alike(measured)])
    return Check(name=CHECK, verdict=_verdict(rule, gate.metric, transfers)), transfers


@dataclass(frozen=True)
class _Set:
    """Some of the rows."""

    since: datetime
    until: datetime
    slice: str
    chosen: NDArray[np.intp]


def _sets(rule: References, rows: Remembered) -> Iterator[_Set]:
    """The rows of each period, the oldest first, and of each slice of it."""
    length = rule.period // timedelta(microseconds=1)
    numbers = rows.asked // length
    for number in np.unique(numbers):
        (chosen,) = np.nonzero(numbers == number)
        since = EPOCH + int(number) * rule.period
        yield _Set(since, since + rule.period, "", chosen)
        for column in rule.slices:
            values = _texts(rows.columns[column].iloc[chosen])
            for value in np.unique(values):
                yield _Set(since, since + rule.period, f"{column}={value}", chosen[values == value])


def _texts(column: pd.Series) -> NDArray[np.object_]:
    """Values by which rows are sliced; numbers in single precision, as a model sees them."""
    single = column.astype("float32").astype("float64") if is_numeric_dtype(column) else column
    return values_of(single).to_numpy(object)


@dataclass(frozen=True)
class _Measured:
    """What was measured on a set of rows.

    Attributes:
        loss: the challenger's mean.
        champion_loss: the champion's.
        change: of champion's loss - challenger's loss.
        room: of what is tolerated - challenger's loss.
        enough: whether there are rows and blocks to judge by.
    """

    of: _Set
    loss: float
    champion_loss: float
    change: Estimate
    room: Estimate
    enough: bool

    def told(self) -> Transfer:
        """With its interval and, if it is judged, its p-value."""
        several = self.change.blocks > 1
        return Transfer(
            since=self.of.since,
            until=self.of.until,
            slice=self.of.slice,
            rows=len(self.of.chosen),
            loss=self.loss,
            champion_loss=self.champion_loss,
            transfer=self.change.value,
            low=self.change.lower(0.025) if several else None,
            high=self.change.upper(0.025) if several else None,
            p_value=self.room.below(0.0) if self.enough else None,
            forgotten=False,
        )


def _measured(
    rule: References, gate: Gate, one: _Set, rows: Remembered, champion: ChampionLosses, challenger: ChallengerLosses
) -> _Measured:
    old, new = champion.values[one.chosen], challenger.values[one.chosen]
    blocks = time_blocks(rows.asked[one.chosen] // 1_000_000, gate.block.total_seconds())
    change, room = mean(old - new, blocks), mean((1 + rule.tolerance) * old - new, blocks)
    enough = len(old) >= rule.minimum_rows and change.blocks >= MINIMUM_BLOCKS
    return _Measured(one, float(new.mean()), float(old.mean()), change, room, enough)


def _alike(measured: Sequence[_Measured]) -> list[_Measured]:
    """With errors that the same slice's other periods tell of: a period alone has too few days to find much."""
    found = list(measured)
    for name in {one.of.slice for one in measured}:
        places = [i for i, one in enumerate(measured) if one.enough and one.of.slice == name]
        changes, rooms = alike([found[i].change for i in places]), alike([found[i].room for i in places])
        for i, change, room in zip(places, changes, rooms, strict=True):
            found[i] = replace(found[i], change=change, room=room)
    return found


def _held_against(alpha: float, measured: Sequence[Transfer]) -> tuple[Transfer, ...]:
    """By Holm's procedure: the smallest of m p-values is held against alpha / m, the next against alpha / (m-1)."""
    judged = sorted((one.p_value, place) for place, one in enumerate(measured) if one.p_value is not None)
    forgotten = set()
    for left, (p, place) in zip(count(len(judged), -1), judged, strict=False):
        if p > alpha / left:
            break
        forgotten.add(place)
    return tuple(one.model_copy(update={"forgotten": place in forgotten}) for place, one in enumerate(measured))


def _verdict(rule: References, metric: str, transfers: Sequence[Transfer]) -> Verdict:
    judged = [one for one in transfers if one.p_value is not None]
    if not judged:
        needed = f"{rule.minimum_rows:,} rows in {MINIMUM_BLOCKS} blocks"
        return Verdict(outcome="pass", reason=f"no period has {needed} set aside yet: nothing can be shown")
    forgotten = [one for one in judged if one.forgotten]
    worst = max(forgotten or judged, key=lambda one: one.loss - (1 + rule.tolerance) * one.champion_loss)
    low, high = (f"{end:+.4f}" for end in (worst.low, worst.high) if end is not None)
    where = f"{worst.since:%Y-%m-%d} to {worst.until:%Y-%m-%d}" + (f", {worst.slice}" if worst.slice else "")
    told = f"forgotten in {len(forgotten)}" if forgotten else "not shown in any"
    losses = f"{metric} {worst.loss:.4f} vs champion {worst.champion_loss:.4f}"
    return Verdict.when(
        not forgotten,
        f"{told} of {len(judged)} sets; worst {where}: {losses}, "
        f"backward transfer {worst.transfer:+.4f} [{low}, {high}], tolerance {rule.tolerance:g}, n={worst.rows:,}",
    )
