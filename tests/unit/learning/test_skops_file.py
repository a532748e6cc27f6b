import os

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from evergrow.errors import ServingError
from evergrow.learning.skops_file import dumps, loads
from tests.example_model.estimator import Blind

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 3)).astype(np.float32)
X[:, 2] = RANDOM.integers(0, 8, 200)
Y = (X[:, 0] > 0).astype(int)
ESTIMATORS = {
    "boosted trees": lambda: HistGradientBoostingClassifier(max_iter=3, random_state=0),
    "boosted trees on categories": lambda: HistGradientBoostingClassifier(
        max_iter=3, random_state=0, categorical_features=[2]
    ),
    "forest": lambda: RandomForestClassifier(n_estimators=3, random_state=0),
    "linear": LogisticRegression,
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_read_back_predicts_the_same(name):
    estimator = ESTIMATORS[name]().fit(X, Y)
    assert (loads(dumps(estimator)).predict_proba(X) == estimator.predict_proba(X)).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_two_fits_give_the_same_bytes_where_skops_own_dumps_differ(name):
    one, two = ESTIMATORS[name]().fit(X, Y), ESTIMATORS[name]().fit(X, Y)
    assert skops.io.dumps(one) != skops.io.dumps(two)
    assert dumps(one) == dumps(two)


def test_other_parameters_give_other_bytes():
    assert dumps(LogisticRegression(C=1.0).fit(X, Y)) != dumps(LogisticRegression(C=2.0).fit(X, Y))


def test_classes_of_the_estimators_own_package_are_trusted():
    read = loads(dumps(Blind().fit(X, Y)), package="tests.example_model")
    assert isinstance(read, Blind)


@pytest.mark.parametrize("package", ["", "tests.example", "models.other"])
def test_classes_of_any_other_package_are_refused_by_name(package):
    with pytest.raises(ServingError, match=r"found tests\.example_model\.estimator\.Blind"):
        loads(dumps(Blind().fit(X, Y)), package)


def test_a_file_that_names_a_function_of_the_system_is_refused():
    with pytest.raises(ServingError, match=r"found posix\.system"):
        loads(dumps(FunctionTransformer(os.system)), "tests.example_model")


def test_the_standard_library_cannot_be_declared_an_estimators_package():
    with pytest.raises(ServingError, match="'os' is Python's own"):
        loads(dumps(LogisticRegression().fit(X, Y)), "os")


def test_a_file_that_is_no_skops_file_is_refused():
    with pytest.raises(ServingError, match=r"model\.skops cannot be read"):
        loads(b"not a zip file")
