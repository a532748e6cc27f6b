import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from evergrow.evaluation import curves

RANDOM = np.random.default_rng(0)
P = RANDOM.beta(2, 5, 5000)
LATE = (RANDOM.random(5000) < P).astype(float)


def test_every_point_of_the_roc_curve_is_where_its_threshold_says():
    curve = curves.roc(LATE, P)
    for fpr, tpr, threshold in zip(*curve.values(), strict=True):
        assert np.mean(P[LATE == 0] >= threshold) == pytest.approx(fpr)
        assert np.mean(P[LATE == 1] >= threshold) == pytest.approx(tpr)


def test_the_roc_curve_is_finite_short_and_spans_the_square():
    curve = curves.roc(LATE, P)
    assert np.isfinite(curve["thresholds"]).all()
    assert len(curve["fpr"]) <= 200
    assert (curve["fpr"][0], curve["tpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 0, 1, 1)
    area = np.trapezoid(curve["tpr"], curve["fpr"])
    assert area == pytest.approx(metrics.roc_auc_score(LATE, P), abs=1e-3)


def test_one_class_has_no_roc_curve():
    assert curves.roc(np.zeros(10), np.linspace(0, 1, 10)) == {}


def test_the_calibration_curve_is_scikit_learns_by_quantiles():
    curve = curves.calibration(LATE, P)
    observed, predicted = calibration_curve(LATE, P, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(curve["observed"], observed)
    np.testing.assert_allclose(curve["predicted"], predicted)
    assert sum(curve["rows"]) == 5000


def test_a_constant_score_has_one_point_on_the_calibration_curve():
    curve = curves.calibration(LATE, np.full(5000, 0.25))
    assert curve == {"predicted": [0.25], "observed": [pytest.approx(LATE.mean())], "rows": [5000]}


def test_the_confusion_matrix_has_true_labels_as_rows():
    matrix = curves.confusion(np.array([0.0, 0.0, 0.0, 1.0]), np.array([0.1, 0.3, 0.2, 0.3]), 0.3)["matrix"]
    assert matrix == [[2, 1], [0, 1]]
    assert curves.confusion(LATE, P, 0.3)["matrix"] == metrics.confusion_matrix(LATE, P >= 0.3).tolist()


def test_residuals_are_labels_less_predictions():
    found = curves.residuals(np.arange(101.0) + 5, np.arange(101.0))
    assert found["values"] == [5.0] * len(found["quantiles"])


def test_importance_is_the_rise_of_the_loss_and_nothing_for_an_ignored_feature():
    X = RANDOM.normal(size=(2000, 3)).astype(np.float32)
    score = lambda rows: 1 / (1 + np.exp(-2.0 * rows[:, 0] - 0.5 * rows[:, 1]))  # noqa: E731
    y = (RANDOM.random(2000) < score(X)).astype(float)
    found = curves.importance(score, X, y, ["strong", "weak", "ignored"], "log_loss", 0)
    assert list(found) == ["strong", "weak", "ignored"]
    assert found["strong"] > 5 * found["weak"] > 0
    assert found["ignored"] == 0
    assert found == curves.importance(score, X, y, ["strong", "weak", "ignored"], "log_loss", 0)
