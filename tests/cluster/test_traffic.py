"""Which way a request came is the gateway's to say, and no caller's."""

from __future__ import annotations

import json
import urllib.request
from collections import defaultdict
from datetime import UTC, date, datetime

import pytest

from evergrow.errors import DataError
from evergrow.integrations.gateway import GatewayTraffic
from evergrow.integrations.prediction_store import PredictionStore
from tests.cluster.conftest import NAME, ROOT, Dev, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]

BODY = (ROOT / "manifests/serving/arrival-delay/request.json").read_bytes()
FORGED = {"x-evergrow-route": "forged", "x-evergrow-propensity": "0.123"}


@pytest.fixture
def traffic(dev: Dev) -> GatewayTraffic:
    """Given the route that `deploy` has made."""
    traffic = GatewayTraffic(dev.place, dev.kubernetes)
    found = traffic.read(NAME)
    assert found is not None
    assert (found.weights, 1 in found.warm) == ({1: 100}, True)
    return traffic


def ask(dev: Dev, **headers: str) -> None:
    said = {"Content-Type": "application/json", "Host": dev.host(NAME), **FORGED, **headers}
    request = urllib.request.Request(f"{dev.gateway}/v1/models/{NAME}:predict", BODY, said)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.loads(answer.read())["predictions"]


def recorded(dev: Dev, since: datetime) -> dict[str, set[tuple[str, float | None]]]:
    """By request, as the gateway named it, the ways that it came by."""
    try:
        found = PredictionStore(dev.store()).read(NAME, since.date(), date.max)
    except DataError:
        return {}
    columns = ("event_timestamp", "request_id", "route", "propensity")
    ways = defaultdict(set)
    for at, name, route, propensity in zip(*(found[column].to_pylist() for column in columns), strict=True):
        if at >= since:
            ways[name].add((route, propensity))
    return ways


def test_no_caller_says_which_way_a_request_came(dev: Dev, traffic: GatewayTraffic):
    begun = datetime.now(UTC)
    for _ in range(10):
        ask(dev)
    ask(dev, **{"x-evergrow-version": "1"})

    def all_of_them() -> dict[str, set[tuple[str, float | None]]]:
        found = recorded(dev, begun)
        return found if len(found) == 11 else {}

    ways = [*eventually(all_of_them, 120).values()]
    assert ways.count({("weights", 1.0)}) == 10
    assert ways.count({("named", None)}) == 1
