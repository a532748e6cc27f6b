"""Shapley values by sampled permutations, the whole batch in few calls of the model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[np.float32]], NDArray[np.float64]]


def shapley_values(
    predict: Predict, X: NDArray[np.float32], background: NDArray[np.float32], permutations: int = 1, seed: int = 0
) -> NDArray[np.float64]:
    """Each feature's share in predict(x) - mean of predict(background), float64 [n, k].

    A permutation starts from a background row and turns feature after feature into x's; each turn's change of the
    score is credited to its feature. Every background row is used equally often, each permutation together with its
    reverse (antithetic sampling), so the changes of a row telescope and sum to the difference exactly.

    E. Štrumbelj & I. Kononenko, Explaining prediction models and individual predictions with feature contributions,
    Knowledge and Information Systems 41, 2014.

    Args:
        predict: scores float64 [m] of vectors float32 [m, k].
        X: the rows to explain, [n, k].
        background: rows that stand for unknown features, [b, k], b ≥ 1.
        permutations: pairs of permutations per background row, ≥ 1.
        seed: seeds the permutations; the same seed gives the same values.
    """
    if permutations < 1:
        raise ValueError(f"`permutations` must be at least 1, found {permutations}")
    starts = np.repeat(background, 2 * permutations, axis=0)
    orders = _orders(len(background) * permutations, X.shape[1], np.random.default_rng(seed))
    return np.stack([_explain(predict, x, starts, orders) for x in X]) if len(X) else np.empty(X.shape)


def _orders(pairs: int, k: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Permutations of k features, each followed by its reverse, [2 · pairs, k]."""
    drawn = random.permuted(np.tile(np.arange(k), (pairs, 1)), axis=1)
    return np.stack([drawn, drawn[:, ::-1]], axis=1).reshape(2 * pairs, k)


def _explain(
    predict: Predict, x: NDArray[np.float32], starts: NDArray[np.float32], orders: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Mean contribution over paths from each start to x in each order, [k]."""
    paths, k = orders.shape
    position = np.empty_like(orders)
    np.put_along_axis(position, orders, np.arange(k)[None, :], axis=1)
    # After step s of a path (0 … k), the features at its first s positions are x's.
    turned = position[:, None, :] < np.arange(k + 1)[None, :, None]
    visited = np.where(turned, x, starts[:, None, :])
    scores = predict(visited.reshape(-1, k)).reshape(paths, k + 1)
    credit = np.zeros((paths, k))
    np.put_along_axis(credit, orders, np.diff(scores, axis=1), axis=1)
    mean: NDArray[np.float64] = credit.mean(axis=0)
    return mean
