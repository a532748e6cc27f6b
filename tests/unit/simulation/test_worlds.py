"""Worlds are what they are told to be: each change moves its own part and no other, and the truth is true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit

from evergrow.simulation.worlds import (
    STRENGTH,
    Gradual,
    Recurring,
    Seasonal,
    Sudden,
    World,
    draw,
    expected_loss,
    means,
    progress,
    share_of_ones,
    weights,
)

AT_10 = {"kind": "sudden", "at": 10}
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "concept": {"concept": {"course": AT_10, "angle": 90}},
    "covariates": {"covariates": {"course": AT_10, "by": 1.5}},
    "labels": {"labels": {"course": AT_10, "to": 0.7}},
    "upstream": {"upstream": {"course": AT_10, "factor": 10}},
}


def world(**more: Any) -> World:
    return World.model_validate({"days": 20, "rows": 2000, "seed": 7, **more})


def halves(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    late = frame["event_timestamp"] >= pd.Timestamp("2024-01-11", tz="UTC")
    return frame[~late], frame[late]


@pytest.mark.parametrize("change", CHANGES)
def test_the_truth_is_true_before_and_after_each_change(change):
    """Labels are as frequent as it says, in each tenth of it: chi-squared over both halves."""
    for half in halves(draw(world(**CHANGES[change]))):
        tenth = pd.qcut(half["truth"], 10, labels=False)
        by = half.groupby(tenth)
        expected, found = by["truth"].sum(), by["label"].sum()
        variance = half["truth"].mul(1 - half["truth"]).groupby(tenth).sum()
        assert stats.chi2.sf((((found - expected) ** 2) / variance).sum(), 10) > 1e-4


def p_values(before: pd.DataFrame, after: pd.DataFrame) -> float:
    """Smallest of all features', Bonferroni's."""
    features = [name for name in before if name.startswith("x")]
    return min(1.0, len(features) * min(stats.ks_2samp(before[f], after[f]).pvalue for f in features))


def moved(change: str) -> dict[str, bool]:
    """Which parts of the world differ between the halves."""
    before, after = halves(draw(world(**CHANGES[change])))
    ones = [half[half["label"] == 1] for half in (before, after)]
    table = [[half["label"].sum(), (1 - half["label"]).sum()] for half in (before, after)]
    return {
        "features": p_values(before, after) < 1e-3,
        "features of ones": p_values(*ones) < 1e-3,
        "share of ones": stats.chi2_contingency(table).pvalue < 1e-3,
    }


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("nothing", set()),
        ("concept", {"features of ones"}),
        ("labels", {"features", "share of ones"}),
        ("upstream", {"features", "features of ones"}),
    ],
)
def test_each_change_moves_its_own_parts_and_no_others(change, parts):
    assert {part for part, is_so in moved(change).items() if is_so} == parts


def test_covariates_that_move_leave_what_they_mean():
    made, days = world(**CHANGES["covariates"]), np.array([0.0, 19.0])
    assert moved("covariates")["features"]
    assert np.array_equal(*weights(made, days))
    assert np.linalg.norm(means(made, days)[1]) == pytest.approx(1.5)


def test_a_concept_turns_by_its_angle_and_keeps_its_strength():
    made = world(concept={"course": {"kind": "gradual", "since": 0, "days": 10}, "angle": 120})
    first, half, last = weights(made, np.array([0.0, 5.0, 10.0]))
    assert [np.linalg.norm(w) for w in (first, half, last)] == pytest.approx([STRENGTH] * 3)
    assert [np.degrees(np.arccos(first @ w / STRENGTH**2)) for w in (half, last)] == pytest.approx([60, 120])


@pytest.mark.parametrize("intercept", [-4.0, -1.0, 0.0, 3.0])
def test_the_share_of_ones_is_the_integral(intercept):
    found, told = share_of_ones(world(intercept=intercept), np.array([0.0]))
    exact, _ = quad(lambda z: expit(intercept + STRENGTH * z) * stats.norm.pdf(z), -12, 12)
    assert found[0] == told[0] == pytest.approx(exact, abs=1e-9)


def test_what_was_learned_before_a_change_of_concept_is_worth_less_after_it():
    before, after = halves(draw(world(**CHANGES["concept"])))
    stale = expit(-1.0 + after[[f"x{i}" for i in range(5)]].to_numpy() @ weights(world(), np.array([0.0]))[0])
    assert expected_loss(before["truth"].to_numpy()) == pytest.approx(
        expected_loss(after["truth"].to_numpy()), abs=0.02
    )
    assert expected_loss(after["truth"].to_numpy(), stale) > expected_loss(after["truth"].to_numpy()) + 0.3


@settings(max_examples=20)
@given(st.integers(7, 10), st.integers(1, 3), st.sampled_from(sorted(CHANGES)))
def test_a_day_is_the_same_whatever_comes_before_and_after(since, length, change):
    small = world(rows=20, days=12, delay={"days": 3, "lost": 0.2}, **CHANGES[change])
    until = min(12, since + length)
    whole = draw(small)
    part = whole[since * 20 : until * 20].reset_index(drop=True)
    pd.testing.assert_frame_equal(draw(small, since, until), part)
    pd.testing.assert_frame_equal(draw(small.model_copy(update={"days": 400}), since, until), part)


def test_another_seed_is_another_world():
    assert not draw(world(rows=50)).equals(draw(world(rows=50, seed=8)))


def test_labels_come_late_by_the_delay_that_was_told_and_some_never():
    frame = draw(world(delay={"days": 2.5, "lost": 0.1}))
    late = (frame["known_at"] - frame["event_timestamp"]).dropna().dt.total_seconds() / 86_400
    assert frame["known_at"].isna().mean() == pytest.approx(0.1, abs=0.01)
    assert stats.kstest(late, "expon", args=(0, 2.5)).pvalue > 1e-3


def test_rows_are_asked_for_in_order_within_their_days():
    frame = draw(world(rows=50), 3, 5)
    assert frame["event_timestamp"].is_monotonic_increasing
    assert sorted(set(frame["event_timestamp"].dt.day)) == [4, 5]


courses = st.one_of(
    st.builds(Sudden, at=st.floats(0, 100)),
    st.builds(Gradual, since=st.floats(0, 100), days=st.floats(0.5, 100)),
    st.builds(Recurring, every=st.floats(1, 100)),
    st.builds(Seasonal, period=st.floats(1, 400)),
)


@given(courses, st.floats(0, 1000))
def test_no_change_goes_further_than_it_was_told(course, day):
    (found,) = progress(course, np.array([day]))
    assert 0 <= found <= 1
    assert progress(course, np.array([0.0]))[0] == (1.0 if isinstance(course, Sudden) and course.at == 0 else 0.0)


@pytest.mark.parametrize(("since", "until"), [(-1, 3), (3, 3), (5, 21)])
def test_days_that_the_world_does_not_have_are_refused(since, until):
    with pytest.raises(ValueError, match="must be days from 0 to 20"):
        draw(world(), since, until)


def test_a_world_that_cannot_be_is_refused():
    with pytest.raises(ValidationError, match="less than 1"):
        world(labels={"course": AT_10, "to": 1.0})
    with pytest.raises(ValidationError, match="forbidden|not permitted"):
        world(drift=3)
