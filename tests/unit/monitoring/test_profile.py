"""Profiles: the same counts as looking at every value, and as many as asked for, in whichever pieces they come."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.contracts import Feature
from evergrow.errors import DataError
from evergrow.monitoring import tables
from evergrow.monitoring.profile import Grouping, Profile, axes_of, misfits, profile, profile_groups, total

NUMBER, WORD = Feature(name="x", kind="numeric"), Feature(name="c", kind="categorical")
NUMBERS = st.one_of(st.none(), st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf]))
WORDS = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "d", ""]), st.text(max_size=3))
ROWS = st.lists(st.tuples(NUMBERS, WORDS), max_size=60)


def table(rows):
    return pa.table(
        {"x": pa.array([x for x, _ in rows], pa.float64()), "c": pa.array([c for _, c in rows], pa.string())}
    )


def by_hand(axis, values):
    """The cell of each value by the axis's own description, one at a time."""
    counts = [0] * axis.cells
    for value in values:
        if value is None or (axis.kind == "numeric" and math.isnan(value)):
            counts[-1] += 1
        elif axis.kind == "categorical":
            counts[axis.levels.index(value) if value in axis.levels else len(axis.levels)] += 1
        else:
            counts[sum(edge < value for edge in axis.edges)] += 1
    return counts


@given(ROWS, ROWS)
def test_each_value_is_counted_in_the_cell_that_the_axis_describes(reference, rows):
    axes = axes_of([NUMBER, WORD], table(reference))
    found = profile(axes, table(rows))

    for (axis, counts), values in zip(found.columns(), zip(*rows, strict=True) if rows else ((), ()), strict=True):
        assert counts.tolist() == by_hand(axis, values)
        assert counts.sum() == found.rows == len(rows)


@given(ROWS, st.lists(ROWS, max_size=5), st.randoms())
def test_segments_add_up_to_the_whole_in_any_order(reference, segments, random):
    axes = axes_of([NUMBER, WORD], table(reference))
    whole = profile(axes, table([row for segment in segments for row in segment]))
    random.shuffle(segments)
    added = total([profile(axes, table(segment)) for segment in segments], axes)

    assert added.rows == whole.rows
    assert added.counts.tolist() == whole.counts.tolist()
    assert added.low.tolist() == whole.low.tolist()
    assert added.high.tolist() == whole.high.tolist()
    assert added.unseen == whole.unseen


@given(ROWS, ROWS)
def test_groups_are_the_profiles_of_their_rows(reference, rows):
    reference = [*reference, (1.0, "a"), (2.0, "b")]
    axes = axes_of([NUMBER, WORD], table(reference))
    grouping = Grouping.by("c", table(reference)["c"])
    found = profile_groups(axes, table(rows), [grouping])

    for name, part in found.items():
        inside = [
            row for row in rows if f"c={grouping.axis.name_of(by_hand(grouping.axis, [row[1]]).index(1))}" == name
        ]
        assert part.counts.tolist() == profile(axes, table(inside)).counts.tolist()
    assert sum(part.rows for part in found.values()) == len(rows)


@given(ROWS, ROWS)
def test_what_is_written_is_what_is_read(reference, rows):
    axes = axes_of([NUMBER, WORD], table(reference))
    found = profile(axes, table(rows))
    profiles, read, about = tables.read(tables.write({"": found}, axes, {"segments": ["s"]}))

    assert (read, about) == (axes, {"segments": ["s"]})
    assert profiles[""].counts.tolist() == found.counts.tolist()
    assert profiles[""].unseen == found.unseen
    assert profiles[""].low.tolist() == found.low.tolist()


def test_numbers_of_many_values_have_cells_of_equal_mass_and_one_beyond_either_end():
    random = np.random.default_rng(0)
    values = pa.table({"x": random.lognormal(0, 2, 100_000)})
    axes = axes_of([NUMBER], values)
    (counts,) = (counts for _, counts in profile(axes, values).columns())

    assert counts[0] == counts[-2] == counts[-1] == 0
    inner = counts[6:-7]  # the 2 % at either end are cut again
    assert inner.min() >= 1900
    assert inner.max() <= 2100
    beyond = profile(axes, pa.table({"x": [-1e9, 1e9]}))
    assert (beyond.counts[0], beyond.counts[-2]) == (1, 1)


def test_far_out_is_as_far_from_all_that_was_ever_seen_as_that_is_wide():
    axes = axes_of([NUMBER], pa.table({"x": [1.0, 2.0, 3.0]}), {"x": (-5.0, 2.5)})
    counts = profile(axes, pa.table({"x": [-13.1, -12.9, -5.0, 0.0, 3.0, 10.9, 11.1]})).counts

    assert (counts[0], counts[-2], counts.sum()) == (1, 1, 7)


def test_a_constant_has_a_cell_of_its_own():
    axes = axes_of([NUMBER], pa.table({"x": [3.0] * 10}))

    assert profile(axes, pa.table({"x": [2.0, 3.0, 3.0, 4.0]})).counts.tolist() == [1, 2, 1, 0]


def test_unseen_categories_are_known_by_name():
    axes = axes_of([WORD], pa.table({"c": ["a", "b"]}))

    assert profile(axes, pa.table({"c": ["a", "z", "z", "y"]})).unseen == {"c": {"z": 2, "y": 1}}


def test_numbers_that_are_whole_or_true_are_numbers_too():
    axes = axes_of([NUMBER], pa.table({"x": [1, 2, 3]}))

    assert profile(axes, pa.table({"x": pa.array([1, None, 3], pa.int64())})).counts[-1] == 1
    assert profile(axes, pa.table({"x": [True, False]})).rows == 2


def test_a_column_that_is_absent_or_of_another_kind_is_told_and_counts_as_missing():
    axes = axes_of([NUMBER, WORD], pa.table({"x": [1.0, 2.0], "c": ["a", "b"]}))
    rows = pa.table({"x": ["1", "2"]})

    assert misfits(axes, rows) == {"x": "string", "c": "absent"}
    assert [counts[-1] for _, counts in profile(axes, rows).columns()] == [2, 2]
    assert misfits(axes, pa.table({"x": [1], "c": [3]})) == {}


def test_profiles_of_different_axes_cannot_be_added():
    one, other = axes_of([NUMBER], pa.table({"x": [1.0]})), axes_of([NUMBER], pa.table({"x": [2.0]}))
    with pytest.raises(DataError, match="different axes"):
        Profile.empty(one) + Profile.empty(other)


def test_a_part_taken_off_leaves_the_rest():
    axes = axes_of([NUMBER], pa.table({"x": [1.0, 2.0]}))
    a, b = profile(axes, pa.table({"x": [1.0, 5.0]})), profile(axes, pa.table({"x": [2.0]}))

    assert ((a + b) - b).counts.tolist() == a.counts.tolist()


def test_cells_are_named_in_words():
    axes = axes_of([NUMBER, WORD], pa.table({"x": [1.0, 2.0, 3.0], "c": ["a", "a", "b"]}))

    assert [axes[1].name_of(i) for i in range(4)] == ["a", "b", "other", "missing"]
    assert "(1, 2]" in [axes[0].name_of(i) for i in range(axes[0].cells)]
    assert axes[0].name_of(axes[0].cells - 2) == "> 5"
