"""Laws of what divides a model's callers; they hold for Gateway API's routes, for Envoy and for the twin in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evergrow.contracts import Route
from evergrow.errors import ServingError
from evergrow.integrations.envoy import EnvoyTraffic
from evergrow.integrations.envoy_config import Backend, Listener
from evergrow.integrations.gateway import GatewayTraffic
from evergrow.integrations.kubernetes import INFERENCE_SERVICE
from evergrow.integrations.labels import MANAGED_BY, MODEL, VERSION
from evergrow.integrations.memory import MemoryTraffic
from models.arrival_delay.demo import free_port
from tests.unit.integrations.kubernetes_twin import KubernetesTwin
from tests.unit.integrations.test_kserve import PLACE

NAME = "bikes"


def gateway() -> GatewayTraffic:
    cluster: Any = KubernetesTwin()
    for version in (1, 2, 3):
        labels = {**MANAGED_BY, MODEL: NAME, VERSION: str(version)}
        cluster.create(INFERENCE_SERVICE, {"metadata": {"name": f"{NAME}-v{version}", "labels": labels}})
    return GatewayTraffic(PLACE, cluster)


@contextmanager
def envoy(folder: Path) -> Iterator[EnvoyTraffic]:
    backends = {version: Backend(http_port=9) for version in (1, 2, 3)}  # nobody is asked
    traffic = EnvoyTraffic(folder, Listener(model=NAME, port=free_port()), backends)
    try:
        traffic.start()
        yield traffic
    finally:
        traffic.stop(0)


@pytest.fixture(params=["gateway", "envoy", "memory"])
def traffic(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "envoy":
        with envoy(tmp_path) as started:
            yield started
    else:
        yield gateway() if request.param == "gateway" else MemoryTraffic([1, 2, 3])


def route(weights: dict[int, int], **more: Any) -> Route:
    return Route(model=NAME, weights=weights, **more)


def test_a_model_without_a_route_has_none(traffic: Any) -> None:
    assert traffic.read(NAME) is None


def test_what_was_applied_last_is_in_force_whole(traffic: Any) -> None:
    for one in (
        route({1: 100}),
        route({1: 90, 2: 10}, warm=(1, 2)),
        route({1: 100, 2: 0}, warm=(1,)),
        route({1: 100}, mirror=3, mirror_percent=20, warm=(1, 3)),
        route({2: 100}),
    ):
        traffic.apply(one)
        assert traffic.read(NAME) == one
    assert traffic.read("others") is None


def test_the_same_again_changes_nothing(traffic: Any) -> None:
    traffic.apply(route({1: 90, 2: 10}))
    traffic.apply(route({1: 90, 2: 10}))

    assert traffic.read(NAME) == route({1: 90, 2: 10})


@pytest.mark.parametrize(
    "wrong",
    [route({1: 50, 9: 50}), route({1: 100}, warm=(1, 9))],
    ids=["weight", "warm"],
)
def test_a_version_without_a_server_is_refused_and_the_route_stays(traffic: Any, wrong: Route) -> None:
    traffic.apply(route({1: 100}))
    with pytest.raises(ServingError, match="version 9 of the route has no"):
        traffic.apply(wrong)

    assert traffic.read(NAME) == route({1: 100})


def test_weights_that_are_not_whole_are_no_route() -> None:
    for weights in ({1: 99}, {1: 60, 2: 60}, {1: 110, 2: -10}):
        with pytest.raises(ValueError, match="sum to 100"):
            route(weights)
    with pytest.raises(ValueError, match="mirror_percent"):
        route({1: 100}, mirror_percent=10)
