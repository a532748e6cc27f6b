"""Drift is told where it is, is not where it is not, and chance and the ordinary differences of days are not drift."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from evergrow.contracts import Feature
from evergrow.monitoring import drift
from evergrow.monitoring.profile import Axis, Grouping, axes_of, profile, profile_groups
from evergrow.monitoring.scene import daily_alpha
from tests.unit.monitoring.builders import scene

FEATURES = [Feature(name="x", kind="numeric"), Feature(name="c", kind="categorical")]
KINDS = ["feature-drift", "feature-drift"]


def rows(n=900, mean=0.0, weights=(0.6, 0.3, 0.1), seed=0):
    random = np.random.default_rng(seed)
    return pa.table({"x": random.normal(mean, 1, n), "c": random.choice(["a", "b", "c"], n, p=weights)})


def reference(days=28, luck=0.0):
    random = np.random.default_rng(99)
    tables = [rows(mean=random.normal(0, luck), seed=100 + day) for day in range(days)]
    axes = axes_of(FEATURES, pa.concat_tables(tables))
    return axes, [profile(axes, table) for table in tables]


def outcomes(found):
    return {one.subject: one.verdict.outcome for one in found}


def test_a_day_like_the_others_has_not_drifted():
    axes, days = reference()

    assert outcomes(drift.observe(scene(), profile(axes, rows(seed=1)), days, KINDS, 0.2)) == {"x": "pass", "c": "pass"}


def test_a_column_that_moved_has_drifted_and_the_others_have_not():
    axes, days = reference()
    moved = drift.observe(scene(), profile(axes, rows(mean=0.8, seed=1)), days, KINDS, 0.2)
    mixed = drift.observe(scene(), profile(axes, rows(weights=(0.2, 0.3, 0.5), seed=1)), days, KINDS, 0.2)

    assert outcomes(moved) == {"x": "fail", "c": "pass"}
    assert outcomes(mixed) == {"x": "pass", "c": "fail"}
    assert re.search(r"most changed: [ac] \d+\.\d% → \d+\.\d%", mixed[1].verdict.reason)
    assert not moved[0].alarm


def test_what_every_day_does_is_no_drift_however_large():
    axes, days = reference(luck=0.8)
    found = drift.observe(scene(), profile(axes, rows(mean=1.0, seed=1)), days, KINDS, 0.2)

    assert found[0].effect > 0.2
    assert outcomes(found)["x"] == "pass"


def test_too_few_days_to_compare_with_are_inconclusive():
    axes, days = reference(days=5)

    assert set(outcomes(drift.observe(scene(), profile(axes, rows(mean=3)), days, KINDS, 0.2)).values()) == {
        "inconclusive"
    }


def test_a_slice_that_drifted_is_told_and_chance_in_small_slices_is_not():
    axes, days = reference()
    before = rows(20_000, seed=5)
    grouping = [Grouping.by("c", before["c"])]
    base = profile_groups(axes, before, grouping)
    now = rows(3_000, seed=6).to_pandas()

    def told(frame):
        table = pa.Table.from_pandas(frame)
        parts = {"": profile(axes, table), **profile_groups(axes, table, grouping)}
        return drift.observe_slices(scene(), parts, base, days, KINDS, 0.2)

    assert told(now) == []
    assert told(now.assign(x=now["x"] + 1)) == []  # what all do is told of all
    now.loc[now["c"] == "b", "x"] += 1
    found = told(now)
    assert [(one.subject, one.slice, one.verdict.outcome) for one in found] == [("x", "c=b", "fail")]


def test_false_drift_is_as_rare_as_asked_for_whatever_days_are_like():
    """Both: an index that needs not be large, and days that differ."""
    seen, alpha, k = 0, 0.05, 2
    for run in range(300):
        random = np.random.default_rng(run)
        means = random.normal(0, 0.2, 29)
        tables = [rows(200, mean, seed=1000 * run + i) for i, mean in enumerate(means)]
        axes = axes_of(FEATURES, pa.concat_tables(tables[:-1]))
        days = [profile(axes, table) for table in tables]
        found = drift.observe(scene(alpha=alpha), days[-1], days[:-1], KINDS, 1e-9)
        seen += sum(one.verdict.outcome == "fail" for one in found)

    low, high = stats.binom.interval(0.99, 300 * k, alpha / k)
    assert seen <= high
    assert seen >= low / 2  # and the test is not blind


def test_its_distances_are_those_of_the_values_within_the_grid():
    random = np.random.default_rng(0)
    before = pd.DataFrame({"x": random.gamma(2, 5, 20_000), "c": random.choice(list("abc"), 20_000)})
    now = pd.DataFrame({"x": random.gamma(2.5, 5, 20_000), "c": random.choice(list("abd"), 20_000)})
    before.loc[:500, "x"] = np.nan
    found = {(one.column, one.test): one for one in drift.ProfileDrift().compare(before, now, FEATURES)}
    x = before["x"].dropna()

    assert found["x", "ks"].effect == pytest.approx(stats.ks_2samp(x, now["x"]).statistic, abs=0.02)
    assert found["x", "wasserstein"].effect == pytest.approx(stats.wasserstein_distance(x, now["x"]) / x.std(), rel=0.1)
    assert (found["x", "psi"].reference_rows, found["x", "psi"].rows) == (len(x), 20_000)
    assert found["c", "chi2"].p_value == 0.0
    assert found["c", "jensenshannon"].effect > 0.5


def test_mass_beyond_the_reference_is_as_far_away_as_it_really_is():
    before = pd.DataFrame({"x": np.arange(1000.0), "c": "a"})
    now = before.assign(x=before["x"] + 1200)
    (found,) = [o for o in drift.ProfileDrift().compare(before, now, FEATURES) if o.test == "wasserstein"]

    assert found.effect * before["x"].std(ddof=0) == pytest.approx(1200, rel=0.15)


def test_a_column_without_values_in_either_has_no_comparison():
    before = pd.DataFrame({"x": [np.nan, np.nan], "c": ["a", "b"]})
    now = pd.DataFrame({"x": [1.0, 2.0], "c": ["a", "b"]})

    assert {one.column for one in drift.ProfileDrift().compare(before, now, FEATURES)} == {"c"}


def test_numbers_are_compared_in_groups_of_equal_mass():
    axis = Axis(name="x", kind="numeric", edges=tuple(float(i) for i in range(51)))
    counts = np.array([0] + [20] * 50 + [0, 5])
    before, after = drift.grouped(axis, counts, counts)

    assert before.tolist() == after.tolist() == [0] + [100] * 10 + [0]


def test_the_accepted_false_alarms_are_shared_out_by_day():
    assert daily_alpha(1.0, 0.5) == pytest.approx(0.5 / 30.4375)
    assert daily_alpha(1000, 1) == 0.5
