from itertools import combinations
from math import factorial

import numpy as np
import pytest

from evergrow.learning.shapley import shapley_values


def exact(predict, x, background):
    """Shapley's formula: every coalition, every background row."""
    k = len(x)

    def worth(coalition):
        rows = background.copy()
        rows[:, list(coalition)] = x[list(coalition)]
        return predict(rows).mean()

    values = np.zeros(k)
    for j in range(k):
        others = [i for i in range(k) if i != j]
        for size in range(k):
            weight = factorial(size) * factorial(k - size - 1) / factorial(k)
            values[j] += weight * sum(worth((*s, j)) - worth(s) for s in combinations(others, size))
    return values


def tangled(X):
    X = X.astype(np.float64)
    return np.tanh(X[:, 0] * X[:, 1]) + np.maximum(X[:, 2], X[:, 3]) - 0.3 * X[:, 0] * X[:, 2] * X[:, 3]


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    return random.normal(size=(5, 5)).astype(np.float32), random.normal(size=(16, 5)).astype(np.float32)


def test_sampled_values_are_close_to_exact_ones(data):
    X, background = data
    sampled = shapley_values(tangled, X, background, permutations=100)
    np.testing.assert_allclose(sampled, [exact(tangled, x, background) for x in X], atol=0.03)


def test_values_of_an_additive_model_are_exact_from_one_permutation(data):
    X, background = data
    weights = np.array([1.0, -2.0, 0.5, 0.0, 3.0])
    values = shapley_values(lambda rows: rows @ weights, X, background)
    np.testing.assert_allclose(values, (X - background.mean(axis=0)) * weights, atol=1e-5)


def test_values_sum_to_the_score_less_the_mean_background_score(data):
    X, background = data
    values = shapley_values(tangled, X, background)
    np.testing.assert_allclose(values.sum(axis=1), tangled(X) - tangled(background).mean(), atol=1e-12)


def test_a_feature_the_model_ignores_gets_nothing(data):
    assert (shapley_values(tangled, *data)[:, 4] == 0).all()


def test_the_same_seed_gives_the_same_values_and_another_seed_others(data):
    first, again, other = (shapley_values(tangled, *data, seed=s) for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_pairing_each_permutation_with_its_reverse_is_better_than_two_permutations(data):
    # For a model of two-way interactions antithetic pairs have no error at all.
    X, background = data
    pairwise = lambda rows: rows[:, 0].astype(np.float64) * rows[:, 1] + rows[:, 2] * rows[:, 3]  # noqa: E731
    sampled = shapley_values(pairwise, X, background, permutations=1)
    np.testing.assert_allclose(sampled, [exact(pairwise, x, background) for x in X], atol=1e-5)


def test_no_rows_have_no_values(data):
    assert shapley_values(tangled, data[0][:0], data[1]).shape == (0, 5)


def test_no_permutations_are_refused(data):
    with pytest.raises(ValueError, match="`permutations` must be at least 1, found 0"):
        shapley_values(tangled, *data, permutations=0)
