"""Plots: scales that hold their values, positions that are right, text that is escaped."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.pages import plots
from evergrow.pages.plots import Scale, Whisker

VALUES = st.lists(st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-9), min_size=1, max_size=20)


@given(VALUES)
def test_a_scale_holds_every_value_between_few_round_ticks(values):
    scale = Scale.around(values)

    assert scale.low <= min(values)
    assert scale.high >= max(values)
    assert scale.low < scale.high
    assert 2 <= len(scale.ticks()) <= 9
    assert all(0 <= scale.at(value) <= 100 for value in values)


def test_a_scale_passes_over_what_is_not_a_finite_number():
    assert Scale.around([float("nan"), float("inf"), 1.0, 3.0]) == Scale.around([1.0, 3.0])


def test_a_whisker_stands_where_its_numbers_are():
    drawn = ET.fromstring(plots.strip(Scale(0, 10), [Whisker(5, 2, 9)], "five"))

    line, dot = drawn.find(".//line"), drawn.find(".//circle")
    assert (line.get("x1"), dot.get("cx"), line.get("x2")) == ("20.0%", "50.0%", "90.0%")


def test_higher_values_are_drawn_higher():
    drawn = ET.fromstring(plots.chart("up", Scale(0, 1), Scale(0, 4), [plots.line([0, 1], [1, 3])]))

    assert drawn.find(".//polyline").get("points") == "0,75 100,25"


def test_text_of_users_is_escaped_wherever_it_goes():
    evil = "<script>\"'&"
    drawn = [
        plots.strip(Scale(0, 1), [Whisker(0.5, 0, 1)], evil),
        plots.chart(evil, Scale(0, 1), Scale(0, 1), [plots.dots([0.5], [0.5], [evil])], x_name=evil, y_name=evil),
        plots.histogram(evil, [1, 2], evil, evil),
        plots.heat_map(evil, [evil, evil], [[1, 0.5], [0.5, 1]]),
        plots.bar(0.5, evil),
    ]

    for svg in drawn:
        assert "<script" not in svg
        assert ET.fromstring(svg).get("aria-label") == evil


@pytest.mark.parametrize("heights", [[], [0], [0, 0, 0], [3]])
def test_a_histogram_of_little_or_nothing_is_still_drawn(heights):
    assert len(ET.fromstring(plots.histogram("few", heights, "0", "1")).findall("rect")) == len(heights)
