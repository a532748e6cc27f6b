"""Counts of a rollout, from counters that begin anew whenever they like."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.errors import ServingError
from evergrow.integrations.envoy import Counts
from evergrow.integrations.gateway_counts import RequestCounts
from evergrow.rollout.guardrails import Answered


class Gateway:
    """Counters that are set by whoever wants to."""

    def __init__(self) -> None:
        self.at: dict[tuple[int, str], Counts] = {}
        self.lost: dict[int, int] = {}
        self.away = False

    def unsent(self, version: int) -> int:
        return self.lost.get(version, 0)

    def __call__(self, version: int, arm: str) -> Counts:
        if self.away:
            raise ServingError("away")
        return self.at.get((version, arm), Counts(0, 0))

    def answer(self, version: int, requests: int, failures: int = 0, arm: str = "weights") -> None:
        had = self.at.get((version, arm), Counts(0, 0))
        self.at[version, arm] = Counts(had.requests + requests, had.failures + failures)


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def counts(gateway: Gateway, tmp_path: Path) -> RequestCounts:
    return RequestCounts(gateway, gateway.unsent, tmp_path / "counts.json")


def test_nothing_is_known_before_the_first_look(counts: RequestCounts) -> None:
    assert counts("delays") == {}


def test_requests_of_all_ways_are_added_and_lateness_is_not_told(counts: RequestCounts, gateway: Gateway) -> None:
    counts.look("first", [1, 2])
    gateway.answer(1, 90, 1)
    gateway.answer(2, 10, 2)
    gateway.answer(2, 5, 1, "shadow")
    gateway.answer(2, 3, 0, "named")
    counts.look("first", [1, 2])
    assert counts("delays") == {1: Answered(90, 1, None), 2: Answered(18, 3, None)}


def test_copies_that_were_not_sent_are_no_errors_of_the_shadow(counts: RequestCounts, gateway: Gateway) -> None:
    counts.look("first", [2])
    gateway.answer(2, 100, 43, "shadow")
    gateway.lost[2] = 41
    counts.look("first", [2])
    assert counts("delays") == {2: Answered(59, 2, None)}
    gateway.lost[2] = 44  # it is read a moment later than the others
    counts.look("first", [2])
    assert counts("delays") == {2: Answered(56, 0, None)}
    gateway.answer(2, 4, 3, "shadow")
    counts.look("first", [2])
    assert counts("delays") == {2: Answered(60, 2, None)}


def test_what_came_before_a_rollout_does_not_count(counts: RequestCounts, gateway: Gateway) -> None:
    gateway.answer(1, 1000, 500)
    counts.look("first", [1])
    gateway.answer(1, 7)
    counts.look("first", [1])
    assert counts("delays") == {1: Answered(7, 0, None)}
    counts.look("second", [1])
    assert counts("delays") == {1: Answered(0, 0, None)}


def test_a_way_that_is_taken_off_the_route_keeps_what_it_counted(counts: RequestCounts, gateway: Gateway) -> None:
    counts.look("first", [2])
    gateway.answer(2, 50, 5, "shadow")
    gateway.answer(2, 4)
    counts.look("first", [2])
    del gateway.at[2, "shadow"]
    gateway.answer(2, 1)
    counts.look("first", [2])
    assert counts("delays") == {2: Answered(55, 5, None)}


def test_a_gateway_that_is_away_loses_nothing_that_was_seen(counts: RequestCounts, gateway: Gateway) -> None:
    counts.look("first", [2])
    gateway.answer(2, 50, 5)
    counts.look("first", [2])
    gateway.away = True
    with pytest.raises(ServingError):
        counts.look("first", [2])
    gateway.away, gateway.at = False, {}
    gateway.answer(2, 1)
    counts.look("first", [2])
    assert counts("delays") == {2: Answered(51, 5, None)}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.booleans()), max_size=12))
def test_a_restart_costs_what_came_after_the_last_look_and_nothing_else(steps: list[tuple[int, int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        gateway, path, seen = Gateway(), Path(folder) / "counts.json", 0
        counts = RequestCounts(gateway, gateway.unsent, path)
        counts.look("first", [1])
        for looked_at, lost, restarts in steps:
            gateway.answer(1, looked_at)
            counts.look("first", [1])
            seen += looked_at
            if restarts:
                gateway.answer(1, lost)
                gateway.at = {}
                counts = RequestCounts(gateway, gateway.unsent, path)
        assert counts("delays").get(1, Answered(0, 0, None)) == Answered(seen, 0, None)
