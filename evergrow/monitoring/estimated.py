"""Performance before labels arrive: what a metric will be of rows whose outcomes are not known yet.

A classifier's metrics follow from its scores, once these are probabilities: each label is a coin of known bias. A
regressor's loss is foreseen by a second model, of features and prediction. Both learn from matured outcomes, follow a
shift of the features as far as these outcomes reach, and are wrong once labels come to depend on features in another
way. `track_record` holds past estimates against what came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import stdtrit
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from evergrow.contracts import Metric, Task, Value, Verdict
from evergrow.errors import DataError, NotEnoughData
from evergrow.evaluation.metrics import LEVEL, MEASURES
from evergrow.learning.calibrate import calibrator, fit_calibration
from evergrow.learning.losses import row_losses
from evergrow.statistics.means import mean

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

FOLDS = 10
"""Stretches of time that are left out in turn, to know the error of what is fitted on the others."""
MINIMUM_ROWS, MINIMUM_BLOCKS = 200, 5
"""Matured outcomes without which nothing is estimated, and the days that they must come from."""
TREES = {"max_iter": 60, "max_leaf_nodes": 15, "min_samples_leaf": 20}
COVERED_AT_LEAST = 0.8
"""Share of days on which a 95 % interval must hold what was realised: less, and estimates deserve no trust."""
MINIMUM_DAYS = 3


@dataclass(frozen=True)
class Rows:
    """Answered predictions.

    Attributes:
        scores: probabilities or predicted numbers, [n].
        blocks: the day of each row, as any whole number that rises with time, [n].
        X: features as `evergrow.learning.vector.Vectoriser` gives them, [n, k]; a missing value is NaN, a
            categorical code is split on as a number. Needed for regression alone.
    """

    scores: Floats
    blocks: Ints
    X: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, part: NDArray[np.bool_]) -> Rows:
        return Rows(self.scores[part], self.blocks[part], None if self.X is None else self.X[part])


@dataclass(frozen=True)
class Expected:
    """A metric's expected value over some rows, and its variance by the chance of each row alone."""

    value: float
    variance: float


Predictor = Callable[[Rows], Floats]
"""Per row the probability of a positive, or the loss to expect."""
Expect = Callable[[Floats, Floats], Expected]
"""A metric's expectation from scores [n] and what a predictor says of them, [n]."""


@dataclass(frozen=True)
class Estimator:
    """Estimates one metric of rows without labels; made by `fit`.

    Attributes:
        metric: its name.
        predictors: the one fitted on all matured outcomes, then those fitted on all but one fold.
        expect: the metric's expectation.
        day_variance: variance of a day's realised metric about its estimate beyond the chance of its rows.
        freedom: degrees of freedom of the interval's Student t.
    """

    metric: str
    predictors: tuple[Predictor, ...]
    expect: Expect
    day_variance: float
    freedom: int

    def estimate(self, rows: Rows) -> Metric:
        """What the metric will be of `rows` once their labels are known, with a 95 % prediction interval.

        Its variance adds up the chance of the rows; of the days, taken for independent of each other; and of what
        was learnt from the matured outcomes, by leaving out one of g stretches after the other: (g - 1)/g Σ (θᵢ - θ̄)²,
        the delete-a-group jackknife, P. Kott, Journal of Official Statistics 17, 2001. Days as random effects and
        Student's t with days - 2 degrees of freedom: J. Higgins, S. Thompson & D. Spiegelhalter, A re-evaluation of
        random-effects meta-analysis, Journal of the Royal Statistical Society A 172, 2009.

        Raises:
            NotEnoughData: there are no rows, or the metric is not defined on what is expected of them.
        """
        if not len(rows):
            raise NotEnoughData(f"`rows`: at least 1 is needed to estimate {self.metric}, found 0")
        with threadpool_limits(limits=1):
            expected, *left_out = (self.expect(rows.scores, predict(rows)) for predict in self.predictors)
        if not math.isfinite(expected.value):
            raise NotEnoughData(f"`rows`: {self.metric} is not defined on what is expected of {len(rows):,} rows")
        shares = np.unique_counts(rows.blocks).counts / len(rows)
        learnt = (len(left_out) - 1) * float(np.var([e.value for e in left_out]))
        variance = expected.variance + self.day_variance * float(np.square(shares).sum()) + learnt
        reach = float(stdtrit(self.freedom, (1 + LEVEL) / 2)) * math.sqrt(variance)
        return self._metric(expected.value, reach, len(rows))

    def _metric(self, value: float, reach: float, rows: int) -> Metric:
        measure = MEASURES[self.metric]
        shown = np.array([value, value - reach, value + reach])
        if self.metric == "rmse":  # estimated as the mean squared error
            shown = np.sqrt(np.maximum(shown, 0))
        low, high = max(measure.low, float(shown[1])), min(measure.high, float(shown[2]))
        return Metric(name=self.metric, value=float(shown[0]), low=low, high=high, rows=rows)


def fit(task: Task, metric: str, outcomes: Rows, labels: Floats, *, seed: int = 0) -> Estimator:
    """Learn from matured outcomes how to estimate a metric of rows whose labels are to come.

    Args:
        task: of the model in service.
        metric: one of ESTIMABLE[task].
        outcomes: rows whose labels are known; of more than a few days, or the days' own chance is not known well.
        labels: [n].
        seed: of the trees that foresee a regressor's loss.

    Raises:
        NotEnoughData: fewer than MINIMUM_ROWS rows or MINIMUM_BLOCKS blocks, or one class only.
        DataError: a row's loss is not finite.
    """
    _check(task, metric, outcomes, labels)
    days = np.unique_inverse(outcomes.blocks).inverse_indices
    count = int(days.max()) + 1
    folds = days * min(FOLDS, count) // count  # neighbours in time, whose errors resemble each other, stay together
    with threadpool_limits(limits=1):
        if task == "regression":
            predictors, unseen, expect = _by_loss(_base(metric), outcomes, labels, folds, seed)
        else:
            predictors, unseen, expect = _by_confidence(metric, outcomes, labels, folds)
    variance = _day_variance(_base(metric), expect, outcomes, unseen, labels)
    return Estimator(metric, tuple(predictors), expect, variance, count - 2)


def _base(metric: str) -> str:
    return "squared_error" if metric == "rmse" else metric


def _check(task: Task, metric: str, outcomes: Rows, labels: Floats) -> None:
    if metric not in ESTIMABLE[task]:
        raise ValueError(f"`metric` must be one of {', '.join(ESTIMABLE[task])} for {task}, found {metric!r}")
    if task == "regression" and outcomes.X is None:
        raise ValueError("`outcomes.X` must hold the features of a regression's rows, found None")
    blocks = len(np.unique_values(outcomes.blocks))
    if len(outcomes) < MINIMUM_ROWS or blocks < MINIMUM_BLOCKS:
        raise NotEnoughData(
            f"matured outcomes: at least {MINIMUM_ROWS} rows of {MINIMUM_BLOCKS} blocks are needed to estimate "
            f"{metric}, found {len(outcomes):,} of {blocks}"
        )
    if task == "binary-classification" and len(np.unique_values(labels)) < 2:
        raise NotEnoughData(f"matured outcomes: both classes are needed, found {labels[0]:g} only")


def _day_variance(metric: str, expect: Expect, outcomes: Rows, unseen: Floats, labels: Floats) -> float:
    """By how much days miss their estimates beyond the chance of their rows: E(missed² - variance), ≥ 0.

    Estimates are cross-fitted: none has seen the day that it is held against. A day weighs as many rows as it has.

    Args:
        metric: the metric.
        expect: its expectation.
        outcomes: rows whose labels are known, [n].
        unseen: what the predictor that has not seen a row says of it, [n].
        labels: [n].
    """
    excess, rows = [], []
    for day in np.unique_values(outcomes.blocks):
        here = outcomes.blocks == day
        expected = expect(outcomes.scores[here], unseen[here])
        missed = MEASURES[metric].value(labels[here], outcomes.scores[here]) - expected.value
        if math.isfinite(missed):
            excess.append(missed**2 - expected.variance)
            rows.append(int(here.sum()))
    return max(0.0, float(np.average(excess, weights=rows))) if rows else 0.0


def _left_out(predictors: Sequence[Predictor], rows: Rows, folds: Ints) -> Floats:
    """What the predictor that has not seen a row says of it, [n]."""
    said = np.empty(len(rows))
    for fold, predict in enumerate(predictors):
        said[folds == fold] = predict(rows[folds == fold])
    return said


# Regression: the loss itself is foreseen.


def _by_loss(
    metric: str, outcomes: Rows, labels: Floats, folds: Ints, seed: int
) -> tuple[list[Predictor], Floats, Expect]:
    """Direct loss estimation: boosted trees of the loss of a row on its features and its prediction.

    As NannyML describes it (How it works, Estimation of performance of the monitored model). A row's loss varies
    about what is foreseen in proportion to it, as it does where noise has one shape and only its size changes.
    """
    losses = row_losses(metric, labels, outcomes.scores)
    if unusable := int((~np.isfinite(losses)).sum()):
        raise DataError(f"matured outcomes: {metric} must be finite, found {unusable:,} rows where it is not")
    parts = [folds >= 0, *(folds != fold for fold in range(int(folds.max()) + 1))]
    predictors = [_loss_model(outcomes[part], losses[part], seed) for part in parts]
    unseen = _left_out(predictors[1:], outcomes, folds)
    squares = float(np.square(unseen).sum())
    spread = float(np.square(losses - unseen).sum()) / squares if squares else 0.0
    return predictors, unseen, partial(_mean_of_losses, spread)


def _loss_model(rows: Rows, losses: Floats, seed: int) -> Predictor:
    scale = float(losses.mean())
    if not scale:
        return lambda rows: np.zeros(len(rows))
    # Poisson's deviance keeps what is foreseen above 0 and its mean right; it is indifferent to the unit but for
    # thresholds inside the trees, which suit numbers about 1.
    model = HistGradientBoostingRegressor(loss="poisson", random_state=seed, early_stopping=False, **TREES)
    X = _with_prediction(rows)
    model.fit(np.where(np.isnan(X).all(axis=0), 0.0, X), losses / scale)  # trees refuse a column without values
    return lambda rows: scale * np.asarray(model.predict(_with_prediction(rows)), dtype=np.float64)


def _with_prediction(rows: Rows) -> Floats:
    if rows.X is None:
        raise ValueError("`rows.X` must hold the features of a regression's rows, found None")
    return np.column_stack([rows.X, rows.scores]).astype(np.float64)


def _mean_of_losses(spread: float, scores: Floats, foreseen: Floats) -> Expected:
    return Expected(float(foreseen.mean()), spread * float(np.square(foreseen).sum()) / len(scores) ** 2)


# Classification: labels are coins, and scores, recalibrated, say how biased each is.


def _by_confidence(metric: str, outcomes: Rows, labels: Floats, folds: Ints) -> tuple[list[Predictor], Floats, Expect]:
    """Confidence-based estimation: of the calibrations, the one with the lowest cross-fitted log loss.

    J. Kivimäki, J. Białek, J. Nurminen & W. Kuberski, Confidence-based estimators for predictive performance in model
    monitoring, Journal of Artificial Intelligence Research, 2025.
    """
    parts = [folds >= 0, *(folds != fold for fold in range(int(folds.max()) + 1))]
    found = []
    for kind in ("none", "sigmoid", "isotonic"):
        predictors = [_calibrated(kind, outcomes.scores[part], labels[part]) for part in parts]
        unseen = _left_out(predictors[1:], outcomes, folds)
        found.append((float(row_losses("log_loss", labels, unseen).mean()), predictors, unseen))
    _, predictors, unseen = min(found, key=lambda candidate: candidate[0])
    return predictors, unseen, EXPECTED[metric]


def _calibrated(kind: str, scores: Floats, labels: Floats) -> Predictor:
    calibrate = calibrator(fit_calibration(kind, scores, labels))
    return lambda rows: calibrate(rows.scores)


def expected_loss(metric: str, scores: Floats, p: Floats) -> Expected:
    """A mean of row losses: p ℓ(1, s) + (1 - p) ℓ(0, s), and p (1 - p) (ℓ(1, s) - ℓ(0, s))² / n²; both exact."""
    one, zero = (row_losses(metric, np.full(len(scores), label), scores) for label in (1.0, 0.0))
    value = float((p * one + (1 - p) * zero).mean())
    return Expected(value, float((p * (1 - p) * np.square(one - zero)).sum()) / len(scores) ** 2)


def expected_roc_auc(scores: Floats, p: Floats) -> Expected:
    """The share of pairs in order among the pairs of a positive and a negative; both are sums over two rows.

    E Σ yᵢ (1 - yⱼ) k(sᵢ, sⱼ) is taken over i ≠ j: a row is no pair with itself.
    """
    _, group = np.unique(scores, return_inverse=True)
    positives, negatives = np.bincount(group, weights=p), np.bincount(group, weights=1 - p)
    below = (np.cumsum(negatives) - negatives / 2)[group] - (1 - p) / 2
    above = (positives.sum() - np.cumsum(positives) + positives / 2)[group] - p / 2
    pairs = float(p.sum() * (1 - p).sum() - (p * (1 - p)).sum())
    more_negatives = float((1 - 2 * p).sum())
    return _ratio(float((p * below).sum()), below - above, pairs, more_negatives - 1 + 2 * p, p)


def expected_average_precision(scores: Floats, p: Floats) -> Expected:
    """Σ tₖ Tₖ / nₖ over the number of positives; tₖ are those at the k-th highest score, Tₖ those of nₖ rows so far."""
    _, group = np.unique(-scores, return_inverse=True)
    at = np.bincount(group, weights=p)
    chance = np.bincount(group, weights=p * (1 - p))
    rows, so_far = np.cumsum(np.bincount(group)), np.cumsum(at)
    total = float(((at * so_far + chance) / rows).sum())
    later = np.cumsum((at / rows)[::-1])[::-1]
    return _ratio(total, (1 + so_far[group] - 2 * p) / rows[group] + later[group], float(p.sum()), np.ones(len(p)), p)


def _ratio(total: float, total_slope: Floats, count: float, count_slope: Floats, p: Floats) -> Expected:
    """Expectation of total / count to second order, its variance to first (delta method), for labels y ~ p.

    Args:
        total: its expectation.
        total_slope: derivative of that by each p, [n].
        count: expectation of the denominator.
        count_slope: derivative of that, [n].
        p: [n].
    """
    if count <= 0:
        return Expected(math.nan, math.nan)
    ratio, chance = total / count, p * (1 - p)
    slope = (total_slope - ratio * count_slope) / count
    return Expected(
        ratio - float((chance * slope * count_slope).sum()) / count, float((chance * np.square(slope)).sum())
    )


EXPECTED: Mapping[str, Expect] = {
    "log_loss": partial(expected_loss, "log_loss"),
    "brier": partial(expected_loss, "brier"),
    "roc_auc": expected_roc_auc,
    "average_precision": expected_average_precision,
}
ESTIMABLE: Mapping[Task, tuple[str, ...]] = {
    "binary-classification": tuple(EXPECTED),
    "regression": ("mae", "rmse", "squared_error", "poisson_deviance"),
}
"""Metrics that can be estimated: not the calibration's own error, nor what needs the spread of unseen labels (r2)."""


# Whether estimates deserve trust.


class TrackRecord(Value):
    """What estimates of past days were worth."""

    metric: str
    days: int
    bias: float = Field(description="mean of estimated - realised")
    mean_absolute_error: float
    covered: float = Field(description="share of days whose realised value lay in the interval")
    correlation: float | None = Field(
        description="of estimated with realised from day to day; None where one of them does not change"
    )
    verdict: Verdict


def track_record(estimates: Sequence[Metric], realised: Floats) -> TrackRecord:
    """Hold estimates, as they were made then, against what was realised later.

    The verdict is on the share of days that the intervals held: it passes if that is at least COVERED_AT_LEAST with
    95 % confidence, fails if it is below with 95 % confidence, and is inconclusive otherwise. Of the bounds for
    independent days (Clopper & Pearson, Biometrika 26, 1934) and for days that resemble their neighbours
    (`evergrow.statistics.means`), the more careful one counts. Without a single miss, 14 days suffice to pass.

    Args:
        estimates: of one metric, one a day, in order of time.
        realised: the metric once the labels were known, [d]; NaN where it is not, and such days do not count.

    Raises:
        NotEnoughData: fewer than MINIMUM_DAYS days.
    """
    known = np.isfinite(realised)
    made, came = [e for e, k in zip(estimates, known, strict=True) if k], realised[known]
    if len(made) < MINIMUM_DAYS:
        raise NotEnoughData(f"`realised`: at least {MINIMUM_DAYS} days must be known, found {len(made)}")
    values = np.array([e.value for e in made])
    held = np.array([e.low <= r <= e.high for e, r in zip(made, came, strict=True)])
    return TrackRecord(
        metric=made[0].name,
        days=len(made),
        bias=float((values - came).mean()),
        mean_absolute_error=float(np.abs(values - came).mean()),
        covered=float(held.mean()),
        correlation=_correlation(values, came),
        verdict=_trust(held),
    )


def _correlation(a: Floats, b: Floats) -> float | None:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _trust(held: NDArray[np.bool_]) -> Verdict:
    from scipy.stats import binomtest

    share, alpha = mean(held.astype(np.float64), np.arange(len(held))), 0.05
    exact = binomtest(int(held.sum()), len(held)).proportion_ci(1 - 2 * alpha)
    low, high = min(share.lower(alpha), exact.low), max(share.upper(alpha), exact.high)
    seen = f"{int(held.sum())} of {len(held)} days lay in their intervals ({share.value:.0%})"
    if low >= COVERED_AT_LEAST:
        return Verdict(outcome="pass", reason=f"{seen}: at least {low:.0%}, and {COVERED_AT_LEAST:.0%} are asked for")
    if high < COVERED_AT_LEAST:
        return Verdict(outcome="fail", reason=f"{seen}: at most {high:.0%}, and {COVERED_AT_LEAST:.0%} are asked for")
    return Verdict(
        outcome="inconclusive",
        reason=f"{seen}: between {low:.0%} and {high:.0%}, too little to tell from {COVERED_AT_LEAST:.0%}",
    )
