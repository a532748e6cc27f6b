"""A day is the sum of its segments: each counted once, whatever order they come in and however often."""

from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.contracts import Feature
from evergrow.errors import DataError
from evergrow.learning.losses import log_loss
from evergrow.monitoring.baseline import Baseline
from evergrow.monitoring.days import ALL, Day
from evergrow.monitoring.profile import profile
from tests.unit.monitoring.builders import START, outcomes

FEATURES = (Feature(name="wind", kind="numeric"), Feature(name="carrier", kind="categorical"))
DAY = date(2024, 3, 1)
INSTANT = pa.timestamp("us", "UTC")


def baseline(rows=None):
    rows = outcomes(days=10) if rows is None else rows
    y, scores = rows["label"].to_numpy(), rows["score"].to_numpy()
    return Baseline.of(FEATURES, ["origin"], rows, scores, y, log_loss(y, scores))


BASE = baseline()


def segment(rows):
    names = ["event_timestamp", "version", "score", "origin", "carrier", "wind"]
    table = pa.Table.from_pandas(rows[names], preserve_index=False)
    return table.append_column("weather__event_timestamp", table["event_timestamp"].cast(INSTANT))


SEGMENTS = [segment(outcomes(days=1, per_day=n, seed=n)) for n in (1, 7, 30, 100, 3)]


@given(st.lists(st.integers(0, len(SEGMENTS) - 1), min_size=1, max_size=12))
def test_each_segment_counts_once_in_any_order_and_however_often_it_comes(order):
    day = Day.none(DAY, 1, BASE, SEGMENTS[0].column_names)
    for i in order:
        day = day.add(f"s{i}", SEGMENTS[i], BASE)
    once = pa.concat_tables(SEGMENTS[i] for i in sorted(set(order)))

    assert day.segments == {f"s{i}" for i in order}
    assert day.rows == once.num_rows
    k = len(BASE.axes)
    assert day.profiles[ALL].first(k).counts.tolist() == profile(BASE.axes, once).counts.tolist()
    assert sum(part.rows for name, part in day.profiles.items() if name != ALL) == once.num_rows
    assert Day.load(day.save()).save() == day.save()


def test_a_day_that_is_written_is_read_as_it_was():
    day = Day.none(DAY, 3, BASE, SEGMENTS[0].column_names).add("a", SEGMENTS[2], BASE)
    read = Day.load(day.save())

    assert (read.day, read.version, read.axes, read.segments, read.misfits) == (DAY, 3, day.axes, {"a"}, {})
    assert {n: p.counts.tolist() for n, p in read.profiles.items()} == {
        n: p.counts.tolist() for n, p in day.profiles.items()
    }


def test_columns_that_broke_in_any_segment_are_remembered():
    broken = SEGMENTS[1].set_column(5, "wind", pa.array(["x"] * 7))
    day = Day.none(DAY, 1, BASE, SEGMENTS[0].column_names).add("a", SEGMENTS[0], BASE).add("b", broken, BASE)

    assert Day.load(day.save()).misfits == {"wind": "string"}


def test_a_baseline_that_is_written_is_read_as_it_was(tmp_path):
    BASE.save(tmp_path)
    read = Baseline.load(tmp_path)

    assert (read.features, read.axes, read.groupings, read.label_axis) == (
        BASE.features, BASE.axes, BASE.groupings, BASE.label_axis,
    )  # fmt: skip
    assert read.whole.counts.tolist() == BASE.whole.counts.tolist()
    assert {d: p.counts.tolist() for d, p in read.labels.items()} == {
        d: p.counts.tolist() for d, p in BASE.labels.items()
    }
    assert {n: p.rows for n, p in read.slices.items()} == {n: p.rows for n, p in BASE.slices.items()}
    assert read.losses.sums.tolist() == BASE.losses.sums.tolist()
    pd.testing.assert_frame_equal(read.sample, BASE.sample, check_dtype=False)


def test_a_baseline_has_each_day_and_slice_of_the_holdout():
    assert [(day - DAY).days for day in BASE.days] == list(range(10))
    assert {p.rows for p in BASE.days.values()} <= set(range(150, 260))
    assert set(BASE.slices) == {"origin=EWR", "origin=JFK", "origin=LGA"}
    assert sum(p.rows for p in BASE.labels.values()) == 2000


def test_losses_by_hour_add_up_to_any_longer_block():
    rows = outcomes(days=3)
    seconds = rows["event_timestamp"].astype("datetime64[s, UTC]").astype("int64").to_numpy()
    values = np.random.default_rng(0).random(len(rows))
    from evergrow.monitoring.baseline import Losses

    losses = Losses.of(seconds, values)
    numbers, means, counts = losses.blocks(24)
    expected = pd.Series(values).groupby(seconds // 86400).agg(["mean", "size"])

    assert numbers.tolist() == expected.index.tolist()
    assert means == pytest.approx(expected["mean"].to_numpy())
    assert counts.tolist() == expected["size"].tolist()
    assert losses.mean == pytest.approx(values.mean())
    assert pd.Timestamp(numbers[0] * 86400, unit="s", tz="UTC") == pd.Timestamp(START)


def test_a_version_that_was_judged_without_a_baseline_is_told_so(tmp_path):
    with pytest.raises(DataError, match="has no baseline") as caught:
        Baseline.load(tmp_path)
    assert "train it again" in caught.value.hint
