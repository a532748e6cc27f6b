"""Training-serving skew: what was served against what the offline store knows of the same instant, bit for bit.

Of each prediction and feature view the log tells the instant `asked` and the event time of the row that was found
online. The offline store tells the rows of that key and event time that it knew by then (several, if it was corrected),
and the best row that it knew by then, which is what training sees. So each value is one of

| | |
|---|---|
| equal | what training sees at that instant |
| skewed | not what the offline store has for the row that was found: a bug, always |
| stale | what it has for that row, but by then it knew a better one: materialization lagged |
| ahead | of a row that the offline store did not know by then: from the future, or pushed online alone |

Missing is a value like others; NaN and infinite count as missing, as the log's JSON has neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evergrow.contracts import Instant, Observation, Value, Verdict
from evergrow.prediction_log.records import Column, Layout
from evergrow.prediction_log.tables import TYPES

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

NOTHING = np.iinfo(np.int64).min
"""The event time, in microseconds, of no row."""
EXAMPLES = 5
"""Values of a feature, or rows of a view, that are shown."""
REFERENCE = "offline store, as of each prediction"


# -- what is found -----------------------------------------------------------------------------------------------------


class Example(Value):
    """A value that differs; an instant is ISO 8601."""

    prediction_id: str
    served: bool | int | float | str | None
    recomputed: bool | int | float | str | None


class FeatureSkew(Value):
    """How many of a feature's values are what: `equal + skewed + stale + ahead == rows`.

    Attributes:
        feature: its name.
        view: the view that it is of.
        examples: of the skewed, each beside what the offline store has for the row that was found.
        ahead_examples: of those ahead, each beside what the offline store knew by then.
    """

    feature: str
    view: str
    rows: int
    equal: int
    skewed: int
    stale: int
    ahead: int
    examples: tuple[Example, ...] = ()
    ahead_examples: tuple[Example, ...] = ()


class AheadExample(Value):
    """A row that was found online and that the offline store did not know by then."""

    prediction_id: str
    asked: Instant
    found: Instant
    known: Instant | None


class ViewLag(Value):
    """How far the online rows of a view were behind, whether or not any value differs for it.

    A lag is how long before it was asked what was served had ceased to be the best that the offline store knew.

    Attributes:
        view: its name.
        rows: predictions.
        stale: of these, with a row that was no longer the best.
        ahead: of these, with a row that the offline store did not know.
        p50: median lag of the stale; zero if there is none.
        p95: 95 % of their lags are at most this.
        longest: of their lags.
        examples: of those ahead.
    """

    view: str
    rows: int
    stale: int
    ahead: int
    p50: timedelta
    p95: timedelta
    longest: timedelta
    examples: tuple[AheadExample, ...] = ()


class Skew(Value):
    """What a check of skew found.

    Attributes:
        rows: predictions that were looked at.
        skipped: why, for each feature that could not be compared.
    """

    features: tuple[FeatureSkew, ...]
    views: tuple[ViewLag, ...]
    rows: int
    skipped: Mapping[str, str]

    @property
    def compared(self) -> int:
        """Values that were compared."""
        return sum(feature.rows for feature in self.features)

    @property
    def skewed(self) -> int:
        """Values that are a bug's."""
        return sum(feature.skewed for feature in self.features)


# -- what is compared --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Versions:
    """Rows of the offline store with the key and event time that predictions found, known when those were asked.

    Attributes:
        row: which prediction, rising, [m]; those of one in the store's order of preference, the best last.
        event: event time, µs since 1970, [m].
        known: since when the store knew the row, µs since 1970, [m].
        features: [m].
    """

    row: Ints
    event: Ints
    known: Ints
    features: pa.Table


@dataclass(frozen=True)
class StoredRows:
    """A view with stored values, as it was served and as it is recomputed. Instants are µs since 1970, or NOTHING.

    Attributes:
        view: its name.
        ttl: how long a row counts; None is for ever.
        asked: the predictions' instants, [n].
        found: event time of the row that was found online, [n].
        best: event time of the best row known offline when asked, expired or not, [n].
        since: when the offline store first knew a better row than the one found, [n]; counts for the stale only.
        served: features as they were served, [n].
        recomputed: the same as the offline store knew them when asked, [n].
        versions: what the offline store has for the rows found.
    """

    view: str
    ttl: timedelta | None
    asked: Ints
    found: Ints
    best: Ints
    since: Ints
    served: pa.Table
    recomputed: pa.Table
    versions: Versions

    def valid(self, event: Ints, rows: Ints | slice = slice(None)) -> Ints:
        """Event times without those that are expired when asked."""
        if self.ttl is None:
            return event
        return np.where(event < self.asked[rows] - self.ttl // timedelta(microseconds=1), NOTHING, event)


@dataclass(frozen=True)
class ComputedRows:
    """A view that is computed on demand, from request-time values and stored features.

    Attributes:
        view: its name.
        sources: per stored view that it computes from, the features that it takes.
        served: features as they were served, [n].
        repeated: computed once more, from the inputs that were served, [n].
        recomputed: computed from inputs as the offline store knew them when asked, [n].
    """

    view: str
    sources: Mapping[str, Sequence[str]]
    served: pa.Table
    repeated: pa.Table
    recomputed: pa.Table


@dataclass(frozen=True)
class Recomputed:
    """Predictions, and all that is recomputed for them.

    Attributes:
        ids: `prediction_id`s, [n].
        stored: the views with stored values, each feature in one of them.
        computed: those that are computed from them.
        skipped: why, for each feature that cannot be compared.
    """

    ids: pa.Array
    stored: Sequence[StoredRows]
    computed: Sequence[ComputedRows] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


def as_served(values: pa.Array, kind: str) -> pa.Array:
    """Values of the offline store in the type that serving has: the declared one.

    Args:
        values: as the store has them.
        kind: Feast's name of the declared type. UNIX_TIMESTAMP has whole seconds.
    """
    finite, target = _finite(values), TYPES.get(kind, pa.string())
    if kind != "UNIX_TIMESTAMP":
        return pc.cast(finite, target, safe=False)
    return pc.cast(pc.floor_temporal(pc.cast(finite, target, safe=False), unit="second"), target)


def as_hashed(values: pa.Array, key: bytes) -> pa.Array:
    """Values, of the type that serving has, as a prediction log with this key keeps them."""
    layout = Layout([Column(name="value", type="STRING")], hashed=["value"], key=key)
    return pa.array([layout.values({"value": value})[0] for value in values.to_pylist()], pa.string())


def without_nan(hashes: pa.Array, key: bytes) -> pa.Array:
    """A log's hashes with that of NaN as missing: a hash alone would not tell."""
    return pc.replace_with_mask(hashes, pc.is_in(hashes, as_hashed(pa.array([float("nan")]), key)), _missing(hashes))


def equal(served: pa.Array, recomputed: pa.Array) -> Bools:
    """Where two arrays of one type hold the same, bit for bit, or both nothing, [n].

    >>> equal(pa.array([0.1, float("nan"), 0.0, 1.0]), pa.array([0.1, None, -0.0, None])).tolist()
    [True, True, False, False]
    """
    a, b = _bits(served), _bits(recomputed)
    same = pc.or_(pc.fill_null(pc.equal(a, b), False), pc.and_(pc.is_null(a), pc.is_null(b)))
    return np.asarray(same.to_numpy(zero_copy_only=False), np.bool_)


def _bits(values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type):
        return values
    return _finite(values).view(pa.int32() if values.type == pa.float32() else pa.int64())


def _finite(values: pa.Array) -> pa.Array:
    """Numbers without NaN and infinite ones; what is no floating number as it is."""
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_finite(values), values, _missing(values))


def _missing(values: pa.Array) -> pa.Scalar:
    return pa.scalar(None, values.type)


def sample(log: pa.Table, rows: int | None) -> pa.Table:
    """At most so many predictions of a log, evenly spread over it, the newest among them; None is all.

    >>> sample(pa.table({"n": range(10)}), 4)["n"].to_pylist()
    [0, 3, 6, 9]
    """
    if rows is None or rows >= log.num_rows:
        return log
    return log.take(np.linspace(log.num_rows - 1, 0, rows).round().astype(np.int64)[::-1])


# -- the comparison ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """The rows of a view.

    Attributes:
        stale: with a row that was no longer the best, [n].
        ahead: with a row that the offline store did not know, [n].
        lag: of the stale, µs, [n].
        expected: what should have been served, [n].
        skewed: per feature, where it was not, [n].
    """

    stale: Bools
    ahead: Bools
    lag: Ints
    expected: pa.Table
    skewed: Mapping[str, Bools]


class _Values(NamedTuple):
    """One feature's values, [n] each: what is `expected` is shown beside the skewed."""

    served: pa.Array
    expected: pa.Array
    recomputed: pa.Array


def compare(recomputed: Recomputed) -> Skew:
    """Count what of it is equal, skewed, stale and ahead; see the module for what these are.

    An on-demand value is skewed if the function gives another one for the inputs that were served, and also if it
    differs from what training sees because an input is skewed.
    """
    ids, stored = recomputed.ids, recomputed.stored
    judged = {rows.view: _judge(rows) for rows in stored}
    features = [one for rows in stored for one in _stored_features(rows, judged[rows.view], ids)]
    features += [one for rows in recomputed.computed for one in _computed_features(rows, judged, ids)]
    views = tuple(_lag(rows, judged[rows.view], ids) for rows in stored)
    return Skew(features=tuple(features), views=views, rows=len(ids), skipped=recomputed.skipped)


def _stored_features(rows: StoredRows, judged: _Judged, ids: pa.Array) -> Iterator[FeatureSkew]:
    for name, skewed in judged.skewed.items():
        served, expected, recomputed = (_array(t, name) for t in (rows.served, judged.expected, rows.recomputed))
        yield _feature(name, rows.view, ids, _Values(served, expected, recomputed), skewed, judged.ahead)


def _computed_features(rows: ComputedRows, judged: Mapping[str, _Judged], ids: pa.Array) -> Iterator[FeatureSkew]:
    ahead, misled = np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.bool_)
    for view, features in rows.sources.items():
        if source := judged.get(view):
            ahead |= source.ahead
            misled |= np.logical_or.reduce([source.skewed[name] for name in features if name in source.skewed])
    for name in rows.served.schema.names:
        served, repeated, recomputed = (_array(table, name) for table in (rows.served, rows.repeated, rows.recomputed))
        is_other = ~equal(served, repeated)
        expected = pc.if_else(pa.array(is_other), repeated, recomputed)
        skewed = is_other | (misled & ~equal(served, recomputed))
        yield _feature(name, rows.view, ids, _Values(served, expected, recomputed), skewed, ahead)


def _array(table: pa.Table, name: str) -> pa.Array:
    return table[name].combine_chunks()


def _judge(rows: StoredRows) -> _Judged:
    """What became of each row of a view."""
    versions, offered = rows.versions, _offered(rows)
    chosen, newest = _choose(rows, offered), _last(versions.row, len(rows.asked))
    ahead = (rows.found != NOTHING) & (newest < 0)
    is_best = (newest >= 0) & (chosen == newest) & (_at(versions.event, newest) == rows.best)
    without = (rows.valid(rows.found) == NOTHING) & (rows.valid(rows.best) == NOTHING)
    stale = ~(ahead | is_best | without)
    corrected = (newest >= 0) & (chosen != newest)
    since = np.where(corrected, _at(versions.known, np.where(corrected, chosen + 1, -1)), rows.since)
    expected = offered.take(pa.array(chosen, mask=chosen < 0))
    skewed = {
        name: ~ahead & ~equal(_array(rows.served, name), _array(expected, name)) for name in rows.served.schema.names
    }
    return _Judged(stale, ahead, np.where(stale, rows.asked - since, 0), expected, skewed)


def _offered(rows: StoredRows) -> pa.Table:
    """The versions' features, missing where they are expired when asked, [m]."""
    versions = rows.versions
    expired = pa.array(rows.valid(versions.event, versions.row) == NOTHING)
    features = {name: _array(versions.features, name) for name in rows.served.schema.names}
    return pa.table({name: pc.if_else(expired, _missing(values), values) for name, values in features.items()})


def _choose(rows: StoredRows, offered: pa.Table) -> Ints:
    """Which version was served, [n]: the newest that has all the values served, else the newest; -1 if there is none.

    A row that was corrected since keeps its event time, and online may still be what it was.
    """
    of = rows.versions.row
    served = rows.served.take(of)
    same = np.ones(len(of), np.bool_)
    for name in rows.served.schema.names:
        same &= equal(_array(served, name), _array(offered, name))
    order = np.lexsort((np.arange(len(of)), same, of))
    place = _last(of[order], len(rows.asked))
    return np.where(place < 0, -1, _at(order, place))


def _last(row: Ints, count: int) -> Ints:
    """Per prediction the place of its last version, -1 if it has none, [count]; `row` rises, [m]."""
    last = np.full(count, -1, np.int64)
    last[row] = np.arange(len(row))
    return last


def _at(values: Ints, place: Ints) -> Ints:
    """Values at places; NOTHING at -1."""
    return np.append(values, NOTHING)[place]


def _feature(name: str, view: str, ids: pa.Array, values: _Values, skewed: Bools, is_ahead: Bools) -> FeatureSkew:
    """Count one feature, of which it is known where it is skewed, and where another difference is a row's ahead."""
    differs = ~skewed & ~equal(values.served, values.recomputed)
    ahead, stale = differs & is_ahead, differs & ~is_ahead
    return FeatureSkew(
        feature=name,
        view=view,
        rows=len(ids),
        equal=int((~skewed & ~differs).sum()),
        skewed=int(skewed.sum()),
        stale=int(stale.sum()),
        ahead=int(ahead.sum()),
        examples=_examples(ids, values.served, values.expected, skewed),
        ahead_examples=_examples(ids, values.served, values.recomputed, ahead),
    )


def _examples(ids: pa.Array, served: pa.Array, recomputed: pa.Array, where: Bools) -> tuple[Example, ...]:
    first = np.flatnonzero(where)[:EXAMPLES]
    columns = (ids.take(first), _finite(served).take(first), _finite(recomputed).take(first))
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return tuple(Example(prediction_id=i, served=_shown(a), recomputed=_shown(b)) for i, a, b in rows)


def _shown(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _lag(rows: StoredRows, judged: _Judged, ids: pa.Array) -> ViewLag:
    lags = judged.lag[judged.stale]
    middle, most, longest = (
        timedelta(microseconds=int(np.quantile(lags, q, method="inverted_cdf"))) if len(lags) else timedelta()
        for q in (0.5, 0.95, 1.0)
    )
    first = np.flatnonzero(judged.ahead)[:EXAMPLES]
    times = (
        pa.array(t[first], pa.timestamp("us", "UTC"), mask=t[first] == NOTHING)
        for t in (rows.asked, rows.found, rows.best)
    )
    shown = zip(ids.take(first).to_pylist(), *(time.to_pylist() for time in times), strict=True)
    return ViewLag(
        view=rows.view,
        rows=len(rows.asked),
        stale=len(lags),
        ahead=int(judged.ahead.sum()),
        p50=middle,
        p95=most,
        longest=longest,
        examples=tuple(AheadExample(prediction_id=i, asked=a, found=f, known=k) for i, a, f, k in shown),
    )


# -- as observations ---------------------------------------------------------------------------------------------------


def observations(
    skew: Skew,
    *,
    model: str,
    version: int | None,
    since: datetime,
    until: datetime,
    most_lag: timedelta | None = None,
) -> tuple[Observation, ...]:
    """What a check found, as observations of a model in service.

    Per feature, of kind "skew": how many values are skewed; more than none is an alarm. One that could not be compared
    is inconclusive. Per view, of kind "skew" and no alarm: rows ahead; and of kind "freshness": the 95th percentile of
    the lags of stale rows in seconds, which is an alarm above `most_lag` if that is given.

    Args:
        skew: what was found.
        model: its name.
        version: that served; None for all of them.
        since: begin of the predictions looked at.
        until: end of them.
        most_lag: most that materialization may lag.
    """
    about: dict[str, Any] = {"model": model, "version": version, "since": since, "until": until, "reference": REFERENCE}
    return (
        *(_of_feature(feature, about) for feature in skew.features),
        *(_of_skipped(feature, why, about) for feature, why in skew.skipped.items()),
        *(_of_ahead(view, about) for view in skew.views),
        *(_of_lag(view, most_lag, about) for view in skew.views),
    )


def _of_feature(feature: FeatureSkew, about: Mapping[str, Any]) -> Observation:
    reason = f"{feature.skewed:,} of {feature.rows:,} served values are not the offline store's, 0 may be"
    for first in feature.examples[:1]:
        reason += f"; {first.prediction_id} was served {first.served!r}, recomputed {first.recomputed!r}"
    return Observation(
        **about, kind="skew", subject=feature.feature, rows=feature.rows, test="exact", effect=feature.skewed,
        threshold=0, alarm=True, verdict=_verdict(feature.skewed == 0, feature.rows, reason),
    )  # fmt: skip


def _of_skipped(feature: str, why: str, about: Mapping[str, Any]) -> Observation:
    return Observation(
        **about, kind="skew", subject=feature, rows=0, test="exact", effect=0, threshold=0, alarm=True,
        verdict=Verdict(outcome="inconclusive", reason=f"cannot be compared: {why}"),
    )  # fmt: skip


def _of_ahead(view: ViewLag, about: Mapping[str, Any]) -> Observation:
    reason = f"{view.ahead:,} of {view.rows:,} predictions found a row that the offline store did not know by then"
    for first in view.examples[:1]:
        known = first.known.isoformat() if first.known else "nothing"
        reason += f"; {first.prediction_id} found {first.found.isoformat()}, known was {known}"
    return Observation(
        **about, kind="skew", subject=view.view, rows=view.rows, test="ahead", effect=view.ahead,
        threshold=0, alarm=False, verdict=_verdict(view.ahead == 0, view.rows, reason),
    )  # fmt: skip


def _of_lag(view: ViewLag, most: timedelta | None, about: Mapping[str, Any]) -> Observation:
    reason = (
        f"{view.stale:,} of {view.rows:,} predictions found a row that was no longer the best; lag p50 {view.p50}, "
        f"p95 {view.p95}, longest {view.longest}, {f'limit {most}' if most else 'no limit is set'}"
    )
    return Observation(
        **about, kind="freshness", subject=view.view, rows=view.rows, test="lag p95", effect=view.p95.total_seconds(),
        threshold=most.total_seconds() if most else 0, alarm=most is not None,
        verdict=_verdict(most is None or view.p95 <= most, view.rows, reason),
    )  # fmt: skip


def _verdict(holds: bool, rows: int, reason: str) -> Verdict:
    return Verdict.when(holds, reason) if rows else Verdict(outcome="error", reason="no prediction was looked at")
