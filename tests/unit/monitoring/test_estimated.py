import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from evergrow.contracts import Metric
from evergrow.errors import DataError, NotEnoughData
from evergrow.evaluation.metrics import MEASURES
from evergrow.monitoring.estimated import ESTIMABLE, EXPECTED, Rows, fit, track_record
from evergrow.spec.model import METRICS

LATE, DELAY = "binary-classification", "regression"


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def late(seed, days=30, rows=100, *, day=0.0, steep=1.0, shift=0.0, spread=1.0, harm=0.0):
    """Scored rows and their labels; `day` and `harm` act on the labels alone, `steep` on the scores alone."""
    random = np.random.default_rng(seed)
    blocks = np.repeat(np.arange(days), rows)
    odds = -1 + 1.2 * random.normal(shift, spread, len(blocks))
    truth = sigmoid((1 - harm) * odds + random.normal(0, day, days)[blocks])
    return Rows(sigmoid(steep * odds), blocks), (random.random(len(blocks)) < truth).astype(float)


def delays(seed, days=20, rows=100, *, wind=1.0, harm=1.0):
    """Predictions and labels whose noise grows with the wind; half of the wind is missing where it is calm."""
    random = np.random.default_rng(seed)
    blocks = np.repeat(np.arange(days), rows)
    X = np.column_stack([random.gamma(2, wind, len(blocks)), random.normal(size=len(blocks))])
    noise = harm * (0.5 + X[:, 0]) * random.normal(size=len(blocks))
    X[(X[:, 0] < 0.5) & (random.random(len(blocks)) < 0.5), 0] = np.nan
    return Rows(20 + X[:, 1], blocks, X.astype(np.float32)), 20 + X[:, 1] + noise


def by_enumeration(metric, scores, p):
    """Mean and variance of a metric over all label vectors on which it is defined."""
    values, weights = [], []
    for labels in itertools.product((0.0, 1.0), repeat=len(p)):
        y = np.array(labels)
        values.append(MEASURES[metric].value(y, scores))
        weights.append(np.prod(np.where(y > 0, p, 1 - p)))
    values, weights = np.array(values), np.array(weights)
    defined = np.isfinite(values)
    values, weights = values[defined], weights[defined] / weights[defined].sum()
    mean = (weights * values).sum()
    return mean, (weights * (values - mean) ** 2).sum()


def realised(metric, rows, labels):
    return MEASURES[metric].value(labels, rows.scores)


@pytest.mark.parametrize(("metric", "near"), [("log_loss", 1e-12), ("brier", 1e-12), ("roc_auc", 1e-3)])
@pytest.mark.parametrize("decimals", [1, 3])
def test_the_expectation_is_that_over_all_label_vectors(metric, near, decimals):
    random = np.random.default_rng(0)
    scores, p = random.uniform(0.05, 0.95, 12).round(decimals), random.uniform(0.2, 0.8, 12)
    mean, variance = by_enumeration(metric, scores, p)
    found = EXPECTED[metric](scores, p)
    assert found.value == pytest.approx(mean, abs=near)
    assert found.variance == pytest.approx(variance, rel=max(near, 0.1) if near > 1e-9 else 1e-9)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_the_expectation_of_a_ratio_is_that_of_simulated_labels(metric):
    random = np.random.default_rng(1)
    p = random.beta(1, 4, 300)
    scores = np.clip(p + random.normal(0, 0.1, 300), 0.01, 0.99).round(2)  # with ties, and not the probabilities
    labels = (random.random((4000, 300)) < p).astype(float)
    drawn = np.array([MEASURES[metric].value(y, scores) for y in labels])
    found = EXPECTED[metric](scores, p)
    assert found.value == pytest.approx(drawn.mean(), abs=4 * drawn.std() / np.sqrt(4000))
    assert found.variance == pytest.approx(drawn.var(), rel=0.1)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 9)), min_size=2, max_size=30))
def test_where_labels_are_certain_the_expectation_is_the_metric(rows):
    y, scores = np.array(rows, dtype=float).T
    if 0 < y.sum() < len(y):
        for metric, expect in EXPECTED.items():
            found = expect(scores / 10, y)
            assert found.value == pytest.approx(MEASURES[metric].value(y, scores / 10), abs=1e-12)
            assert found.variance == 0


def test_every_metric_of_the_document_can_be_estimated_but_calibration_and_r2():
    for task, names in METRICS.items():
        assert set(names) - set(ESTIMABLE[task]) == {"calibration_error"} & set(names) | {"r2"} & set(names)


@pytest.mark.parametrize("metric", ESTIMABLE[LATE])
def test_nineteen_of_twenty_intervals_hold_what_is_realised(metric):
    held, runs = 0, 30
    for run in range(runs):
        outcomes, labels = late(run, days=20, day=0.4, steep=1.5)
        today, came = late(1000 + run, days=1, rows=150, day=0.4, steep=1.5)
        estimate = fit(LATE, metric, outcomes, labels).estimate(today)
        held += estimate.low <= realised(metric, today, came) <= estimate.high
    assert held >= binom.ppf(0.001, runs, 0.95)


@pytest.mark.parametrize("metric", ESTIMABLE[LATE])
def test_the_estimate_follows_a_covariate_shift(metric):
    outcomes, labels = late(1, days=60)
    shifted, came = late(2, days=20, rows=400, shift=1.0, spread=0.6)
    estimate = fit(LATE, metric, outcomes, labels).estimate(shifted)
    truth, before = realised(metric, shifted, came), realised(metric, outcomes, labels)
    assert estimate.low <= truth <= estimate.high
    assert abs(estimate.value - truth) < 0.3 * abs(before - truth)


def test_overconfident_scores_are_recalibrated():
    outcomes, labels = late(3, days=60, steep=2.5)
    today, came = late(4, days=20, rows=400, steep=2.5)
    truth = realised("log_loss", today, came)
    taken_at_their_word = EXPECTED["log_loss"](today.scores, today.scores).value
    assert taken_at_their_word < truth - 0.1
    assert fit(LATE, "log_loss", outcomes, labels).estimate(today).value == pytest.approx(truth, abs=0.03)


def test_calibrated_scores_are_mostly_left_as_they_are():
    today, _ = late(6, days=1)
    left = [np.array_equal(fit(LATE, "brier", *late(i, days=60)).predictors[0](today), today.scores) for i in range(8)]
    assert sum(left) >= 5


def test_days_that_differ_beyond_chance_widen_the_interval_and_many_of_them_narrow_it():
    alike, differing = (fit(LATE, "log_loss", *late(7, day=day)) for day in (0.0, 0.8))
    today, month = late(8, days=1, rows=3000)[0], late(8, days=30, rows=100)[0]
    assert differing.day_variance > 5 * alike.day_variance

    def width(estimator, rows):
        found = estimator.estimate(rows)
        return found.high - found.low

    assert width(differing, today) > 2 * width(alike, today)
    assert width(differing, month) < 0.5 * width(differing, today)


def test_fewer_matured_outcomes_teach_less():
    today, _ = late(10, days=30, rows=2000, steep=2)
    few, many = (fit(LATE, "log_loss", *late(9, days=days, rows=40, steep=2)).estimate(today) for days in (8, 300))
    assert few.high - few.low > 2 * (many.high - many.low)


@pytest.mark.parametrize("metric", ESTIMABLE[DELAY])
def test_a_regressors_loss_is_foreseen_where_its_noise_is_another(metric):
    outcomes, labels = delays(1, days=40)
    stormy, came = delays(2, days=4, rows=250, wind=1.5)
    positive = np.maximum(labels, 0), np.maximum(came, 0)  # as the deviance asks for
    estimate = fit(DELAY, metric, outcomes, positive[0]).estimate(stormy)
    truth, before = realised(metric, stormy, positive[1]), realised(metric, outcomes, positive[0])
    assert estimate.low <= truth <= estimate.high
    assert estimate.value - before > 0.5 * (truth - before) > 0


def test_nineteen_of_twenty_intervals_hold_a_regressors_loss():
    held, runs = 0, 4
    for run in range(runs):
        estimator = fit(DELAY, "mae", *delays(run, days=9, rows=50), seed=run)
        for day in range(6):
            today, came = delays(10_000 + 10 * run + day, days=1)
            estimate = estimator.estimate(today)
            held += estimate.low <= realised("mae", today, came) <= estimate.high
    assert held >= binom.ppf(0.001, 6 * runs, 0.95)


def test_the_same_seed_gives_the_same_estimate():
    outcomes, labels = delays(3, days=6, rows=60)
    first, second = (fit(DELAY, "mae", outcomes, labels, seed=5).estimate(outcomes) for _ in range(2))
    assert first == second


def test_a_feature_that_has_no_values_yet_does_not_matter():
    outcomes, labels = delays(5, days=5, rows=60)
    nothing = np.full((len(outcomes), 1), np.nan, dtype=np.float32)
    more = Rows(outcomes.scores, outcomes.blocks, np.hstack([outcomes.X, nothing]))
    assert fit(DELAY, "mae", more, labels).estimate(more) == fit(DELAY, "mae", outcomes, labels).estimate(outcomes)


def test_a_perfect_regressor_is_foreseen_to_stay_so():
    outcomes, _ = delays(4, days=5, rows=60)
    found = fit(DELAY, "rmse", outcomes, outcomes.scores).estimate(outcomes)
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize(("days", "rows"), [(4, 100), (10, 19)])
def test_too_few_matured_outcomes_are_refused(days, rows):
    with pytest.raises(NotEnoughData, match=f"at least 200 rows of 5 blocks .* found {days * rows} of {days}"):
        fit(LATE, "brier", *late(0, days=days, rows=rows))


def test_outcomes_of_one_class_are_refused():
    outcomes, labels = late(0)
    with pytest.raises(NotEnoughData, match="both classes are needed, found 0 only"):
        fit(LATE, "brier", outcomes, 0 * labels)


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(ValueError, match="must be one of log_loss, .* found 'calibration_error'"):
        fit(LATE, "calibration_error", *late(0))
    with pytest.raises(ValueError, match="X` must hold the features"):
        fit(DELAY, "mae", *late(0))
    outcomes, labels = delays(0)
    with pytest.raises(DataError, match="must be finite, found 2,000 rows"):
        fit(DELAY, "poisson_deviance", Rows(-outcomes.scores, outcomes.blocks, outcomes.X), labels)


def test_no_rows_and_rows_on_which_the_metric_is_undefined_have_no_estimate():
    estimator = fit(LATE, "roc_auc", *late(0))
    today, _ = late(1)
    with pytest.raises(NotEnoughData, match="found 0"):
        estimator.estimate(today[today.scores > 2])
    with pytest.raises(NotEnoughData, match="not defined"):
        estimator.estimate(today[np.arange(len(today)) == 0])


# What estimates were worth.


def history(days, harm_from=None, seed=1):
    """A day after the other estimated from 60 matured ones; from some day on, labels depend on features less."""
    outcomes, labels = late(seed, days=60, day=0.1)
    estimator = fit(LATE, "log_loss", outcomes, labels)
    made, came = [], []
    for day in range(days):
        harm = 0.9 if harm_from is not None and day >= harm_from else 0.0
        today, y = late(500 + 100 * seed + day, days=1, rows=300, harm=harm, day=0.1, shift=np.sin(day))
        made.append(estimator.estimate(today))
        came.append(realised("log_loss", today, y))
    return made, np.array(came)


def test_estimates_that_came_true_are_trusted_and_those_after_a_change_of_concept_are_not():
    right, wrong = track_record(*history(30)), track_record(*history(30, harm_from=0))
    assert right.verdict.outcome == "pass"
    assert "80%" in right.verdict.reason
    assert abs(right.bias) < 0.02
    assert right.correlation > 0.8
    assert wrong.verdict.outcome == "fail"
    assert wrong.bias < -0.05
    assert wrong.covered < 0.5 < right.covered


def test_few_days_tell_nothing_whatever_they_show():
    assert track_record(*history(10)).verdict.outcome == "inconclusive"


def days(held):
    """A record of days with an interval of 0 … 1, inside which the realised value lay or not."""
    made = [Metric(name="brier", value=0.5, low=0, high=1, rows=10) for _ in held]
    return made, np.where(held, 0.25, 1.5)


@pytest.mark.parametrize(
    ("held", "outcome"),
    [
        ([True] * 14, "pass"),
        ([True] * 13, "inconclusive"),
        (([True] * 29 + [False]) * 2, "pass"),
        ([True, False] * 20, "fail"),
        ([True] * 20 + [False] * 20, "inconclusive"),  # one spell, not forty independent days
        ([False] * 5, "fail"),
    ],
)
def test_the_verdict_is_on_the_share_of_days_in_their_intervals(held, outcome):
    assert track_record(*days(held)).verdict.outcome == outcome


def test_the_record_sums_up_what_was_estimated_and_realised():
    found = track_record(*days([True, True, False, True]))
    assert (found.days, found.covered, found.correlation) == (4, 0.75, None)
    assert found.bias == pytest.approx(np.mean([0.25, 0.25, -1, 0.25]))
    assert found.mean_absolute_error == pytest.approx(np.mean([0.25, 0.25, 1, 0.25]))


def test_days_whose_labels_are_not_known_yet_do_not_count():
    made, came = days([True] * 5)
    assert track_record(made, np.append(came[:4], np.nan)).days == 4
    with pytest.raises(NotEnoughData, match="at least 3 days must be known, found 1"):
        track_record(made, np.append(came[:1], [np.nan] * 4))
