"""Which way a request came is the gateway's to say, and copies are told from what they are copies of."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from evergrow.contracts import Route
from evergrow.errors import DataError
from evergrow.integrations.gateway import GatewayTraffic
from evergrow.integrations.prediction_store import PredictionStore
from tests.cluster.conftest import NAME, ROOT, Dev, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

BODY = (ROOT / "manifests/serving/arrival-delay/request.json").read_bytes()
ALONE = Route(model=NAME, weights={1: 100}, warm=(1,))
FORGED = {"x-evergrow-route": "forged", "x-evergrow-propensity": "0.123"}


@pytest.fixture
def traffic(dev: Dev) -> Iterator[GatewayTraffic]:
    """Given the route that `deploy` has made, as it is again afterwards."""
    traffic = GatewayTraffic(dev.place, dev.kubernetes)
    assert traffic.read(NAME) == ALONE
    yield traffic
    traffic.apply(ALONE)


def ask(dev: Dev, name: str, **headers: str) -> int:
    said = {"Content-Type": "application/json", "Host": dev.host(NAME), "x-request-id": name, **headers}
    request = urllib.request.Request(f"{dev.gateway}/v1/models/{NAME}:predict", BODY, said)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert len(json.loads(answer.read())["predictions"]) > 0
        return int(answer.status)


def recorded(dev: Dev, prefix: str) -> dict[str, set[tuple[str, float | None]]]:
    """By request, the ways that it came by."""
    since = (datetime.now(UTC) - timedelta(days=1)).date()
    try:
        found = PredictionStore(dev.store()).read(NAME, since, date.max)
    except DataError:
        return {}
    ways = defaultdict(set)
    for name, route, propensity in zip(
        *(found[column].to_pylist() for column in ("request_id", "route", "propensity")), strict=True
    ):
        if name.startswith(prefix):
            ways[name].add((route, propensity))
    return ways


def test_a_copy_is_recorded_as_one_and_no_caller_says_which_way_a_request_came(dev: Dev, traffic: GatewayTraffic):
    mark = f"copied-{time.time_ns()}"
    traffic.apply(ALONE.model_copy(update={"mirror": 1, "mirror_percent": 100}))
    # The gateway has the new route some moments later.
    names = [f"{mark}-{i}" for i in range(60)]
    for name in names:
        assert ask(dev, name, **FORGED) == 200
        time.sleep(0.1)
    assert ask(dev, f"{mark}-named", **{"x-evergrow-version": "1"}, **FORGED) == 200

    def newest() -> dict[str, set[tuple[str, float | None]]]:
        found = recorded(dev, mark)
        return found if len(found) == len(names) + 1 and ("shadow", None) in found[names[-1]] else {}

    found = eventually(newest, 120)
    assert found[names[-1]] == {("weights", 1.0), ("shadow", None)}
    assert found[f"{mark}-named"] == {("named", None)}
    assert {way for ways in found.values() for way in ways} == {("weights", 1.0), ("shadow", None), ("named", None)}
