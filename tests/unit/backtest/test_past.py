"""A past says what was known at each instant, and nothing that came later."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.backtest.past import DAY, NEVER, Past, instant_of, microseconds
from evergrow.errors import DataError
from tests.builders import FEATURES, START, rows
from tests.unit.backtest.places import NO_DELAY, delays

HOURS = st.integers(0, 30)
LABELLED = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 1), HOURS), min_size=1, max_size=20, unique_by=lambda x: (x[0], x[2])
)


def examples(labels):
    """Rows 0 … 4, asked an hour after each other, with labels and corrections: (row, label, hours later)."""
    found = [{"row": i, "label": np.nan, "known": np.nan} for i in range(5) if i not in {row for row, *_ in labels}]
    found += [{"row": row, "label": value, "known": row + 1 + late} for row, value, late in labels]
    frame = pd.DataFrame(found)
    asked = pd.Timestamp(START) + pd.to_timedelta(frame.row, "h")
    known = pd.Timestamp(START) + pd.to_timedelta(frame.known.astype(float), "h")
    columns = {"event_timestamp": asked.dt.as_unit("us"), "known_at": known.dt.as_unit("us"), "key": frame.row}
    return pd.DataFrame({**columns, "x": frame.row.astype(float), "label": frame.label})


@given(LABELLED, st.integers(0, 40))
def test_a_row_has_the_label_that_became_known_last_by_then(labels, hours):
    past = Past.of("binary-classification", "label", ["x"], examples(labels), NO_DELAY)
    now = microseconds(START + timedelta(hours=hours))
    y, known = past.labels(slice(None), now)
    for row in range(5):
        mine = [(row + 1 + late, value) for r, value, late in labels if r == row and row + 1 + late <= hours]
        if mine:
            at, value = max(mine, key=lambda one: one[0])
            assert (y[row], known[row]) == (value, microseconds(START + timedelta(hours=at)))
        else:
            assert np.isnan(y[row])
            assert known[row] == NEVER


@given(LABELLED, st.integers(0, 5), st.integers(0, 5))
def test_a_row_has_had_a_label_since_its_first_became_known(labels, a, b):
    past = Past.of("binary-classification", "label", ["x"], examples(labels), NO_DELAY)
    came = past.came(slice(min(a, b), max(a, b)))
    every = [[row + 1 + late for r, _, late in labels if r == row] for row in range(5)][min(a, b) : max(a, b)]
    assert came.tolist() == [microseconds(START + timedelta(hours=min(mine))) if mine else NEVER for mine in every]


@given(LABELLED, st.integers(0, 5), st.integers(0, 5), st.integers(0, 40))
def test_labels_of_some_rows_are_those_of_all(labels, a, b, hours):
    past = Past.of("binary-classification", "label", ["x"], examples(labels), NO_DELAY)
    now, part = microseconds(START + timedelta(hours=hours)), slice(min(a, b), max(a, b))
    for found, every in zip(past.labels(part, now), past.labels(slice(None), now), strict=True):
        np.testing.assert_array_equal(found, every[part])


@given(LABELLED)
def test_a_label_that_comes_later_is_known_later_by_as_much(labels):
    late = timedelta(hours=7)
    past, delayed = (Past.of("binary-classification", "label", ["x"], examples(labels), by) for by in (NO_DELAY, late))
    np.testing.assert_array_equal(delayed.label_known, past.label_known + microseconds(instant_of(0) + late))
    assert past.digest != delayed.digest


def test_a_past_opens_as_it_was_saved(tmp_path):
    past = delays(tmp_path)
    again = Past.open(tmp_path / "past")
    for name in ("task", "label", "features", "categories", "digest"):
        assert getattr(again, name) == getattr(past, name)
    for name in ("asked", "X", "label_row", "label_known", "label_value", "truth", "first_known"):
        np.testing.assert_array_equal(getattr(again, name), getattr(past, name))


def test_features_are_found_again_as_they_were(tmp_path):
    frame = rows().sort_values(["event_timestamp", "flight"], ignore_index=True)
    found = delays(tmp_path).decoded(slice(100, 200))
    part = frame.iloc[100:200]
    np.testing.assert_allclose(found["wind"], part.wind, rtol=1e-6)
    assert list(found["origin"]) == list(part.origin)


def test_instants_and_microseconds_are_the_same():
    at = START + timedelta(days=3, hours=5, microseconds=7)
    assert instant_of(microseconds(at)) == at
    assert microseconds(at) % DAY == 5 * 3_600_000_000 + 7


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(DataError, match="the past lacks columns known_at"):
        Past.of("binary-classification", "late", ["wind"], rows().drop(columns="known_at"), NO_DELAY)
    with pytest.raises(DataError, match="no label 'late' that was ever known"):
        Past.of("binary-classification", "late", ["wind"], rows().assign(late=np.nan), NO_DELAY)
    naive = rows().assign(known_at=lambda f: f.known_at.dt.tz_localize(None))
    with pytest.raises(DataError, match="column 'known_at' must be timezone-aware"):
        Past.of("binary-classification", "late", [f.name for f in FEATURES], naive, NO_DELAY)
    with pytest.raises(DataError, match=r"holds no past: past\.json is missing"):
        Past.open(tmp_path)
