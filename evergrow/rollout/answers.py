"""What the prediction log says of a rollout: who was drawn, with which probability, and which answers are pairs.

The gateway marks each request with how it came to its version (`route`) and how probable that was (`propensity`). Only
what was drawn by weights is evidence of a draw; who asked for a version by name chose it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP
from evergrow.errors import DataError
from evergrow.monitoring.performance import SCORE, VERSION
from evergrow.monitoring.truth import LABEL, LABEL_FIRST_KNOWN_AT, PREDICTION_ID
from evergrow.prediction_log.records import logged
from evergrow.rollout.gains import ASSIGNED, PROPENSITY, UNIT
from evergrow.rollout.guardrails import Answered, Split

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ROUTE, REQUEST_ID, LATENCY = "route", "request_id", "latency_ms"
DRAWN, COPIED = "weights", "shadow"
"""Values of `route`: a request that was drawn by the weights, and a copy of one."""
REQUEST, ROW, BLOCK = "request", "row", "block"
"""Columns that are added: the number of the request, the row's place in it, the number of its stretch of time."""
COLUMNS = (PREDICTION_ID, EVENT_TIMESTAMP, REQUEST_ID, ROUTE, PROPENSITY, LATENCY, VERSION, SCORE)
"""Of the prediction log, whatever the model."""

_NONE = pd.DataFrame({name: np.empty(0) for name in (*COLUMNS, REQUEST, ROW, BLOCK, UNIT, LABEL)}).assign(
    **dict.fromkeys((EVENT_TIMESTAMP, LABEL_FIRST_KNOWN_AT), pd.DatetimeIndex([], tz="UTC").as_unit("us"))
)


class NoKeyError(DataError):
    """The log lacks the key by which callers keep their version."""


def read(answers: pd.DataFrame, sticky: Sequence[str], block: timedelta) -> pd.DataFrame:
    """Rows of the log in the order of their instants, with `request`, `row`, `block` and `unit`.

    Rows of one unit share a draw: those of one request, or of the entity that keeps its version. A request of several
    rows was drawn by one of them: its unit is that of its first.

    Args:
        answers: of the log, with COLUMNS and the keys of `sticky`, [n]; no columns are needed of no rows.
        sticky: entity keys by which callers keep their version; empty: each request is drawn for itself.
        block: how long a stretch of time is.

    Raises:
        NoKeyError: the log lacks a key of `sticky`.
    """
    if not len(answers):
        return _NONE
    keys = [logged(name) for name in sticky]
    if missing := [key for key in keys if key not in answers]:
        raise NoKeyError(
            f"rollout.sticky: the prediction log must have {missing[0]!r}, by which callers keep their version",
            hint="take it out of serving.log.leftOut; hashed it may be",
        )
    rows = answers.sort_values([EVENT_TIMESTAMP, PREDICTION_ID], ignore_index=True)
    places = [name.rpartition("-") for name in rows[PREDICTION_ID]]
    rows[REQUEST] = pd.factorize(np.array([request for request, _, _ in places], object))[0]
    rows[ROW] = [row for _, _, row in places]
    rows[BLOCK] = rows[EVENT_TIMESTAMP].dt.as_unit("us").astype("int64") // _microseconds(block)
    rows[UNIT] = rows[REQUEST]
    if keys:
        entity = rows.groupby(keys, dropna=False, sort=False).ngroup()
        rows[UNIT] = entity.groupby(rows[REQUEST]).transform("first")
    return rows


def _microseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """What was drawn by the weights, with a known probability."""
    found: pd.DataFrame = rows[(rows[ROUTE] == DRAWN) & (rows[PROPENSITY] > 0)]
    return found


def copies(rows: pd.DataFrame, candidate: int) -> pd.DataFrame:
    """The copies of requests that a version got."""
    found: pd.DataFrame = rows[(rows[ROUTE] == COPIED) & (rows[VERSION] == candidate)]
    return found


def requests(rows: pd.DataFrame) -> int:
    """How many requests the rows are of."""
    return int(rows[REQUEST].nunique())


def answered(rows: pd.DataFrame, candidate: int, late: float) -> Answered:
    """What a version answered, whoever asked for it; the log has no requests that failed.

    Args:
        rows: of `read`.
        candidate: the version.
        late: milliseconds after which an answer is late.
    """
    mine = rows[rows[VERSION] == candidate].drop_duplicates(REQUEST)
    return Answered(len(mine), 0, int((mine[LATENCY] > late).sum()))


def splits(draws: pd.DataFrame, candidate: int) -> list[Split]:
    """The units that a version and all others were drawn for, by stretches in which weights stood still.

    A stretch in which the version had no weight, and got nothing, is left out.

    Args:
        draws: of `drawn`, in the order of their instants; of several versions.
        candidate: the version.
    """
    once = draws.drop_duplicates(UNIT)
    stretch = _stretches(once[VERSION].tolist(), once[PROPENSITY].tolist())
    of_each = once.assign(stretch=stretch).groupby(["stretch", VERSION])[PROPENSITY].agg(["first", "size"])
    weights = of_each["first"].unstack()
    counts = of_each["size"].unstack(fill_value=0)
    if candidate not in weights:
        weights[candidate], counts[candidate] = np.nan, 0
    # The weight of who was not drawn in a stretch is what the others left.
    left = (1 - weights.drop(columns=candidate).sum(axis=1)).clip(lower=0)
    percent = (100 * weights[candidate].fillna(left)).round().astype(int)
    got, total = counts[candidate], counts.sum(axis=1)
    return [
        Split((weight, 100 - weight), (int(ours), int(every - ours)))
        for weight, ours, every in zip(percent, got, total, strict=True)
        if weight or ours
    ]


def _stretches(versions: Sequence[int], propensities: Sequence[float]) -> Numbers:
    """The number of the stretch of each row: a new one begins where a row does not fit the weights seen in the last."""
    current: dict[int, float] = {}
    number, found = 0, []
    for version, share in zip(versions, propensities, strict=True):
        known = current.get(version)
        if known != share and (known is not None or sum(current.values()) + share > 1 + 1e-9):
            number, current = number + 1, {}
        current[version] = share
        found.append(number)
    return np.array(found, np.int64)


def against(draws: pd.DataFrame, stable: int, candidate: int) -> pd.DataFrame:
    """The draws of two versions that share the traffic, as `gains` reads them: with `assigned` and `propensity`.

    Of a unit that is drawn only once, the rows of its first block and of the first weights are kept: later ones are no
    news, and values of different weights are not to be averaged.

    Args:
        draws: of `drawn`.
        stable: the version that serves.
        candidate: the version that may replace it.
    """
    two = draws[draws[VERSION].isin((stable, candidate))]
    assigned = (two[VERSION] == candidate).to_numpy()
    chance = np.round(np.where(assigned, two[PROPENSITY], 1 - two[PROPENSITY]), 6)
    both = two.assign(**{ASSIGNED: assigned, PROPENSITY: chance})[(chance > 0) & (chance < 1)]
    return first_of_each(both)


def first_of_each(draws: pd.DataFrame) -> pd.DataFrame:
    """Of each unit the rows of its first block and of the weights that held first in it."""
    first = draws.drop_duplicates(UNIT).set_index(UNIT)[[BLOCK, PROPENSITY]].reindex(draws[UNIT])
    kept: pd.DataFrame = draws[(draws[[BLOCK, PROPENSITY]].to_numpy() == first.to_numpy()).all(axis=1)]
    return kept


def pairs(rows: pd.DataFrame, stable: int, candidate: int) -> pd.DataFrame:
    """Answers of both versions to the same requests: the stable version's row, with the candidate's score beside it.

    Requests whose id was used more than once are left out: nobody knows which copy is of which.

    Args:
        rows: of `read`.
        stable: the version that answered.
        candidate: the version that got the copy.

    Returns:
        The stable version's rows, in the order of their instants, with `score_candidate` and all else of its row.
    """
    key = [REQUEST_ID, ROW]
    theirs = rows[(rows[ROUTE] == DRAWN) & (rows[VERSION] == stable)].drop_duplicates(key, keep=False)
    ours = copies(rows, candidate).drop_duplicates(key, keep=False)
    return theirs.merge(ours[[*key, SCORE]], on=key, suffixes=("", "_candidate"))


def start_of_block(at: datetime, block: timedelta) -> datetime:
    """When the stretch of time began that an instant is in; they are counted from 1970 on.

    >>> start_of_block(datetime(2013, 10, 1, 9, 37, tzinfo=UTC), timedelta(minutes=10)).minute
    30
    """
    return at - (at - EPOCH) % block


def in_time(rows: pd.DataFrame, block: timedelta, within: timedelta) -> pd.DataFrame:
    """Rows with the labels that were known so long after their block's end; no later one counts.

    Args:
        rows: of `read`, with `label` and `label_first_known_at` if there are labels.
        block: how long one is.
        within: how long after a block's end its labels may come.
    """
    if LABEL not in rows:
        return rows.assign(**{LABEL: np.nan})
    due = pd.to_datetime((rows[BLOCK].to_numpy(np.int64) + 1) * _microseconds(block), unit="us", utc=True) + within
    came = np.asarray(pd.to_datetime(rows[LABEL_FIRST_KNOWN_AT], utc=True) <= due)
    return rows.assign(**{LABEL: rows[LABEL].astype(np.float64).where(came)})


def scores(rows: pd.DataFrame) -> Mapping[int, Floats]:
    """One score a unit, by version; those that are no numbers are left out."""
    once = rows[np.isfinite(rows[SCORE].to_numpy(np.float64))].drop_duplicates([VERSION, UNIT])
    return {int(v): of[SCORE].to_numpy(np.float64) for v, of in once.groupby(VERSION)}
