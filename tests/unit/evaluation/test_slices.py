import numpy as np
import pandas as pd
import pytest

from evergrow.errors import DataError
from evergrow.evaluation.slices import Scored, Skipped, by_column, by_month, values_of
from tests.builders import rows

FRAME = rows(days=60, per_day=40)
SCORED = Scored(
    rows=FRAME,
    y=FRAME.late.to_numpy(float),
    scores=np.random.default_rng(0).uniform(0.1, 0.9, len(FRAME)),
    blocks=np.repeat(np.arange(60), 40),
)


def test_a_slice_has_the_metric_of_its_rows_alone():
    found = {s.value: s for s in by_column(SCORED, "origin", ["brier"]) if not isinstance(s, Skipped)}
    assert set(found) == {"EWR", "JFK", "LGA"}
    for value, part in found.items():
        mask = (FRAME.origin == value).to_numpy()
        assert part.metrics[0].value == pytest.approx(np.mean((SCORED.y - SCORED.scores)[mask] ** 2))
        assert part.metrics[0].rows == mask.sum()


def test_slices_and_skipped_ones_cover_all_rows_with_missing_values_as_their_own():
    parts = list(by_column(SCORED, "origin", ["brier"]))
    skipped = [part for part in parts if isinstance(part, Skipped)]
    kept = sum(part.metrics[0].rows for part in parts if not isinstance(part, Skipped))
    assert [(s.value, s.reason) for s in skipped] == [("missing", "fewer than 100 rows")]
    assert kept + skipped[0].rows == len(FRAME)


def test_a_small_slices_interval_is_wider_than_the_wholes():
    whole = SCORED.measured(["brier"])[0]
    small = next(p for p in by_column(SCORED, "origin", ["brier"]) if p.value == "LGA").metrics[0]
    assert small.high - small.low > whole.high - whole.low


def test_numbers_of_many_values_are_cut_into_quarters():
    wind = values_of(FRAME.wind)
    counts = wind.value_counts()
    assert "missing" in counts
    assert len(counts) == 5
    quarters = counts.drop("missing")
    assert quarters.max() - quarters.min() <= 1
    low, high = FRAME.wind.groupby(wind).agg(["min", "max"]).loc[quarters.index].sort_values("min").to_numpy().T
    assert (low[1:] > high[:-1]).all()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pd.Series([1, 2, 1]), ["1", "2", "1"]),
        (pd.Series([1.0, None, 2.0]), ["1", "missing", "2"]),
        (pd.Series([True, False, True]), ["True", "False", "True"]),
        (pd.Series(["a", None, "b"], dtype="category"), ["a", "missing", "b"]),
        (pd.Series([1, None, 3], dtype="Int64"), ["1", "missing", "3"]),
    ],
)
def test_few_values_are_slices_of_their_own(column, values):
    assert values_of(column).tolist() == values


def test_months_follow_each_other():
    months = list(by_month(SCORED, ["brier"]))
    assert [part.value for part in months] == ["2024-01", "2024-02"]
    assert {part.column for part in months} == {"month"}


def test_a_slice_of_one_class_keeps_the_metrics_that_are_defined():
    late = FRAME.late.to_numpy(float) * (FRAME.origin != "JFK").to_numpy()
    scored = Scored(FRAME, late, SCORED.scores, SCORED.blocks)
    jfk = next(p for p in by_column(scored, "origin", ["roc_auc", "brier"]) if p.value == "JFK")
    assert [m.name for m in jfk.metrics] == ["brier"]


def test_a_column_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(DataError, match="no column 'airline'") as error:
        list(by_column(SCORED, "airline", ["brier"]))
    assert "origin" in error.value.hint
