import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from evergrow.learning.calibrate import calibrator, fit_calibration, logit


class Scorer(ClassifierMixin, BaseEstimator):
    """Answers with its one column: log odds to `decision_function`, or probabilities."""

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        return self

    def predict(self, X):
        return (X[:, 0] > 0.5).astype(int)

    def predict_proba(self, X):
        return np.stack([1 - X[:, 0], X[:, 0]], axis=1)


class LogOdds(Scorer):
    def decision_function(self, X):
        return logit(X[:, 0])


def overconfident(n=2000, seed=0):
    random = np.random.default_rng(seed)
    truth = random.beta(2, 3, n)
    labels = (random.random(n) < truth).astype(float)
    return 1 / (1 + np.exp(-2.5 * logit(truth) - 0.4)), labels


def scikit_learn(kind, scorer, scores, labels):
    scorer = FrozenEstimator(scorer().fit(scores[:, None], labels))
    return CalibratedClassifierCV(scorer, method=kind, ensemble=False).fit(scores[:, None], labels)


def test_sigmoid_equals_scikit_learns_on_log_odds():
    scores, labels = overconfident()
    ours = calibrator(fit_calibration("sigmoid", scores, labels))(scores)
    theirs = scikit_learn("sigmoid", LogOdds, scores, labels).predict_proba(scores[:, None])[:, 1]
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_isotonic_equals_scikit_learns():
    scores, labels = overconfident()
    ours = calibrator(fit_calibration("isotonic", scores, labels))
    theirs = scikit_learn("isotonic", Scorer, scores, labels)
    asked = np.linspace(0, 1, 501)
    np.testing.assert_allclose(ours(asked), theirs.predict_proba(asked[:, None])[:, 1], atol=1e-12)


@pytest.mark.parametrize("kind", ["sigmoid", "isotonic"])
def test_calibration_lowers_the_log_loss_of_overconfident_scores_on_other_rows(kind):
    calibrate = calibrator(fit_calibration(kind, *overconfident(seed=1)))
    scores, labels = overconfident(seed=2)

    def log_loss(p):
        p = np.clip(p, 1e-6, 1 - 1e-6)
        return -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))

    assert log_loss(calibrate(scores)) < log_loss(scores) - 0.05


def test_platts_targets_keep_the_slope_finite_where_scores_separate_the_classes():
    labels = np.repeat([0.0, 1.0], 50)
    fitted = fit_calibration("sigmoid", 0.1 + 0.8 * labels, labels)
    at = calibrator(fitted)(np.array([0.1, 0.9]))
    # Two groups, two parameters: the fit reaches the smoothed targets 1/(n + 2) and (n + 1)/(n + 2) exactly.
    np.testing.assert_allclose(at, [1 / 52, 51 / 52], atol=1e-6)


def test_no_calibration_leaves_scores_as_they_are():
    scores = np.array([0.0, 0.3, 1.0])
    assert calibrator(fit_calibration("none", scores, scores))(scores) is scores


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=4, max_size=50),
    st.sampled_from(["sigmoid", "isotonic"]),
)
def test_calibrated_scores_are_probabilities_and_isotonic_ones_keep_the_order(pairs, kind):
    scores = np.array([s for s, _ in pairs])
    labels = np.array([float(y) for _, y in pairs])
    calibrated = calibrator(fit_calibration(kind, scores, labels))(np.linspace(0, 1, 101))
    assert ((calibrated >= 0) & (calibrated <= 1)).all()
    if kind == "isotonic":
        assert (np.diff(calibrated) >= -1e-12).all()
