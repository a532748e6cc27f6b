"""Trailing statistics against a slow and obvious count, and the law that no future reaches the past."""

from datetime import timedelta

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from models.arrival_delay.data import TABLES, Flights, raw
from models.arrival_delay.trailing import Trailing, trailing

HOUR = timedelta(hours=1)
START = pd.Timestamp("2013-01-01", tz="UTC").as_unit("us")
STATISTICS = (
    Trailing("last", "delay", timedelta(0)),
    Trailing("mean_3h", "delay", 3 * HOUR),
    Trailing("mean_9h", "delay", 9 * HOUR),
)
EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20), st.integers(-60, 180)), max_size=30)


def frame(events) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "key": pd.Series([k for k, _, _ in events], dtype=object),
            "known_at": pd.Series([START + h * HOUR for _, h, _ in events], dtype="datetime64[us, UTC]"),
            "delay": [float(d) for *_, d in events],
        }
    )


def counted(events, key: str, hour: int, window: int) -> float:
    """The mean over the key's events of the hours in (hour - window, hour]; window 0: of this hour."""
    inside = [d for k, h, d in events if k == key and (hour - window < h <= hour or h == hour)]
    return sum(inside) / len(inside)


@given(EVENTS)
def test_each_statistic_is_the_mean_of_what_had_happened_within_its_window(events):
    table = trailing(frame(events), "key", STATISTICS)
    assert len(table) == len({(k, h) for k, h, _ in events})
    for row in table.itertuples():
        hour = (row.event_timestamp - START) // HOUR
        assert np.isclose(row.last, counted(events, row.key, hour, 0))
        assert np.isclose(row.mean_3h, counted(events, row.key, hour, 3))
        assert np.isclose(row.mean_9h, counted(events, row.key, hour, 9))


@given(EVENTS, EVENTS, st.integers(0, 20))
def test_events_after_an_instant_change_no_row_up_to_it(events, others, hour):
    past = [e for e in events if e[1] <= hour]
    rewritten = past + [e for e in others if e[1] > hour]
    cut = START + hour * HOUR

    def until(table: pd.DataFrame) -> pd.DataFrame:
        return table[table.event_timestamp <= cut].reset_index(drop=True)

    first, second = (until(trailing(frame(e), "key", STATISTICS)) for e in (past, rewritten))
    pd.testing.assert_frame_equal(first, second)


def test_perturbing_the_future_of_the_flights_changes_no_feature_and_no_label_of_the_past():
    cut = pd.Timestamp("2013-02-01", tz="UTC")
    month = {t.name: raw()[t.name].loc[lambda f, c=t.known_at: f[c] < "2013-02-15"] for t in TABLES}
    changed = {name: rows.copy() for name, rows in month.items()}
    future = changed["outcomes"].known_at > cut
    changed["outcomes"].loc[future & (changed["outcomes"].outcome == "landed"), "arrival_delay"] = 999.0
    rainy = changed["weather"].known_at > cut
    changed["weather"].loc[rainy, "precip"] = 9.0
    truth, perturbed = Flights().derive(month), Flights().derive(changed)
    for name in truth:
        column = "known_at" if name == "examples" else "created_timestamp"
        past = [table[name][table[name][column] <= cut].reset_index(drop=True) for table in (truth, perturbed)]
        assert len(past[0]) > 0, name
        pd.testing.assert_frame_equal(*past, obj=name)
    assert not truth["carrier_delays"].equals(perturbed["carrier_delays"])


def test_a_months_plane_statistics_are_what_a_slow_count_gives():
    outcomes = raw()["outcomes"].query("outcome == 'landed'").loc[lambda f: f.known_at < "2013-02-01"]
    landed = outcomes[outcomes.tailnum.notna()].assign(late=lambda f: (f.arrival_delay >= 15).astype(float))
    table = trailing(landed, "tailnum", (Trailing("late_7d", "late", timedelta(days=7)),))
    for row in table.sample(200, random_state=3).itertuples():
        seen = landed[
            (landed.tailnum == row.tailnum)
            & (landed.known_at <= row.event_timestamp)
            & (landed.known_at > row.event_timestamp - timedelta(days=7))
        ]
        assert np.isclose(row.late_7d, seen.late.mean())
