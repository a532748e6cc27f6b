"""The exploration page, and what it counts as a leak."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evergrow.data.explore import render
from evergrow.data.leakage import auc, power, spearman, suspects
from evergrow.data.profile import label_means, profile, strongest
from evergrow.errors import NotEnoughData
from tests.unit.pages import builders as pages

BINARY, REGRESSION = "binary-classification", "regression"


def found(rows, task=BINARY):
    """Rule per suspect feature."""
    return {suspect.feature: suspect.rule for suspect in profile(pages.about(rows, task), rows).suspects}


@pytest.mark.parametrize("task", [BINARY, REGRESSION])
def test_innocent_features_are_not_suspect(task):
    assert found(pages.snapshot(task=task), task) == {}


@pytest.mark.parametrize("task", [BINARY, REGRESSION])
def test_a_feature_made_of_the_label_is_suspect_and_the_others_are_not(task):
    rows = pages.snapshot(task=task)
    noise = np.random.default_rng(1).normal(0, 0.01, len(rows))

    assert found(rows.assign(leak=-3.0 * rows["late"] + noise), task) == {"leak": "predicts alone"}


def test_a_feature_that_equals_the_label_is_called_that():
    rows = pages.snapshot()
    rows = rows.assign(copy=rows["late"].astype(float))

    (suspect,) = profile(pages.about(rows), rows).suspects
    assert "equals the label in 100.0 % of rows" in suspect.reason


def test_a_categorical_feature_made_of_the_label_is_suspect():
    rows = pages.snapshot()

    assert found(rows.assign(status=np.where(rows["late"] == 1, "delayed", "on time"))) == {"status": "predicts alone"}


def test_a_level_for_every_row_is_no_leak():
    rows = pages.snapshot()

    assert found(rows.assign(ticket=[f"t{i}" for i in range(len(rows))])) == {}


def test_a_feature_that_is_missing_where_the_label_is_1_is_suspect():
    rows = pages.snapshot()
    gaps = rows["late"].eq(1) & (np.arange(len(rows)) % 3 > 0)

    assert found(rows.assign(arrival=rows["noise_2"].mask(gaps))) == {"arrival": "missing tells"}


def test_a_feature_that_follows_the_labels_delay_is_suspect():
    rows = pages.snapshot()
    delay = (rows["known_at"] - rows["event_timestamp"]).dt.total_seconds()

    assert found(rows.assign(elapsed=delay / 60)) == {"elapsed": "follows the label's delay"}


def test_few_rows_are_not_suspected():
    rows = pages.snapshot(20)

    assert suspects(rows[["late"]].astype(float), rows["late"].to_numpy(float), np.arange(20.0), binary=True) == []


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auc_counts_ordered_pairs(pairs):
    positive, scores = np.array([p for p, _ in pairs]), np.array([s for _, s in pairs], float)
    counted = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]

    if counted:
        assert auc(positive, scores) == pytest.approx(np.mean(counted))
    else:
        assert np.isnan(auc(positive, scores))


def test_spearman_agrees_with_scipy_on_ties_and_gaps():
    random = np.random.default_rng(5)
    a, b = random.integers(0, 6, 300).astype(float), random.normal(size=300)
    b += a / 3
    a[::7] = np.nan

    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b, nan_policy="omit").statistic)


def test_power_is_the_same_for_a_mirrored_feature():
    rows = pages.snapshot()
    y = rows["late"].to_numpy(float)

    assert power(rows["signal"], y, True) == pytest.approx(power(-rows["signal"], y, True))
    assert power(rows["signal"], y, True) > 0.6 > power(rows["noise_3"], y, True)


def test_intervals_of_shares_are_wilsons():
    rows = pages.snapshot(400)
    for mean in label_means(rows["carrier"], rows["late"].to_numpy(float), binary=True):
        hits = int(rows.loc[rows["carrier"] == mean.name, "late"].sum())
        expected = stats.binomtest(hits, mean.rows).proportion_ci(method="wilson")
        assert (mean.low, mean.high) == pytest.approx((expected.low, expected.high))


def test_rows_per_day_and_shares_per_week_count_every_row():
    rows = pages.snapshot()
    seen = profile(pages.about(rows), rows)

    assert sum(seen.days[1]) == len(rows)
    assert sum(week.rows for week in seen.weeks) == len(rows)
    assert all(sum(feature.heights) == rows[feature.name].count() for feature in seen.features if feature.heights)


def test_missing_values_are_shown_where_they_are():
    rows = pages.snapshot()
    missing = profile(pages.about(rows), rows).missing

    assert set(missing) == {"noise_0", "noise_1"}
    full = [week for week, share in enumerate(missing["noise_1"]) if share == 1]
    assert full
    assert set(full) <= set(range(8, 14))  # noise_1 is missing in March


def test_the_strongest_pair_is_the_planted_one():
    rows = pages.snapshot()
    rows = rows.assign(twin=-2 * rows["noise_4"])
    seen = profile(pages.about(rows), rows)

    a, b, rho = strongest(seen.numeric, seen.correlations)[0]
    assert ({a, b}, rho) == ({"noise_4", "twin"}, pytest.approx(-1))


@pytest.mark.parametrize("task", [BINARY, REGRESSION])
def test_the_page_names_every_feature_and_is_the_same_each_time(task):
    rows = pages.snapshot(task=task)
    about = pages.about(rows, task)
    html = render(about, rows)

    assert all(feature.name in html for feature in about.features)
    assert html == render(about, rows)


def test_odd_columns_are_shown_too():
    rows = pages.snapshot(300)
    rows = rows.assign(
        nothing=np.nan, constant=1.0, flag=rows["signal"] > 0, whole=rows["flight"].astype("Int64"), empty_text=None
    )
    about = pages.about(rows, slices=("signal", "carrier", "nothing"))

    assert "nothing" in render(about, rows)


def test_a_single_row_is_a_page_and_none_is_an_error():
    one = pages.snapshot(1)

    assert "1 labelled rows" in render(pages.about(one), one)
    with pytest.raises(NotEnoughData, match="has no rows"):
        render(pages.about(one), one.iloc[:0])


def test_names_and_levels_are_escaped():
    evil = "<script>alert(1)</script>"
    rows = pages.snapshot(300).rename(columns={"noise_2": evil})
    rows = rows.assign(carrier=np.where(rows["signal"] > 0, evil, rows["carrier"]))

    assert "<script" not in render(pages.about(rows), rows)
