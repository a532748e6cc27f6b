"""Drift of features together, which none of them need show by itself: two tests of whole rows.

Rows of one day resemble each other. Where a row's block of time is given, whole blocks are what the tests hold for
exchangeable: no block is on both sides of a fit, and a p-value is that of blocks dealt anew to now and reference.
A comparison counts the rows that were compared, after thinning out, whatever is missing in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial.distance import pdist, squareform
from scipy.special import ndtr
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.inspection import permutation_importance
from threadpoolctl import threadpool_limits

from evergrow.contracts import Comparison, Feature
from evergrow.errors import NotEnoughData
from evergrow.learning.vector import level

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]
Blocks = tuple[Ints, Ints]
"""The block of time of each row of the reference and of now: any whole numbers; no block is in both."""

ALL = "*"
"""The column of a comparison that is about all of them."""
PARTS = 5
"""A classifier is fitted on the first part, on the first two … and asked about the next."""
TREES = {"max_iter": 50, "max_leaf_nodes": 15, "min_samples_leaf": 10}
MOST_CODES, MOST_COLUMNS = 254, 50
"""Levels of a categorical feature that trees, and the kernel, tell apart; all rarer ones are one level."""
AT_ONCE = 100
"""Permutations that are in memory at once."""


@dataclass(frozen=True)
class Sample:
    """Rows of both sides, the reference's first.

    Attributes:
        rows: the features, [n, k].
        block: each row's block, 0 … m - 1, [n].
        current: whether a block is of now, [m].
    """

    rows: pd.DataFrame
    block: Ints
    current: Bools

    @property
    def of_now(self) -> Bools:
        """Whether each row is of now, [n]."""
        return self.current[self.block]

    def comparison(self, test: str, effect: float, p_value: float) -> Comparison:
        """What a test found, as a comparison of all columns."""
        now = int(self.of_now.sum())
        return Comparison(
            column=ALL, test=test, effect=effect, p_value=p_value, rows=now, reference_rows=len(self.block) - now
        )


@dataclass(frozen=True)
class ToldApart:
    """How well a classifier tells now from the reference, and by which features.

    Attributes:
        comparison: of all columns.
        importance: by how much the AUC falls when a feature is shuffled, largest first. A feature that says what
            another one says, too, has little.
    """

    comparison: Comparison
    importance: tuple[tuple[str, float], ...]


def classifier_test(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    features: Sequence[Feature],
    *,
    blocks: Blocks | None = None,
    most_rows: int = 5000,
    seed: int = 0,
) -> ToldApart:
    """Classifier two-sample test: how well boosted trees tell a row of now from one of the reference.

    D. Lopez-Paz & M. Oquab, Revisiting classifier two-sample tests, ICLR 2017. The effect ("c2st-auc") is AUC - 0.5
    over rows not fitted on: about 0 where nothing differs, 0.5 where every row gives itself away.

    Blocks are dealt at random to PARTS parts, each with its share of both sides, and a part is scored by a classifier
    fitted on the parts before it. Given those, and if nothing differs, which of the part's blocks are of now is a
    matter of chance, so its rank sum has mean 0 and a known variance; rank sums of successive parts are martingale
    differences, hence uncorrelated, and their sum over its standard deviation is about normal. (Out-of-fold scores of
    ordinary cross-validation are not so: two folds teach each other the same coincidence, which is counted twice.)

    Args:
        reference: has a column for each of `features`; a missing value is NaN or None.
        current: the same of now.
        features: at least one.
        blocks: of both; None takes rows for independent.
        most_rows: of each side; more are thinned out evenly.
        seed: of the sample, the parts and the trees.

    Raises:
        NotEnoughData: a side has fewer than PARTS blocks.
    """
    random = np.random.default_rng(seed)
    sample = draw(reference, current, features, blocks, most_rows, PARTS, random)
    X, part = codes(sample.rows, features), _deal(sample.current, random)[sample.block]
    categorical = [feature.kind == "categorical" for feature in features]
    with threadpool_limits(limits=1):
        found = [_told(sample, X, categorical, part, number, seed) for number in range(1, PARTS)]
    summed, variance, pairs, importance = (np.stack(values) for values in zip(*found, strict=True))
    z = float(summed.sum() / math.sqrt(variance.sum())) if variance.sum() else -math.inf
    mean = np.average(importance, axis=0, weights=pairs)
    return ToldApart(
        sample.comparison("c2st-auc", float(summed.sum() / pairs.sum()), float(ndtr(-z))),
        tuple((features[i].name, float(mean[i])) for i in np.argsort(-mean, kind="stable")),
    )


def _deal(current: Bools, random: np.random.Generator) -> Ints:
    """The part of each block, 0 … PARTS - 1, [m]; parts have the same number of blocks of each side, or one more."""
    part = np.empty(len(current), dtype=np.intp)
    for side in (current, ~current):
        part[side] = random.permutation(int(side.sum())) % PARTS
    return part


def _told(
    sample: Sample, X: Floats, categorical: Sequence[bool], part: Ints, number: int, seed: int
) -> tuple[float, float, int, Floats]:
    """Rank sum of a part, its variance, its pairs of both sides, and how much each feature counts there, [k]."""
    now, before, here = sample.of_now, part < number, part == number
    model = HistGradientBoostingClassifier(
        categorical_features=categorical, early_stopping=False, random_state=seed, **TREES
    )
    seen = X[before]
    model.fit(np.where(np.isnan(seen).all(axis=0), 0.0, seen), now[before])  # trees refuse a column without values
    scores = model.predict_proba(X[here])[:, 1]
    summed, variance = rank_sum(scores, sample.block[here], sample.current)
    shuffled = permutation_importance(model, X[here], now[here], scoring="roc_auc", n_repeats=1, random_state=seed)
    pairs = int(now[here].sum()) * int((~now[here]).sum())
    return summed, variance, pairs, shuffled.importances_mean


def rank_sum(scores: Floats, block: Ints, current: Bools) -> tuple[float, float]:
    """Sum of the centred ranks of now's rows, and its variance if blocks were dealt to the sides by chance.

    The sum is that of H. Mann & D. Whitney, Annals of Mathematical Statistics 18, 1947, less its mean: (AUC - 0.5)
    times the pairs. It adds up one number a block, of which m₁ of m are drawn without replacement: its variance is
    m₁ m₀ / (m (m - 1)) Σ c². With a row a block that is the rank-sum test's, ties included.

    Args:
        scores: [n].
        block: each row's, [n].
        current: whether a block is of now; blocks without rows do not count.
    """
    from scipy.stats import rankdata

    present, inside = np.unique(block, return_inverse=True)
    sums = np.bincount(inside, weights=rankdata(scores) - (len(scores) + 1) / 2)
    now, count = current[present], len(present)
    drawn = int(now.sum()) * int((~now).sum()) / (count * (count - 1))
    return float(sums[now].sum()), drawn * float(np.square(sums - sums.mean()).sum())


def kernel_test(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    features: Sequence[Feature],
    *,
    blocks: Blocks | None = None,
    most_rows: int = 1000,
    permutations: int = 999,
    seed: int = 0,
) -> Comparison:
    """Maximum mean discrepancy with a Gaussian kernel, squared and unbiased ("mmd2"): about 0 where nothing differs.

    A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf & A. Smola, A kernel two-sample test, Journal of Machine Learning
    Research 13, 2012: mean kernel within now, plus within the reference, minus twice across. Its width is the median
    distance. Pairs within one block are left out, as there a row with itself is: what a day's rows have in common is
    no drift. The p-value is that of `permutation_test`.

    Args:
        reference: has a column for each of `features`; a missing value is NaN or None.
        current: the same of now.
        features: at least one; see `as_numbers` for what becomes of them.
        blocks: of both; None takes rows for independent.
        most_rows: of each side; more are thinned out evenly. Time and memory go with its square.
        permutations: at least 1; the p-value is no smaller than 1 / (permutations + 1).
        seed: of the sample and the permutations.

    Raises:
        NotEnoughData: a side has fewer than 2 blocks.
    """
    random = np.random.default_rng(seed)
    sample = draw(reference, current, features, blocks, most_rows, 2, random)
    belongs = csr_array((np.ones(len(sample.block)), (sample.block, np.arange(len(sample.block)))))
    sizes = np.bincount(sample.block).astype(np.float64)
    with threadpool_limits(limits=1):
        similar = np.asarray(belongs @ gaussian_kernel(as_numbers(sample.rows, features)) @ belongs.T)
        pairs = np.outer(sizes, sizes)
        np.fill_diagonal(similar, 0)
        np.fill_diagonal(pairs, 0)

        def squared_mmd(now: Floats) -> Floats:
            within, other, across = (
                a / b for a, b in zip(_sums_of_pairs(similar, now), _sums_of_pairs(pairs, now), strict=True)
            )
            return within + other - 2 * across

        effect, p_value = permutation_test(squared_mmd, sample.current, permutations, random)
    return sample.comparison("mmd2", effect, p_value)


def _sums_of_pairs(matrix: Floats, now: Floats) -> tuple[Floats, Floats, Floats]:
    """Sums of a symmetric matrix [m, m] over pairs within now, within the reference, and across; each [p].

    Args:
        matrix: a number per pair.
        now: 1 where a block is of now, else 0, [p, m].
    """
    rows = now @ matrix
    within = np.einsum("pm,pm->p", rows, now)
    across = rows.sum(axis=1) - within
    return within, float(matrix.sum()) - within - 2 * across, across


def gaussian_kernel(X: Floats) -> Floats:
    """exp(-d² / 2w²) of each two rows, w the median distance, [n, n]; 0 on the diagonal, which no pair is on."""
    squares = pdist(X, "sqeuclidean")
    width = float(np.median(squares)) or float(squares.mean()) or 1.0
    kernel: Floats = squareform(np.exp(-squares / (2 * width)))
    return kernel


def permutation_test(
    statistic: Callable[[Floats], Floats], current: Bools, permutations: int, random: np.random.Generator
) -> tuple[float, float]:
    """A statistic, and the share of random deals of the blocks to both sides whose statistic is as large.

    The deal that was made counts as one: B. Phipson & G. Smyth, Permutation p-values should never be zero, Statistical
    Applications in Genetics and Molecular Biology 9, 2010. Exact if blocks are exchangeable.

    Args:
        statistic: of deals [p, m], 1 where a block is of now; gives [p].
        current: the deal that was made, [m].
        permutations: at least 1.
        random: what deals.
    """
    if permutations < 1:
        raise ValueError(f"`permutations` must be at least 1, found {permutations}")
    made = float(statistic(current[None].astype(np.float64))[0])
    close = 1e-9 * abs(made)  # the same deal's sums in another order
    as_large = sum(int((statistic(deals) >= made - close).sum()) for deals in _deals(current, permutations, random))
    return made, (1 + as_large) / (1 + permutations)


def _deals(current: Bools, permutations: int, random: np.random.Generator) -> Iterator[Floats]:
    for first in range(0, permutations, AT_ONCE):
        rows = min(AT_ONCE, permutations - first)
        yield random.permuted(np.tile(current.astype(np.float64), (rows, 1)), axis=1)


def draw(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    features: Sequence[Feature],
    blocks: Blocks | None,
    most_rows: int,
    least_blocks: int,
    random: np.random.Generator,
) -> Sample:
    """At most so many rows of each side, evenly spread from a random start (systematic sampling).

    Raises:
        NotEnoughData: a side has fewer than `least_blocks` blocks.
    """
    if not features:
        raise ValueError("`features` must name at least one, found none")
    names, frames, numbers = [f.name for f in features], [], []
    given = blocks or (np.arange(len(reference)), np.arange(len(current)))
    for side, frame, block in zip(("reference", "current"), (reference, current), given, strict=True):
        if len(block) != len(frame):
            raise ValueError(f"`blocks`: one per row of the {side}'s {len(frame)} is needed, found {len(block)}")
        kept = _spread(len(frame), most_rows, random)
        frames.append(frame[names].iloc[kept])
        numbers.append(np.unique(block[kept], return_inverse=True)[1])
        count = len(np.unique(numbers[-1]))
        if count < least_blocks:
            raise NotEnoughData(f"{side}: at least {least_blocks} blocks are needed, found {count}")
    first = int(numbers[0].max()) + 1
    block = np.concatenate([numbers[0], first + numbers[1]])
    return Sample(pd.concat(frames, ignore_index=True), block, np.arange(int(block.max()) + 1) >= first)


def _spread(rows: int, most: int, random: np.random.Generator) -> Ints:
    if rows <= most:
        return np.arange(rows)
    return np.floor((np.arange(most) + random.random()) * rows / most).astype(np.intp)


def codes(rows: pd.DataFrame, features: Sequence[Feature]) -> Floats:
    """Numbers as they are and categorical levels as codes, [n, k]; missing is NaN, and so is what is not finite."""
    columns = [_numbers(rows[f.name]) if f.kind == "numeric" else _codes(rows[f.name], MOST_CODES) for f in features]
    return np.column_stack(columns)


def as_numbers(rows: pd.DataFrame, features: Sequence[Feature]) -> Floats:
    """Columns whose distances mean something, [n, c], made of both sides alike.

    A number is standardised, its gaps filled by the median and shown by a column of their own; a level, and a missing
    one, is a column of 0 and 1. So a feature adds about 2 to the squared distance of two rows, whatever its unit.
    """
    columns: list[Floats] = []
    for feature in features:
        if feature.kind == "numeric":
            columns += _standardised(_numbers(rows[feature.name]))
        else:
            code = np.nan_to_num(_codes(rows[feature.name], MOST_COLUMNS), nan=-1)
            columns += [(code == value).astype(np.float64) for value in np.unique(code)]
    return np.column_stack(columns)


def _standardised(values: Floats) -> list[Floats]:
    missing = np.isnan(values)
    filled = np.where(missing, 0.0 if missing.all() else np.nanmedian(values), values)
    spread = float(filled.std())
    scaled = (filled - filled.mean()) / (spread or 1.0)
    return [scaled, missing.astype(np.float64)] if missing.any() else [scaled]


def _numbers(column: pd.Series[Any]) -> Floats:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def _codes(column: pd.Series[Any], most: int) -> Floats:
    """Codes of the levels, the most frequent first; all beyond `most` - 1 share one, missing is NaN."""
    named = pd.Series([level(value) for value in column], dtype=object)
    by_rows = named.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    code = {name: float(min(i, most - 1)) for i, name in enumerate(by_rows.index)}
    return named.map(code).to_numpy(dtype=np.float64, na_value=np.nan)
