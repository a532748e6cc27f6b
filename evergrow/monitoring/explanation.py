"""Explanation drift: whether a model's scores of now come from other features than those of the reference did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evergrow.contracts import Comparison
from evergrow.errors import NotEnoughData
from evergrow.monitoring.multivariate import ALL, Blocks, permutation_test

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """A feature's part in the mean absolute Shapley value of all, 0 … 1, in the reference and now."""

    feature: str
    reference: float
    now: float

    @property
    def moved(self) -> float:
        """Now less reference."""
        return self.now - self.reference


@dataclass(frozen=True)
class ExplanationDrift:
    """How far shares moved altogether, and each feature's, the one that moved most first."""

    comparison: Comparison
    shares: tuple[Share, ...]


def explanation_drift(
    reference: Floats,
    current: Floats,
    names: Sequence[str],
    *,
    blocks: Blocks | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> ExplanationDrift:
    """Compare which features scores come from, by the mean absolute Shapley values of rows then and now.

    Mean absolute values as a feature's importance: S. Lundberg et al., From local explanations to global understanding
    with explainable AI for trees, Nature Machine Intelligence 2, 2020. The effect ("attribution-share-tv") is the
    total variation distance between the two vectors of shares, ½ Σ |difference|: 0 where none moved, 1 where scores
    come from other features altogether. Where nothing is attributed at all, each share is 1/k.

    Args:
        reference: Shapley values, [n, k], as `evergrow.learning.shapley.shapley_values` gives them.
        current: the same of now, [m, k], against the same background.
        names: of the features, [k].
        blocks: blocks of time, which are permuted whole; None takes rows for exchangeable.
        permutations: at least 1; the p-value is no smaller than 1 / (permutations + 1).
        seed: of the permutations.

    Raises:
        NotEnoughData: a side has fewer than 2 blocks.
    """
    sums = _both_sums(reference, current, names, blocks)
    by_block, now = np.concatenate(sums), np.arange(sum(map(len, sums))) >= len(sums[0])
    effect, p_value = permutation_test(
        lambda deals: np.abs(shares(deals @ by_block) - shares((1 - deals) @ by_block)).sum(axis=1) / 2,
        now,
        permutations,
        np.random.default_rng(seed),
    )
    before, after = (shares(side.sum(axis=0)) for side in sums)
    order = np.argsort(-np.abs(after - before), kind="stable")
    return ExplanationDrift(
        Comparison(
            column=ALL,
            test="attribution-share-tv",
            effect=effect,
            p_value=p_value,
            rows=len(current),
            reference_rows=len(reference),
        ),
        tuple(Share(names[i], float(before[i]), float(after[i])) for i in order),
    )


def shares(totals: Floats) -> Floats:
    """Each feature's part in the sum, [..., k], equal parts where the sum is 0."""
    summed = totals.sum(axis=-1, keepdims=True)
    equal = np.full_like(totals, 1 / totals.shape[-1])
    parts: Floats = np.divide(totals, summed, out=equal, where=summed > 0)
    return parts


def _both_sums(
    reference: Floats, current: Floats, names: Sequence[str], blocks: Blocks | None
) -> tuple[Floats, Floats]:
    for name, values in (("reference", reference), ("current", current)):
        if values.ndim != 2 or values.shape[1] != len(names) or not np.isfinite(values).all():
            raise ValueError(f"`{name}` must be finite, [rows, {len(names)}], found shape {list(values.shape)}")
    of_reference, of_current = blocks or (np.arange(len(reference)), np.arange(len(current)))
    before, now = _sums(reference, of_reference), _sums(current, of_current)
    if min(len(before), len(now)) < 2:
        raise NotEnoughData(
            f"explanations: at least 2 blocks of each side are needed, found {min(len(before), len(now))}"
        )
    return before, now


def _sums(values: Floats, blocks: NDArray[np.intp]) -> Floats:
    """Absolute values summed by block, [blocks, k]."""
    if len(blocks) != len(values):
        raise ValueError(f"`blocks`: one per row of {len(values)} is needed, found {len(blocks)}")
    inside = np.unique(blocks, return_inverse=True)[1]
    sums = np.zeros((int(inside.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, inside, np.abs(values))
    return sums
