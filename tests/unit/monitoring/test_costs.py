"""What a model costs: servers by the hours in which they answered, steps by the CPUs they took."""

from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.contracts import Spent
from evergrow.monitoring.costs import of_serving, of_steps
from evergrow.spec.model import Prices

PRICES = Prices(server_hour=0.5, cpu_hour=2.0)
START = datetime(2024, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def answered(*by: tuple[str, float]) -> pd.DataFrame:
    """Predictions by server and hours since the start."""
    ids = [f"{server}-00000001-{i}-0" for i, (server, _) in enumerate(by)]
    return pd.DataFrame({"prediction_id": ids, "event_timestamp": [START + at * HOUR for _, at in by]})


def spent(purpose: str = "training", **more: float) -> Spent:
    given = {"seconds": 60.0, "cpu_seconds": 30.0, **more}
    return Spent(model="bikes", purpose=purpose, step="train", at=START, **given)


def test_a_server_costs_each_hour_in_which_it_answered_once():
    (day,) = of_serving(PRICES, answered(("pod-a", 0.1), ("pod-a", 0.9), ("pod-a", 3.5), ("pod-b", 0.2)))

    assert (day.day, day.server_hours, day.cost) == (date(2024, 3, 1), 3, 1.5)


def test_servers_that_are_kept_cost_whether_anyone_asks_or_not():
    (day,) = of_serving(PRICES, answered(("pod-a", 0.1), ("pod-b", 0.1), ("pod-c", 0.1), ("pod-a", 5.0)), replicas=2)

    assert day.server_hours == 3 + 23 * 2


def test_days_are_costed_apart():
    days = of_serving(PRICES, answered(("pod-a", 23.9), ("pod-a", 24.1)))

    assert [(d.day.day, d.server_hours) for d in days] == [(1, 1), (2, 1)]


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b-c", "d"]), st.floats(0, 71.9)), min_size=1, max_size=40),
    st.integers(0, 3),
)
def test_serving_is_what_counting_hour_by_hour_gives(by, replicas):
    rows = answered(*by)
    found = {d.day: d.server_hours for d in of_serving(PRICES, rows, replicas)}
    at = rows["event_timestamp"]
    expected = {}
    for day in {t.date() for t in at}:
        hours = range(24)
        servers = [
            {s for (s, _), t in zip(by, at, strict=True) if t.date() == day and t.hour == hour} for hour in hours
        ]
        expected[day] = sum(max(len(each), replicas) for each in servers)

    assert found == expected


def test_a_step_costs_what_it_used_or_what_was_set_aside_whichever_is_more():
    used, kept = spent(cpu_seconds=90.0, cpus=1.0), spent(cpu_seconds=30.0, cpus=2.0)
    (cost,) = of_steps(PRICES, [used, kept])

    assert cost.steps == 2
    assert cost.cpu_hours == pytest.approx((90 + 120) / 3600)
    assert cost.cost == pytest.approx(2 * (90 + 120) / 3600)


def test_the_dearest_purpose_is_first():
    found = of_steps(PRICES, [spent("data"), spent("training", cpu_seconds=99.0), spent("data")])

    assert [(one.purpose, one.steps) for one in found] == [("training", 1), ("data", 2)]


def test_nothing_costs_nothing():
    assert of_steps(PRICES, []) == []
    assert of_serving(PRICES, answered()) == []
