import math
import struct
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from evergrow.monitoring.skew import (
    NOTHING,
    ComputedRows,
    Recomputed,
    Skew,
    StoredRows,
    Versions,
    as_hashed,
    as_served,
    compare,
    equal,
    observations,
    sample,
    without_nan,
)
from evergrow.prediction_log.records import Column, Layout

MINUTE = 60_000_000
SINCE, UNTIL = datetime(2013, 10, 1, tzinfo=UTC), datetime(2013, 10, 2, tzinfo=UTC)


def stored(rows, versions=(), ttl=None):
    """A view "weather" with the feature "wind".

    Args:
        rows: per prediction (asked, found, best, since, served, recomputed), instants in minutes or None.
        versions: per version (row, event, known, wind).
        ttl: minutes.
    """

    def instants(values):
        return np.array([NOTHING if value is None else value * MINUTE for value in values], np.int64)

    def table(values):
        return pa.table({"wind": pa.array(values, pa.float64())})

    asked, found, best, since, served, recomputed = zip(*rows, strict=True)
    row, event, known, wind = zip(*versions, strict=True) if versions else ((), (), (), ())
    return StoredRows(
        view="weather",
        ttl=None if ttl is None else timedelta(minutes=ttl),
        asked=instants(asked),
        found=instants(found),
        best=instants(best),
        since=instants(since),
        served=table(served),
        recomputed=table(recomputed),
        versions=Versions(np.array(row, np.int64), instants(event), instants(known), table(wind)),
    )


def names(rows):
    return pa.array([f"p{i}" for i in range(rows)])


def found(view, computed=(), skipped=None):
    return compare(Recomputed(names(len(view.asked)), [view], computed, skipped or {}))


def counts(view):
    """(equal, skewed, stale, ahead) of the feature, and (stale, ahead) of the view."""
    skew = found(view)
    (feature,), (lag,) = skew.features, skew.views
    return (feature.equal, feature.skewed, feature.stale, feature.ahead), (lag.stale, lag.ahead)


# -- one prediction, each way ------------------------------------------------------------------------------------------


def test_the_best_row_with_its_value_is_equal():
    assert counts(stored([(60, 50, 50, None, 1.0, 1.0)], [(0, 50, 50, 1.0)])) == ((1, 0, 0, 0), (0, 0))


def test_another_value_for_the_very_row_that_was_found_is_skew():
    skew = found(stored([(60, 50, 50, None, 1.0, 2.0)], [(0, 50, 50, 2.0)]))
    (feature,), (lag,) = skew.features, skew.views
    assert (feature.equal, feature.skewed, feature.stale, feature.ahead, lag.stale) == (0, 1, 0, 0, 0)
    (example,) = feature.examples
    assert (example.prediction_id, example.served, example.recomputed) == ("p0", 1.0, 2.0)


def test_the_right_value_of_a_row_that_is_no_longer_the_best_is_stale():
    view = stored([(60, 30, 50, 40, 1.0, 2.0)], [(0, 30, 30, 1.0)])
    assert counts(view) == ((0, 0, 1, 0), (1, 0))
    (lag,) = found(view).views
    assert lag.p50 == lag.p95 == lag.longest == timedelta(minutes=20)


def test_a_wrong_value_is_skew_on_an_old_row_too_and_even_if_it_is_the_new_rows():
    for served in (1.5, 2.0):
        view = stored([(60, 30, 50, 40, served, 2.0)], [(0, 30, 30, 1.0)])
        assert counts(view) == ((0, 1, 0, 0), (1, 0))


def test_an_old_row_with_the_same_value_as_the_new_one_is_equal_and_its_view_behind():
    assert counts(stored([(60, 30, 50, 40, 1.0, 1.0)], [(0, 30, 30, 1.0)])) == ((1, 0, 0, 0), (1, 0))


def test_a_row_that_the_offline_store_did_not_know_is_ahead():
    skew = found(stored([(60, 55, 50, None, 3.0, 2.0)]))
    (feature,), (lag,) = skew.features, skew.views
    assert (feature.equal, feature.skewed, feature.stale, feature.ahead) == (0, 0, 0, 1)
    assert (lag.stale, lag.ahead) == (0, 1)
    assert [(e.served, e.recomputed) for e in feature.ahead_examples] == [(3.0, 2.0)]
    (example,) = lag.examples
    assert example.found - example.known == timedelta(minutes=5)


def test_nothing_found_where_nothing_was_known_is_equal_and_a_value_for_it_skew():
    assert counts(stored([(60, None, None, None, None, None)])) == ((1, 0, 0, 0), (0, 0))
    assert counts(stored([(60, None, None, None, 0.0, None)])) == ((0, 1, 0, 0), (0, 0))


def test_nothing_found_where_a_row_was_known_is_stale():
    view = stored([(60, None, 50, 50, None, 2.0)])
    assert counts(view) == ((0, 0, 1, 0), (1, 0))
    assert found(view).views[0].longest == timedelta(minutes=10)


def test_an_expired_row_is_as_good_as_none_up_to_its_last_instant():
    assert counts(stored([(60, 50, 50, None, 1.0, 1.0)], [(0, 50, 50, 1.0)], ttl=10)) == ((1, 0, 0, 0), (0, 0))
    assert counts(stored([(61, 50, 50, None, None, None)], [(0, 50, 50, 1.0)], ttl=10)) == ((1, 0, 0, 0), (0, 0))
    assert counts(stored([(61, None, 50, 50, None, None)], ttl=10)) == ((1, 0, 0, 0), (0, 0))


def test_an_expired_value_that_was_served_is_skew_and_so_is_a_valid_one_that_was_not():
    assert counts(stored([(61, 50, 50, None, 1.0, None)], [(0, 50, 50, 1.0)], ttl=10)) == ((0, 1, 0, 0), (0, 0))
    assert counts(stored([(60, 50, 50, None, None, 1.0)], [(0, 50, 50, 1.0)], ttl=10)) == ((0, 1, 0, 0), (0, 0))


def test_what_a_row_was_before_its_correction_is_stale_since_the_correction():
    versions = [(0, 30, 30, 1.0), (0, 30, 40, 2.0), (0, 30, 55, 3.0)]
    view = stored([(60, 30, 30, None, 1.0, 3.0)], versions)
    assert counts(view) == ((0, 0, 1, 0), (1, 0))
    assert found(view).views[0].longest == timedelta(minutes=20)
    assert counts(stored([(60, 30, 30, None, 3.0, 3.0)], versions)) == ((1, 0, 0, 0), (0, 0))
    assert counts(stored([(60, 30, 30, None, 9.0, 3.0)], versions)) == ((0, 1, 0, 0), (0, 0))


# -- many predictions against one at a time --------------------------------------------------------------------------


def told(asked, found, best, served, recomputed, versions, ttl):
    """The class of one prediction's value and whether its row is stale, by the rules as they are written."""

    def valid(event):
        return event is not None and (ttl is None or asked - event <= ttl)

    if found is not None and not versions:
        return "equal" if served == recomputed else "ahead", False
    offered = [wind if valid(event) else None for event, _, wind in versions] or [None]
    picked = max((i for i, wind in enumerate(offered) if wind == served), default=len(offered) - 1)
    current = (versions and picked == len(versions) - 1 and versions[picked][0] == best) or not (
        valid(found) or valid(best)
    )
    if served != offered[picked]:
        return "skewed", not current
    return "equal" if served == recomputed else "stale", not current


minutes = st.one_of(st.none(), st.integers(0, 12))
winds = st.sampled_from([None, 1.0, 2.0, 3.0])


@st.composite
def predictions(draw):
    """A prediction, what it found and the versions of that; all in minutes."""
    asked, event, best = draw(st.integers(12, 20)), draw(minutes), draw(minutes)
    known = sorted(draw(st.sets(st.integers(event, 12), max_size=3))) if event is not None else []
    if known:
        best = max(best or 0, event)
    versions = [(event, at, draw(winds)) for at in known]
    return (asked, event, best, draw(winds), draw(winds)), versions


@given(st.lists(predictions(), min_size=1, max_size=20), st.sampled_from([None, 8]))
def test_every_prediction_is_told_as_it_is_alone(drawn, ttl):
    rows = [(asked, found, best, 0, served, recomputed) for (asked, found, best, served, recomputed), _ in drawn]
    versions = [(i, *version) for i, (_, own) in enumerate(drawn) for version in own]
    expected = [told(*row, own, ttl) for row, own in drawn]
    skew = found(stored(rows, versions, ttl))
    (feature,), (lag,) = skew.features, skew.views
    kinds = [kind for kind, _ in expected]
    assert {kind: getattr(feature, kind) for kind in ("equal", "skewed", "stale", "ahead")} == {
        kind: kinds.count(kind) for kind in ("equal", "skewed", "stale", "ahead")
    }
    assert feature.equal + feature.skewed + feature.stale + feature.ahead == feature.rows == len(drawn)
    assert lag.stale == sum(stale for _, stale in expected)
    assert [e.prediction_id for e in feature.examples] == [f"p{i}" for i, k in enumerate(kinds) if k == "skewed"][:5]


# -- on-demand features ------------------------------------------------------------------------------------------------


def gap(values):
    return pa.table({"gap": pa.array(values, pa.float64())})


def computed(served, repeated, recomputed):
    return ComputedRows("gaps", {"weather": ["wind"]}, gap(served), gap(repeated), gap(recomputed))


def test_an_on_demand_value_is_skewed_if_the_function_gives_another_for_the_inputs_served():
    view = stored([(60, 30, 50, 40, 1.0, 2.0)] * 3, [(i, 30, 30, 1.0) for i in range(3)])
    (_, feature) = found(view, [computed([5.0, 6.0, 5.0], [5.0, 5.0, 5.0], [7.0, 7.0, 5.0])]).features
    assert (feature.equal, feature.skewed, feature.stale, feature.ahead) == (1, 1, 1, 0)
    assert (feature.feature, feature.view) == ("gap", "gaps")
    assert [(e.prediction_id, e.served, e.recomputed) for e in feature.examples] == [("p1", 6.0, 5.0)]


def test_an_on_demand_value_that_differs_because_its_input_is_skewed_is_skewed():
    view = stored([(60, 50, 50, None, 1.0, 2.0)] * 2, [(i, 50, 50, 2.0) for i in range(2)])
    (wind, feature) = found(view, [computed([9.0, 9.0], [9.0, 9.0], [8.0, 9.0])]).features
    assert (wind.skewed, feature.equal, feature.skewed, feature.stale) == (2, 1, 1, 0)
    assert [(e.served, e.recomputed) for e in feature.examples] == [(9.0, 8.0)]


def test_an_on_demand_value_of_a_row_ahead_is_ahead():
    view = stored([(60, 55, 50, None, 3.0, 2.0)])
    (_, feature) = found(view, [computed([8.0], [8.0], [7.0])]).features
    assert (feature.equal, feature.skewed, feature.stale, feature.ahead) == (0, 0, 0, 1)


# -- values ------------------------------------------------------------------------------------------------------------


def bits(value):
    return None if value is None or not math.isfinite(value) else struct.pack("<d", value)


@given(st.lists(st.tuples(*[st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -0.0, 0.1]))] * 2)))
def test_floats_are_equal_bit_for_bit_and_what_is_not_finite_is_missing(pairs):
    a, b = (pa.array([pair[i] for pair in pairs], pa.float64()) for i in (0, 1))
    assert equal(a, b).tolist() == [bits(x) == bits(y) for x, y in pairs]


def test_values_of_every_other_type_are_equal_if_they_are_the_same():
    at = datetime(2013, 10, 1, tzinfo=UTC)
    for kind, x, y in [
        (pa.string(), "a", "b"),
        (pa.int64(), 2**53, 2**53 + 1),
        (pa.bool_(), True, False),
        (pa.timestamp("us", "UTC"), at, at + timedelta(microseconds=1)),
        (pa.float32(), 0.1, 0.10000001),
    ]:
        a, b = pa.array([x, x, None, None], kind), pa.array([x, y, y, None], kind)
        assert equal(a, b).tolist() == [True, False, False, True]


def test_recomputed_values_are_rounded_as_serving_rounds_them():
    at = datetime(2013, 10, 1, 1, 2, 3, 999_999, tzinfo=UTC)
    before = datetime(1969, 12, 31, 23, 59, 58, 500_000, tzinfo=UTC)
    cases = [
        ("FLOAT", pa.array([0.1, float("nan"), None]), [struct.unpack("<f", struct.pack("<f", 0.1))[0], None, None]),
        ("DOUBLE", pa.array([1, None]), [1.0, None]),
        ("INT64", pa.array([3.0, float("nan")]), [3, None]),
        ("INT32", pa.array([3, None]), [3, None]),
        ("BOOL", pa.array([True, None]), [True, None]),
        ("STRING", pa.array(["a", None]).dictionary_encode(), ["a", None]),
        ("UNIX_TIMESTAMP", pa.array([at, before, None], pa.timestamp("us", "UTC")),
         [at.replace(microsecond=0), before.replace(microsecond=0), None]),
        ("UNIX_TIMESTAMP", pa.array([at.replace(tzinfo=None)], pa.timestamp("ns")), [at.replace(microsecond=0)]),
    ]  # fmt: skip
    for kind, values, expected in cases:
        assert as_served(values, kind).to_pylist() == expected, kind


def test_hashes_are_those_that_the_log_keeps():
    layout = Layout([Column(name="wind", type="DOUBLE")], hashed=["wind"], key=b"secret")
    kept = [layout.values({"wind": wind})[0] for wind in (1.5, None, float("nan"))]
    hashes = pa.array(kept, pa.string())
    assert as_hashed(pa.array([1.5, None]), b"secret").to_pylist() == kept[:2]
    assert without_nan(hashes, b"secret").to_pylist() == [kept[0], None, None]
    assert as_hashed(pa.array([1.5]), b"other").to_pylist() != kept[:1]


@given(st.integers(0, 50), st.one_of(st.none(), st.integers(1, 60)))
def test_a_sample_is_spread_evenly_and_has_the_newest(count, rows):
    log = pa.table({"n": pa.array(range(count), pa.int64())})
    chosen = sample(log, rows)["n"].to_pylist()
    assert len(chosen) == (count if rows is None else min(rows, count))
    assert chosen == sorted(set(chosen))
    if count:
        assert chosen[-1] == count - 1
    steps = np.diff(chosen)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


# -- what it comes to --------------------------------------------------------------------------------------------------


def lags(*minutes):
    """A view whose predictions are stale by so many minutes, or not at all (0)."""
    rows = [(60, 30, 50, 60 - m, 1.0, 2.0) if m else (60, 50, 50, None, 2.0, 2.0) for m in minutes]
    versions = [(i, 30, 30, 1.0) if m else (i, 50, 50, 2.0) for i, m in enumerate(minutes)]
    return stored(rows, versions)


def test_lags_are_those_of_the_stale_alone():
    (lag,) = found(lags(*range(1, 11), *[0] * 90)).views
    assert (lag.rows, lag.stale) == (100, 10)
    assert (lag.p50, lag.p95, lag.longest) == tuple(timedelta(minutes=m) for m in (5, 10, 10))
    (none,) = found(lags(0, 0)).views
    assert (none.stale, none.p50, none.p95, none.longest) == (0, timedelta(), timedelta(), timedelta())


def observe(view, **options):
    skew = found(view, skipped={"tail": "it is left out"})
    return observations(skew, model="delays", version=3, since=SINCE, until=UNTIL, **options)


def of(kind, test, observed):
    (one,) = [o for o in observed if (o.kind, o.test) == (kind, test) and o.subject != "tail"]
    return one


def test_a_skewed_value_is_an_alarm_that_shows_it():
    bad = of("skew", "exact", observe(stored([(60, 50, 50, None, 1.0, 2.0)], [(0, 50, 50, 2.0)])))
    assert (bad.subject, bad.effect, bad.threshold, bad.alarm, bad.verdict.outcome) == ("wind", 1, 0, True, "fail")
    assert "p0 was served 1.0, recomputed 2.0" in bad.verdict.reason
    good = of("skew", "exact", observe(lags(0, 5)))
    assert (good.effect, good.rows, good.verdict.outcome) == (0, 2, "pass")


def test_a_lag_is_an_alarm_only_above_a_limit_that_is_given():
    without = of("freshness", "lag p95", observe(lags(5, 30)))
    assert (without.effect, without.alarm, without.verdict.outcome) == (1800, False, "pass")
    for limit, outcome in ((timedelta(minutes=30), "pass"), (timedelta(minutes=29), "fail")):
        with_limit = of("freshness", "lag p95", observe(lags(5, 30), most_lag=limit))
        assert (with_limit.alarm, with_limit.verdict.outcome) == (True, outcome)
        assert with_limit.threshold == limit.total_seconds()


def test_rows_ahead_are_told_and_are_no_alarm():
    ahead = of("skew", "ahead", observe(stored([(60, 55, 50, None, 3.0, 2.0)])))
    assert (ahead.subject, ahead.effect, ahead.alarm, ahead.verdict.outcome) == ("weather", 1, False, "fail")
    assert "p0 found 1970-01-01T00:55:00+00:00, known was 1970-01-01T00:50:00+00:00" in ahead.verdict.reason
    assert of("skew", "ahead", observe(lags(0))).verdict.outcome == "pass"


def test_what_could_not_be_compared_is_inconclusive_and_says_why():
    (skipped,) = [o for o in observe(lags(0)) if o.subject == "tail"]
    assert skipped.verdict.outcome == "inconclusive"
    assert "left out" in skipped.verdict.reason


def test_no_predictions_are_an_error():
    view = lags(0)
    none = StoredRows(
        "weather", None, *[view.asked[:0]] * 4, view.served[:0], view.served[:0],
        Versions(*[view.asked[:0]] * 3, view.served[:0]),
    )  # fmt: skip
    observed = observations(found(none), model="delays", version=None, since=SINCE, until=UNTIL)
    assert {o.verdict.outcome for o in observed} == {"error"}


def test_a_result_travels_as_json():
    skew = found(stored([(60, 55, 50, None, 3.0, 2.0), (60, 50, 50, None, 1.0, 2.0)], [(1, 50, 50, 2.0)]))
    assert Skew.model_validate_json(skew.model_dump_json()) == skew
    assert (skew.compared, skew.skewed) == (2, 1)
