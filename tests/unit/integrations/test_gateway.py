"""A route as Gateway API has it: who is drawn, who is asked for by name, and that no caller says which way it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.contracts import Route
from evergrow.errors import ServingError
from evergrow.integrations.gateway import http_route
from evergrow.rollout.desired import in_proportion
from tests.unit.integrations.test_kserve import PLACE
from tests.unit.integrations.test_traffic_laws import gateway

SERVICES = {version: f"bikes-v{version}" for version in range(1, 6)}
weights = st.dictionaries(st.integers(1, 5), st.integers(0, 100), min_size=1, max_size=5).filter(
    lambda found: sum(found.values()) > 0
)


def rules(route: Route) -> list:
    return http_route(PLACE, route, SERVICES)["spec"]["rules"]


@given(weights)
def test_shares_are_those_of_the_route_and_each_has_its_propensity(found):
    route = Route(model="bikes", weights=in_proportion(found))
    (drawn,) = rules(route)

    shares = {
        int(b["name"].removeprefix("bikes-v").removesuffix("-predictor")): b["weight"] for b in drawn["backendRefs"]
    }
    assert shares == {version: weight for version, weight in route.weights.items() if weight > 0}
    for backend in drawn["backendRefs"]:
        (headers,) = backend["filters"]
        told = {h["name"]: h["value"] for h in headers["requestHeaderModifier"]["set"]}
        assert told == {
            "x-evergrow-route": "weights",
            "x-evergrow-propensity": f"{backend['weight'] / 100:g}",
            "x-evergrow-drawn": backend["name"].removeprefix("bikes-v").removesuffix("-predictor"),
        }


def test_a_warm_version_is_asked_for_by_its_number_and_has_no_propensity():
    _, named = rules(Route(model="bikes", weights={1: 100}, warm=(2,)))
    (headers,) = named["filters"]

    assert named["matches"] == [{"headers": [{"type": "Exact", "name": "x-evergrow-version", "value": "2"}]}]
    assert named["backendRefs"] == [{"name": "bikes-v2-predictor", "port": 80}]
    assert headers["requestHeaderModifier"] == {
        "set": [{"name": "x-evergrow-route", "value": "named"}, {"name": "x-evergrow-drawn", "value": "2"}],
        "remove": ["x-evergrow-propensity"],
    }


def test_copies_go_to_the_shadow_and_say_for_which_version_the_request_was_drawn():
    (drawn,) = rules(Route(model="bikes", weights={1: 100}, mirror=2, mirror_percent=30))
    (copied,) = drawn["filters"]

    assert copied == {
        "type": "RequestMirror",
        "requestMirror": {"backendRef": {"name": "bikes-v2-predictor", "port": 80}, "percent": 30},
    }
    assert [backend["name"] for backend in drawn["backendRefs"]] == ["bikes-v1-predictor"]


def test_a_shadow_without_a_server_is_refused():
    with pytest.raises(ServingError, match="version 9 of the route has no InferenceService"):
        http_route(PLACE, Route(model="bikes", weights={1: 100}, mirror=9, mirror_percent=30), SERVICES)


def test_callers_cannot_be_kept_to_a_version_and_that_is_said():
    with pytest.raises(ServingError, match=r"rollout\.sticky.*must be empty on a cluster"):
        gateway().apply(Route(model="bikes", weights={1: 100}, sticky=True))
