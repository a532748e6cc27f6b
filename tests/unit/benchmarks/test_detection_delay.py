import math
import os

import numpy as np
import pytest

from benchmarks.detection_data import FlightRows, Series, resampled, simulated
from benchmarks.detection_delay import REFERENCE, Adwin, Trace, Traced, interval, ours, page_hinkley, wasserstein

BEGIN = REFERENCE + 3


@pytest.fixture(scope="module")
def quiet():
    return simulated(6, REFERENCE + 10, rise=0.0, over=0, begin=BEGIN, seed=1)


def test_the_statistic_of_page_hinkley_is_rivers(quiet):
    from river.drift import PageHinkley

    peer, trace = PageHinkley(mode="up", threshold=math.inf), page_hinkley(quiet[0])
    values = []
    for loss in quiet[0].losses.tolist():
        peer.update(loss)
        values.append(peer._sum_increase - peer._min_increase)
    assert trace.values == pytest.approx(np.array(values[quiet[0].reference :]), abs=1e-6)


def test_evidently_says_what_its_report_says(quiet):
    import pandas as pd
    from evidently import Report
    from evidently.metrics import ValueDrift

    series = quiet[0]
    reference = pd.DataFrame({"loss": series.losses[: series.reference : 7]})
    day = pd.DataFrame({"loss": series.losses[series.reference : series.reference + 1000]})
    (metric,) = Report([ValueDrift(column="loss")]).run(day, reference).dict()["metrics"]
    assert wasserstein(series).values[0] == pytest.approx(float(metric["value"]))
    assert "Wasserstein" in str(metric)
    assert os.environ["DO_NOT_TRACK"] == "1"


def test_a_rival_is_tuned_to_so_many_alarms(quiet):
    for arm in (Traced(page_hinkley), Traced(wasserstein), Adwin()):
        level = arm.tuned(quiet, 2)
        assert np.isfinite(arm.first(quiet, level, REFERENCE)).sum() == 2


def test_only_alarms_after_the_beginning_count_and_from_it_on():
    trace = Trace(np.array([29.0, 30.0, 31.0, 32.0]), np.array([9.0, 1.0, 5.0, 9.0]))
    assert trace.first(5.0, begin=30.0) == 1.0
    assert trace.first(6.0, begin=30.0) == 2.0
    assert trace.first(10.0, begin=28.0) == math.inf


def test_every_detector_sees_a_collapse_and_adwin_no_fall(quiet):
    for rise in (0.3, -0.3):
        series = simulated(3, REFERENCE + 10, rise=rise, over=0, begin=BEGIN, seed=1)
        found = {"ours": ours(series, BEGIN), "ADWIN": Adwin().first(series, 20.0, BEGIN)}
        found["Page-Hinkley"] = Traced(page_hinkley).first(series, 400.0, BEGIN)
        for who, days in found.items():
            assert np.isfinite(days).all() == (rise > 0), who


def test_simulated_losses_rise_by_what_is_said_and_otherwise_are_the_same(quiet):
    sudden = simulated(6, REFERENCE + 10, rise=0.1, over=0, begin=BEGIN, seed=1)
    gradual = simulated(6, REFERENCE + 10, rise=0.1, over=4, begin=BEGIN, seed=1)
    for before, at_once, slowly in zip(quiet, sudden, gradual, strict=True):
        cut = BEGIN * 1000
        assert at_once.losses[:cut].tolist() == before.losses[:cut].tolist() == slowly.losses[:cut].tolist()
        assert (at_once.losses - before.losses)[cut:].mean() == pytest.approx(0.1, rel=0.05)
        assert (slowly.losses - before.losses)[cut : cut + 4000].mean() == pytest.approx(0.05, rel=0.05)


def test_weeks_are_drawn_whole_and_in_order_and_harmed_from_the_beginning_on():
    days = np.arange(0, 365, 0.1)
    rows = FlightRows([], np.empty((len(days), 0)), np.zeros(len(days)), days)
    (series,) = resampled(rows, days, days + 1000, count=1, weeks=6, begin=30, seed=0)
    assert np.all(np.diff(series.days) > 0)
    assert len(series.days) == 420
    harmed = series.losses >= 1000
    assert series.days[harmed].min() >= 30 > series.days[~harmed].max()
    original = series.losses - 1000 * harmed
    assert np.allclose(original % 7, series.days % 7)
    assert set(np.round(np.diff(original), 6)[np.arange(419) % 70 != 69]) == {0.1}


def test_blocks_hold_every_row():
    series = Series(np.array([1.0, 3.0, 5.0]), np.array([0.1, 0.2, 1.9]), 2)
    means, rows = series.blocks(2)
    assert (means.tolist(), rows.tolist()) == ([2.0, 0.0, 0.0, 5.0], [2.0, 0.0, 0.0, 1.0])


def test_the_interval_is_around_the_setting():
    low, high = interval(1000, 30)
    assert low < 1 - math.exp(-30 / 365.25) < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.0788 * 0.9212 / 1000), rel=0.05)
