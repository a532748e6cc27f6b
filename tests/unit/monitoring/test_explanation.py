import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kstest

from evergrow.errors import NotEnoughData
from evergrow.learning.shapley import shapley_values
from evergrow.monitoring.explanation import explanation_drift, shares

NAMES = ("wind", "delay", "origin")


def attributed(seed, rows=80, scales=(3.0, 2.0, 1.0), blocks=None, block=0.0):
    """Shapley values of given sizes; those of one block may have a size in common."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, 3)) * scales
    if blocks is not None:
        values[:, 0] *= np.exp(random.normal(0, block, blocks.max() + 1))[blocks]
    return values


def test_shares_are_of_the_mean_absolute_values():
    found = explanation_drift(np.array([[1.0, -1, 0], [-3, 1, 0]]), np.array([[0.0, 2, 0], [0, 0, -2]]), NAMES)
    assert {(s.feature, s.reference, s.now) for s in found.shares} == {
        ("wind", 4 / 6, 0.0),
        ("delay", 2 / 6, 0.5),
        ("origin", 0.0, 0.5),
    }
    assert found.comparison.effect == pytest.approx(4 / 6)
    assert (found.comparison.rows, found.comparison.reference_rows) == (2, 2)


def test_a_change_of_what_scores_come_from_is_seen_and_named():
    found = explanation_drift(attributed(1), attributed(2, scales=(3.0, 0.5, 2.0)), NAMES)
    assert (found.comparison.column, found.comparison.test) == ("*", "attribution-share-tv")
    assert found.comparison.p_value == 0.001
    assert found.shares[0].feature in ("delay", "origin")
    assert found.shares[0].moved * found.shares[1].moved < 0
    assert found.shares[2].feature == "wind"


def test_a_model_that_attends_to_another_feature_is_seen_through_its_shapley_values():
    random = np.random.default_rng(0)
    background = random.normal(size=(8, 3)).astype(np.float32)

    def product(X):
        return X[:, 0].astype(float) * (1 + X[:, 1])  # where delay is large, so is the part of wind

    before, now = (
        shapley_values(product, random.normal(mean, 1, size=(40, 3)).astype(np.float32), background)
        for mean in ((0, 0, 0), (0, 4, 0))
    )
    found = explanation_drift(before, now, NAMES)
    assert found.comparison.p_value < 0.05
    assert found.shares[-1].feature == "origin"
    assert found.shares[-1].now == 0


def test_larger_scores_from_the_same_features_are_no_drift():
    found = explanation_drift(attributed(1), 10 * attributed(1), NAMES)
    assert found.comparison.effect == pytest.approx(0, abs=1e-12)
    assert found.comparison.p_value > 0.5


def test_where_nothing_differs_p_values_are_uniform():
    found = [
        explanation_drift(attributed(i), attributed(1000 + i, 50), NAMES, permutations=99, seed=2000 + i)
        for i in range(150)
    ]
    assert kstest([f.comparison.p_value for f in found], "uniform").pvalue > 0.01


def test_days_that_differ_by_chance_are_no_drift_if_blocks_are_given():
    before, now = np.repeat(np.arange(20), 10), np.repeat(np.arange(10), 10)
    blind, seeing = [], []
    for i in range(60):
        sides = attributed(i, 200, blocks=before, block=1.0), attributed(500 + i, 100, blocks=now, block=1.0)
        blind.append(explanation_drift(*sides, NAMES, permutations=99, seed=i).comparison.p_value)
        seeing.append(
            explanation_drift(*sides, NAMES, blocks=(before, now), permutations=99, seed=i).comparison.p_value
        )
    assert np.mean(np.array(blind) < 0.05) > 0.3
    assert np.mean(np.array(seeing) < 0.05) < 0.15


def test_the_p_value_is_the_share_of_deals_that_move_shares_as_far():
    before, now = attributed(1, 5), attributed(2, 3, scales=(1.0, 1.0, 4.0))
    rows = np.abs(np.vstack([before, now]))
    made = np.abs(shares(rows[:5].sum(axis=0)) - shares(rows[5:].sum(axis=0))).sum() / 2
    deals = [np.isin(np.arange(8), chosen) for chosen in itertools.combinations(range(8), 3)]
    moved = [np.abs(shares(rows[d].sum(axis=0)) - shares(rows[~d].sum(axis=0))).sum() / 2 for d in deals]
    found = explanation_drift(before, now, NAMES, permutations=4999).comparison
    assert found.effect == pytest.approx(made)
    assert found.p_value == pytest.approx(np.mean(np.array(moved) >= made - 1e-12), abs=0.03)


@given(*[arrays(np.float64, (4, 3), elements=st.floats(-1e6, 1e6, allow_subnormal=False)) for _ in range(2)])
def test_the_effect_lies_between_0_and_1_and_either_way_round(before, now):
    there = explanation_drift(before, now, NAMES, permutations=9)
    back = explanation_drift(now, before, NAMES, permutations=9)
    assert 0 <= there.comparison.effect <= 1 + 1e-12
    assert there.comparison.effect == pytest.approx(back.comparison.effect)
    assert sum(s.now for s in there.shares) == pytest.approx(1)
    moved = [abs(s.moved) for s in there.shares]
    assert moved == sorted(moved, reverse=True)


def test_scores_of_one_feature_alone_and_then_of_another_are_all_the_way_apart():
    found = explanation_drift(np.tile([1.0, 0, 0], (9, 1)), np.tile([0.0, 0, 1], (9, 1)), NAMES)
    assert found.comparison.effect == 1


def test_a_model_that_attributes_nothing_does_not_drift():
    found = explanation_drift(np.zeros((5, 3)), np.zeros((5, 3)), NAMES)
    assert (found.comparison.effect, found.comparison.p_value) == (0, 1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"`current` must be finite, \[rows, 3\], found shape \[80, 2\]"):
        explanation_drift(attributed(1), attributed(2)[:, :2], NAMES)
    with pytest.raises(ValueError, match="`reference` must be finite"):
        explanation_drift(np.full((5, 3), np.nan), attributed(2), NAMES)
    with pytest.raises(ValueError, match="one per row of 80 is needed, found 3"):
        explanation_drift(attributed(1), attributed(2), NAMES, blocks=(np.arange(3), np.arange(80)))
    with pytest.raises(NotEnoughData, match="at least 2 blocks of each side are needed, found 1"):
        explanation_drift(attributed(1), attributed(2), NAMES, blocks=(np.arange(80), np.zeros(80, dtype=int)))
    with pytest.raises(NotEnoughData, match="found 0"):
        explanation_drift(attributed(1)[:0], attributed(2), NAMES)
