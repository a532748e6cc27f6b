import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.contracts import Feature
from evergrow.errors import RequestError
from evergrow.learning.vector import Vectoriser, levels

FEATURES = (Feature(name="wind", kind="numeric"), Feature(name="origin", kind="categorical"))
VECTORS = Vectoriser(FEATURES, {"origin": ("EWR", "JFK", "LGA")})


def test_columns_stand_in_the_features_order_whatever_order_the_keys_come_in():
    assert VECTORS.rows([{"origin": "LGA", "wind": 2.5}]).tolist() == [[2.5, 2.0]]


@pytest.mark.parametrize("missing", [None, math.nan, np.nan, pd.NA, pd.NaT, np.float32("nan")])
def test_missing_values_of_every_kind_are_nan(missing):
    assert np.isnan(VECTORS.rows([{"wind": missing, "origin": missing}])).all()


def test_an_absent_key_and_an_unseen_level_are_missing():
    assert np.isnan(VECTORS.rows([{"origin": "nowhere"}])).all()


def test_no_rows_give_an_empty_matrix_of_the_right_width():
    assert VECTORS.rows([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"wind": "3"}, "feature `wind` of row 1: must be a number or missing, found str '3'"),
        ({"wind": [1]}, "feature `wind` of row 1: must be a number or missing, found list"),
        ({"origin": 2.5}, "feature `origin` of row 1: must be text, a whole number or missing, found float 2.5"),
        ({"wind": math.inf}, "feature `wind` of row 1: must be finite"),
        ({"wind": 1e39}, "feature `wind` of row 1: must be finite in single precision"),
    ],
)
def test_a_wrong_value_is_refused_with_the_feature_and_row(row, message):
    with pytest.raises(RequestError, match=message.replace("[", r"\[").replace("(", r"\(")):
        VECTORS.rows([{"wind": 1.0, "origin": None}, row])


def test_an_infinite_value_is_found_among_missing_ones():
    with pytest.raises(RequestError, match="`wind` of row 1"):
        VECTORS.rows([{"wind": math.nan}, {"wind": -math.inf}])


def test_whole_numbers_are_the_same_level_with_and_without_a_decimal_point():
    vectors = Vectoriser([Feature(name="month", kind="categorical")], {"month": ("1", "12")})
    assert vectors.rows([{"month": 12}, {"month": 12.0}, {"month": "12"}]).ravel().tolist() == [1, 1, 1]


def test_levels_are_distinct_sorted_and_leave_out_what_is_missing():
    assert levels(pd.Series(["b", None, "a", "b", np.nan])) == ("a", "b")
    assert levels(pd.Series([2.0, np.nan, 10.0])) == ("10", "2")


values = st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.floats(-1e30, 1e30))
origins = st.one_of(st.none(), st.sampled_from(["EWR", "JFK", "LGA", "XXX"]))


@given(st.lists(st.tuples(values, origins), min_size=1))
def test_rows_and_columns_give_the_same_vectors(pairs):
    by_rows = VECTORS.rows([{"wind": w, "origin": o} for w, o in pairs])
    frame = pd.DataFrame({"origin": [o for _, o in pairs], "wind": [w for w, _ in pairs]})
    by_columns = VECTORS.columns(frame)
    assert by_rows.dtype == by_columns.dtype == np.float32
    np.testing.assert_array_equal(by_rows, by_columns)


@pytest.mark.parametrize("dtype", ["float32", "float64", "Int64", "int32", "bool", "boolean", "object"])
def test_a_column_is_read_whatever_type_pandas_gives_it(dtype):
    frame = pd.DataFrame({"wind": pd.Series([1, 0, 1]).astype(dtype), "origin": ["EWR", "JFK", None]})
    np.testing.assert_array_equal(VECTORS.columns(frame), np.array([[1, 0], [0, 1], [1, np.nan]], np.float32))


def test_a_categorical_column_of_pandas_is_read():
    frame = pd.DataFrame({"wind": [1.0, 2.0], "origin": pd.Categorical(["LGA", None])})
    np.testing.assert_array_equal(VECTORS.columns(frame), np.array([[1, 2], [2, np.nan]], np.float32))
