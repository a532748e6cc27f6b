"""Broken data raises an alarm, and data as it always was does not."""

import numpy as np
import pyarrow as pa

from evergrow.contracts import Feature
from evergrow.monitoring import quality
from evergrow.monitoring.days import with_ages
from evergrow.monitoring.profile import axes_of, profile
from tests.unit.monitoring.builders import scene

FEATURES = [Feature(name="x", kind="numeric"), Feature(name="c", kind="categorical")]


def rows(n=900, missing=0.02, scale=1.0, words=("a", "b"), seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(50, 5, n) * scale
    x[random.random(n) < missing] = np.nan
    return pa.table({"x": x, "c": random.choice(words, n)})


DAYS = [rows(seed=100 + day) for day in range(28)]
AXES = axes_of(FEATURES, pa.concat_tables(DAYS))
REFERENCE = [profile(AXES, day) for day in DAYS]


def seen(now, reference=REFERENCE):
    return {(one.kind, one.subject): one for one in quality.values(scene(), profile(AXES, now), reference)}


def failed(found):
    return {key for key, one in found.items() if one.verdict.outcome == "fail"}


def test_a_day_like_the_others_raises_nothing_and_everything_is_an_alarm():
    found = seen(rows(seed=1))

    assert set(found) == {("nulls", "x"), ("ranges", "x"), ("nulls", "c"), ("categories", "c")}
    assert failed(found) == set()
    assert all(one.alarm for one in found.values())


def test_values_that_go_missing_are_told_with_both_shares():
    found = seen(rows(missing=0.2, seed=1))

    assert failed(found) == {("nulls", "x")}
    assert "missing of 900, holdout of version 1 1.90%" in found["nulls", "x"].verdict.reason
    assert found["nulls", "x"].low < found["nulls", "x"].effect < found["nulls", "x"].high


def test_another_unit_is_out_of_range():
    assert failed(seen(rows(scale=100, seed=1))) == {("ranges", "x")}


def test_a_new_season_is_not_another_unit():
    assert failed(seen(rows(scale=1.2, seed=1))) == set()


def test_a_category_that_was_never_seen_is_told():
    assert failed(seen(rows(words=("a", "b", "new"), seed=1))) == {("categories", "c")}


def test_a_single_strange_value_is_chance():
    now = rows(seed=1).to_pandas()
    now.loc[0, "c"] = "typo"

    assert failed(seen(pa.Table.from_pandas(now))) == set()


def test_few_days_to_compare_with_are_inconclusive():
    found = seen(rows(missing=0.9, seed=1), REFERENCE[:5])

    assert {one.verdict.outcome for one in found.values()} == {"inconclusive"}


def test_a_column_that_is_gone_or_is_text_fails_the_schema():
    (one,) = quality.schema(scene(), 900, {"x": "string"}, AXES)
    (fine,) = quality.schema(scene(), 900, {}, AXES)

    assert (one.subject, one.verdict.outcome, one.alarm) == ("x", "fail", True)
    assert "x is string, holdout of version 1 has a numeric column" in one.verdict.reason
    assert fine.verdict.outcome == "pass"


def test_traffic_that_stops_or_multiplies_is_told_and_ordinary_days_are_not():
    before = [900, 950, 880, 920, 910, 905, 940, 930, 890, 915]

    assert quality.volume(scene(), 0, before).verdict.outcome == "fail"
    assert quality.volume(scene(), 9000, before).verdict.outcome == "fail"
    assert quality.volume(scene(), 900, before).verdict.outcome == "pass"
    assert quality.volume(scene(), 900, before[:3]).verdict.outcome == "inconclusive"


def aged(seconds, seed):
    random = np.random.default_rng(seed)
    asked = (1_700_000_000 + np.arange(900)) * 1_000_000
    found = asked - (random.exponential(seconds, 900) * 1e6).astype(np.int64)
    kind = pa.timestamp("us", "UTC")
    axes = (quality.age_axis("weather"),)
    table = pa.table({"event_timestamp": pa.array(asked, kind), "weather__event_timestamp": pa.array(found, kind)})
    return profile(axes, with_ages(table, axes))


def test_features_that_grow_old_are_told_and_ordinary_ages_are_not():
    before = [aged(600, 100 + day) for day in range(20)]

    assert [o.verdict.outcome for o in quality.freshness(scene(), aged(600, 1), before)] == ["pass"]
    (old,) = quality.freshness(scene(), aged(20_000, 1), before)
    assert (old.verdict.outcome, old.subject) == ("fail", "weather")
    assert [o.verdict.outcome for o in quality.freshness(scene(), aged(600, 1), before[:3])] == ["inconclusive"]


def test_ages_are_counted_in_seconds_and_what_was_not_found_is_missing():
    axes = (quality.age_axis("weather"),)
    kind = pa.timestamp("us", "UTC")
    table = pa.table(
        {
            "event_timestamp": pa.array([10_000_000, 10_000_000], kind),
            "weather__event_timestamp": pa.array([4_000_000, None], kind),
        }
    )

    assert with_ages(table, axes)["age of weather"].to_pylist() == [6.0, None]
