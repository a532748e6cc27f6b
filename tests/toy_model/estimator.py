"""A model and one that is worse."""

from __future__ import annotations

from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def build(C: float = 1.0) -> Pipeline:
    """Logistic regression."""
    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=C))


def blind() -> DummyClassifier:
    """The prior, whatever it is asked."""
    return DummyClassifier(strategy="prior")
