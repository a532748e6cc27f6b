"""Estimators that tests fit."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info


def boosted(**parameters):
    return HistGradientBoostingClassifier(**{"max_iter": 20, "early_stopping": False, **parameters})


def boosted_on_categories():
    return HistGradientBoostingClassifier(max_iter=20, early_stopping=False, categorical_features=[2])


def boosted_regressor(**parameters):
    return HistGradientBoostingRegressor(**{"max_iter": 20, "early_stopping": False, **parameters})


def logistic(C=1.0):
    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=C))


def boosted_in_rounds():
    return make_pipeline(SimpleImputer(), GradientBoostingClassifier(n_estimators=10, max_depth=2))


def by_gradient():
    return make_pipeline(SimpleImputer(), StandardScaler(), SGDClassifier(loss="log_loss", alpha=0.01))


def logistic_without_imputer():
    return LogisticRegression()


def forest():
    return RandomForestClassifier(n_estimators=10, max_depth=4, n_jobs=-1)


def regressor():
    return HistGradientBoostingRegressor()


class Blind(ClassifierMixin, BaseEstimator):
    """Answers the training labels' mean, whatever it is asked."""

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        self.mean_ = float(np.mean(y))
        return self

    def predict_proba(self, X):
        return np.tile([1 - self.mean_, self.mean_], (len(X), 1))


def straying():
    """A fit ends with small steps, a partial fit begins with large ones again."""
    steps = SGDClassifier(loss="log_loss", learning_rate="adaptive", eta0=10)
    return make_pipeline(SimpleImputer(), StandardScaler(), steps)


def blind():
    return Blind()


class Threads(Blind):
    """Knows how many threads native code might take while it was fitted."""

    def fit(self, X, y):
        self.threads_ = max(one["num_threads"] for one in threadpool_info())
        return super().fit(X, y)


def threads():
    return Threads()
