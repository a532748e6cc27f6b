"""Trailing statistics: what could be known of past events at the moment of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd


@dataclass(frozen=True)
class Trailing:
    """The mean of a column over the events of the trailing `window` (0: of the newest instant only)."""

    name: str
    column: str
    window: timedelta


def trailing(events: pd.DataFrame, key: str, statistics: Sequence[Trailing]) -> pd.DataFrame:
    """One row per key and instant at which an event became known, with each statistic as of that instant.

    A statistic at t is the mean over the key's events known in (t - window, t]; events that share an instant all
    count. Runs in O(n log n).

    Args:
        events: with `key`, `known_at` and the statistics' columns.
        key: the column events are grouped by.
        statistics: what is computed.

    Returns:
        The key, `event_timestamp` and `created_timestamp` (both t), and a float column per statistic.
    """
    codes, names = pd.factorize(events[key], sort=True)
    instants = events["known_at"].astype("int64").to_numpy()
    order = np.lexsort((instants, codes))
    codes, instants = codes[order], instants[order]
    last = np.flatnonzero(np.append((np.diff(codes) != 0) | (np.diff(instants) != 0), True)) if len(order) else order
    columns = {
        s.name: _means(codes, instants, events[s.column].to_numpy(float)[order], last, s.window) for s in statistics
    }
    known = pd.to_datetime(instants[last], unit="us", utc=True).as_unit("us")
    table = pd.DataFrame({key: names[codes[last]], "event_timestamp": known, "created_timestamp": known, **columns})
    return table.sort_values(["event_timestamp", key], ignore_index=True)


def _means(
    codes: npt.NDArray[np.intp],
    instants: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    last: npt.NDArray[np.intp],
    window: timedelta,
) -> npt.NDArray[np.float64]:
    """Mean of `values` over each window that ends with row `last`; rows are sorted by code and instant."""
    # Whole minutes and 0/1 add up exactly in floats, so a difference of running sums is exact.
    sums = np.concatenate([[0.0], np.cumsum(values)])
    length = max(window // timedelta(microseconds=1), 1)
    # (code, instant) as one number; keys lie further apart than a window reaches.
    spread = int(instants.max() - instants.min()) + length + 1 if len(instants) else 1
    position = codes.astype(np.int64) * spread + (instants - instants.min() if len(instants) else instants)
    first = np.searchsorted(position, position[last] - length, side="right")
    return (sums[last + 1] - sums[first]) / (last + 1 - first)
