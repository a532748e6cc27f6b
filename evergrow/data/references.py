"""Rows that are set aside for good: which they are, and which of them are judged on.

Whether a row is set aside depends on when it was asked for and on its keys, and on nothing else: not on other rows, its
label, the instant of a training, its window or its seed. So it is the same in each training, and what one model was not
fitted on, no other was.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from evergrow.contracts import EVENT_TIMESTAMP, SetAside
from evergrow.data.mixing import uniform
from evergrow.spec.model import References

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""From which periods are counted."""
_SEED = 0x7265666572656E63
"""Of no training: another would set other rows aside, which the champion has been fitted on."""
_MISSING = np.float64(np.nan)


def set_aside(rows: pd.DataFrame, by: SetAside | None) -> Mask:
    """Which rows are set aside, bool [n]; none without a rule.

    Args:
        rows: with `event_timestamp` and the keys of the rule.
        by: the rule.
    """
    if by is None:
        return np.zeros(len(rows), np.bool_)
    return chances(rows, by.keys) < by.share


def chances(rows: pd.DataFrame, keys: tuple[str, ...]) -> NDArray[np.float64]:
    """One number a row, uniform in [0, 1): of its instant and its keys; float64 [n].

    A number counts as what it is in double precision and text as its characters, whatever types the columns have.

    Args:
        rows: with `event_timestamp`, timezone-aware, and the keys.
        keys: columns; their order does not count.
    """
    parts = [microseconds(rows[EVENT_TIMESTAMP]).view(np.uint64), *(_whole(rows[key]) for key in sorted(keys))]
    return uniform(_SEED, parts, len(rows))


def judged(asked: Ints, holdout_from: datetime, rule: References) -> Mask:
    """Which rows were asked for in the periods that are judged: the newest whole ones before the holdout; bool [n].

    Periods begin at multiples of their length since 1970, so that each is the same in all trainings.

    >>> days = np.arange(100) * 86_400_000_000
    >>> in_march = EPOCH + timedelta(days=65)
    >>> judged(days, in_march, References(period="30d", periods=1)).nonzero()[0][[0, -1]].tolist()
    [30, 59]

    Args:
        asked: microseconds since 1970 (UTC), int64 [n].
        holdout_from: aware.
        rule: of the document.
    """
    length = rule.period // timedelta(microseconds=1)
    until = (holdout_from - EPOCH) // rule.period * length
    return (asked >= until - rule.periods * length) & (asked < until)


def microseconds(instants: pd.Series) -> Ints:
    """Since 1970 (UTC), int64 [n]."""
    numbers: Ints = instants.dt.tz_convert("UTC").dt.as_unit("us").astype("int64").to_numpy()
    return numbers


def _whole(column: pd.Series) -> NDArray[np.uint64]:
    """A whole number for each value of a key: the same for the same value, in whichever type, uint64 [n]."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return microseconds(column).view(np.uint64)
    if is_numeric_dtype(column) or is_bool_dtype(column):
        numbers = column.to_numpy(np.float64, na_value=np.nan)
        # One zero, and one number that is none.
        return np.where(np.isnan(numbers), _MISSING, numbers + 0.0).view(np.uint64)
    codes, values = pd.factorize(column.astype(object))
    known = np.array([*map(_hashed, values), 0], np.uint64)
    return known[codes]


def _hashed(value: Any) -> int:
    return int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=8).digest(), "little")
