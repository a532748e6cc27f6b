import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from evergrow.evaluation.metrics import MEASURES, measure
from evergrow.spec.model import METRICS, ROW_LOSSES

RANDOM = np.random.default_rng(0)
P = RANDOM.beta(2, 5, 3000)
LATE = (RANDOM.random(3000) < P).astype(float)
COUNT, RATE = RANDOM.poisson(3, 3000).astype(float), RANDOM.uniform(0.1, 9, 3000)
DAYS = np.repeat(np.arange(30), 100)


@pytest.mark.parametrize(
    ("name", "oracle", "y", "scores"),
    [
        ("log_loss", metrics.log_loss, LATE, P),
        ("brier", metrics.brier_score_loss, LATE, P),
        ("roc_auc", metrics.roc_auc_score, LATE, P),
        ("average_precision", metrics.average_precision_score, LATE, P),
        ("roc_auc", metrics.roc_auc_score, LATE, P.round(1)),
        ("average_precision", metrics.average_precision_score, LATE, P.round(1)),
        ("mae", metrics.mean_absolute_error, COUNT, RATE),
        ("rmse", metrics.root_mean_squared_error, COUNT, RATE),
        ("r2", metrics.r2_score, COUNT, RATE),
        ("poisson_deviance", metrics.mean_poisson_deviance, COUNT, RATE),
    ],
)
def test_a_metric_is_scikit_learns_with_and_without_ties(name, oracle, y, scores):
    found = measure(name, y, scores, DAYS)
    assert found.value == pytest.approx(oracle(y, scores), rel=1e-9)
    assert found.low < found.value < found.high
    assert found.rows == 3000


def test_every_metric_of_the_document_is_there():
    for names in (*METRICS.values(), *ROW_LOSSES.values()):
        assert set(names) <= set(MEASURES)


def test_calibration_error_is_the_deciles_mean_gap():
    order = np.argsort(P)
    by_hand = np.mean([abs(P[part].mean() - LATE[part].mean()) for part in np.array_split(order, 10)])
    assert MEASURES["calibration_error"].value(LATE, P) == pytest.approx(by_hand, rel=1e-9)


def test_a_constant_score_is_off_by_its_distance_from_the_share_of_positives():
    assert MEASURES["calibration_error"].value(LATE, np.full(3000, 0.9)) == pytest.approx(0.9 - LATE.mean())


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.1, 0.2, 0.5, 0.9])), min_size=2, max_size=40))
def test_the_area_under_the_curve_counts_pairs(pairs):
    y, scores = (np.array(column) for column in zip(*pairs, strict=True))
    wins = [(a > b) + 0.5 * (a == b) for a in scores[y == 1] for b in scores[y == 0]]
    found = MEASURES["roc_auc"].value(y, scores)
    assert found == pytest.approx(np.mean(wins)) if wins else np.isnan(found)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "r2"])
def test_a_metric_that_is_not_defined_is_left_out(name):
    assert measure(name, np.zeros(100), np.linspace(0.1, 1, 100), np.repeat(np.arange(10), 10)) is None


def test_a_metric_over_one_block_has_no_interval_and_is_left_out():
    assert measure("log_loss", LATE, P, np.zeros(3000, dtype=int)) is None


@pytest.mark.parametrize("name", ["log_loss", "roc_auc", "average_precision"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(name):
    random = np.random.default_rng(1)

    def draw(days):
        scores = random.beta(2, 5, days * 50)
        return (random.random(days * 50) < scores).astype(float), scores

    truth = MEASURES[name].value(*draw(20_000))
    found = [measure(name, *draw(30), np.repeat(np.arange(30), 50)) for _ in range(300)]
    held = np.mean([m.low <= truth <= m.high for m in found])
    # 95 % less the 99.9 % binomial bound; days are independent here, for which intervals are wider than need be.
    assert 0.91 <= held <= 0.995


def test_an_interval_stays_within_the_metrics_range():
    y = np.tile([0.0, 1.0], 50)
    noisy = np.where(np.arange(100) % 17, y, 1 - y) * 0.8 + 0.1
    found = measure("roc_auc", y, noisy, np.repeat(np.arange(10), 10))
    assert found.high <= 1.0
