"""What Envoy is told: whole, closed, and the same route when it is read back."""

import json
import subprocess
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.contracts import Route
from evergrow.errors import ServingError
from evergrow.integrations import envoy_config as config
from evergrow.integrations.envoy import find_program
from evergrow.integrations.envoy_config import Backend, Collector, Listener

VERSIONS = range(1, 7)
BOTH = {version: Backend(http_port=9000 + version, grpc_port=9100 + version) for version in VERSIONS}
HTTP = {version: Backend(http_port=9000 + version) for version in VERSIONS}
EVERYTHING = Route(model="m", weights={1: 70, 2: 30}, mirror=3, mirror_percent=25, warm=(1, 2, 3), sticky=True)


def shares(counts: list[int]) -> list[int]:
    """Percent that sum to 100, in proportion to the counts."""
    cuts = [100 * sum(counts[:i]) // (sum(counts) or 1) for i in range(len(counts) + 1)]
    cuts[-1] = 100
    return [b - a for a, b in pairwise(cuts)]


weights = st.lists(st.sampled_from(VERSIONS), min_size=1, max_size=4, unique=True).flatmap(
    lambda versions: st.lists(st.integers(0, 100), min_size=len(versions), max_size=len(versions)).map(
        lambda counts: dict(zip(versions, shares(counts), strict=True))
    )
)
mirrors = st.one_of(
    st.just({}), st.fixed_dictionaries({"mirror": st.sampled_from(VERSIONS), "mirror_percent": st.integers(1, 100)})
)
warm = st.lists(st.sampled_from(VERSIONS), max_size=3).map(tuple)
routes = st.builds(
    lambda weights, mirror, warm, sticky: Route(model="m", weights=weights, warm=warm, sticky=sticky, **mirror),
    weights,
    mirrors,
    warm,
    st.booleans(),
)


def rules(route: Route, grpc: bool = True) -> list[dict]:
    return config.routes(route, grpc)["virtual_hosts"][0]["routes"]


def drawn(route: Route) -> list[dict]:
    """The last rule of each protocol: gRPC's and HTTP's."""
    return [rule["route"] for rule in rules(route) if "weighted_clusters" in rule.get("route", {})]


def headers(added: list[dict]) -> dict[str, str]:
    assert {header["append_action"] for header in added} == {"OVERWRITE_IF_EXISTS_OR_ADD"}
    return {header["header"]["key"]: header["header"]["value"] for header in added}


@given(routes)
def test_each_version_with_a_weight_is_drawn_once_with_its_weight_and_propensity(route):
    wanted = {f"v{version}-weights": weight for version, weight in route.weights.items() if weight}
    grpc, http = (rule["weighted_clusters"]["clusters"] for rule in drawn(route))
    assert [cluster["name"] for cluster in grpc] == [f"{cluster['name']}-grpc" for cluster in http]
    assert [cluster["name"] for cluster in http] == sorted(wanted)
    for cluster in (*grpc, *http):
        weight = wanted[cluster["name"].removesuffix("-grpc")]
        said = headers(cluster["request_headers_to_add"])
        assert (cluster["weight"], said) == (
            weight,
            {"x-evergrow-route": "weights", "x-evergrow-propensity": f"{weight / 100:g}"},
        )
    assert sum(wanted.values()) == 100


@given(routes, st.sampled_from([BOTH, HTTP]))
def test_every_cluster_that_is_named_is_there_and_no_other(route, backends):
    found = json.dumps(config.routes(route, backends is BOTH))
    names = Counter(cluster["name"] for cluster in config.clusters(route, backends))
    assert set(names.values()) == {1}
    assert {name for name in names if f'"{name}"' in found} == set(names)
    referred = [word for word in found.split('"') if word.startswith("v") and "-" in word]
    assert set(referred) == set(names)


@given(routes)
def test_the_route_is_read_back_from_the_configuration_that_was_made_of_it(route):
    assert config.route_in(json.loads(json.dumps(config.routes(route, True)))) == route
    assert config.route_in(config.no_routes(route)) == route
    assert config.route_in(config.no_routes(None)) is None


@given(routes)
def test_a_copy_is_marked_and_has_no_propensity_nor_has_what_is_asked_by_name(route):
    for rule in drawn(route):
        copies = rule.get("request_mirror_policies", [])
        assert len(copies) == (route.mirror is not None)
        for copy in copies:
            marked, removed = copy["request_headers_mutations"]
            assert headers([marked["append"]]) == {"x-evergrow-route": "shadow"}
            assert removed == {"remove": "x-evergrow-propensity"}
            fraction = copy["runtime_fraction"]["default_value"]
            assert fraction == {"numerator": route.mirror_percent * 10_000, "denominator": "MILLION"}
    named = [rule for rule in rules(route) if "cluster" in rule.get("route", {})]
    assert len(named) == 3 * len(set(route.warm))
    for rule in named:
        assert headers(rule["request_headers_to_add"]) == {"x-evergrow-route": "named"}
        assert rule["request_headers_to_remove"] == ["x-evergrow-propensity"]
        assert "request_mirror_policies" not in rule["route"]


@given(routes)
def test_only_what_no_server_has_begun_is_sent_again(route):
    sent = [rule["route"]["retry_policy"]["retry_on"] for rule in rules(route) if "route" in rule]
    assert set(sent) == {"connect-failure,reset-before-request,refused-stream"}


@given(st.integers(0, 100), st.integers(0, 100))
def test_of_two_versions_a_change_moves_no_more_entities_than_it_must(before, after):
    def slots(weight):
        """Who answers for the entities of each hundredth of the hashes, as Envoy walks along the clusters."""
        route = Route(model="m", weights={7: 100 - weight, 8: weight}, sticky=True)
        clusters = drawn(route)[1]["weighted_clusters"]["clusters"]
        return [cluster["name"] for cluster in clusters for _ in range(cluster["weight"])]

    moved = sum(a != b for a, b in zip(slots(before), slots(after), strict=True))
    assert moved == abs(after - before)


def test_entities_are_hashed_anew_for_each_new_version_and_never_while_weights_change():
    def salt(**route):
        (policy,) = drawn(Route(model="m", sticky=True, **route))[0]["hash_policy"]
        assert policy["header"]["header_name"] == "x-evergrow-entity"
        return policy["header"]["regex_rewrite"]["substitution"]

    during = {salt(weights={1: 100 - weight, 2: weight}, warm=(1, 2)) for weight in (0, 10, 50, 100)}
    assert len(during) == 1
    assert salt(weights={2: 90, 3: 10}, warm=(2, 3)) not in during
    assert "hash_policy" not in drawn(Route(model="m", weights={1: 50, 2: 50}))[0]


def test_a_version_that_requests_can_reach_needs_a_server():
    with pytest.raises(ServingError, match=r"m: version 2 of the route has no server, found \[1\]"):
        config.clusters(Route(model="m", weights={1: 100}, warm=(2,)), {1: BOTH[1]})
    assert config.clusters(Route(model="m", weights={1: 100, 2: 0}), {1: BOTH[1]}) != []


def whole(made: dict, clusters: list[dict], listener: Listener) -> dict:
    """A bootstrap with all in it that Envoy would find in the watched folder, where it does not look to validate."""
    found = config.bootstrap(listener, "/watched")
    found["static_resources"].setdefault("clusters", []).extend(clusters)
    manager = found["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"], found["dynamic_resources"]
    manager["route_config"] = made
    for resource in (*found["static_resources"]["clusters"], made):
        resource.pop("@type", None)
    return found


def test_envoy_takes_what_is_made(tmp_path):
    collector = Collector(host="localhost", port=4318)
    listener = Listener(model="m", port=8080, collector=collector, logs_requests=True)
    for made, clusters in (
        (config.routes(EVERYTHING, True), config.clusters(EVERYTHING, BOTH)),
        (config.routes(EVERYTHING, False), config.clusters(EVERYTHING, HTTP)),
        (config.no_routes(EVERYTHING), []),
    ):
        path = tmp_path / "bootstrap.json"
        path.write_text(json.dumps(whole(made, clusters, listener)))
        command = [find_program(), "--mode", "validate", "--config-path", str(path), "--log-level", "warning"]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, Collector(host="c", port=4318)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}, Collector(host="c", port=80, path="/x")),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1",
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "0.25",
            },
            Collector(host="c", port=1, share=0.25),
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_TRACES_SAMPLER": "always_off"},
            Collector(host="c", port=1, share=0),
        ),
    ],
)
def test_a_collector_is_read_from_the_variables_that_the_servers_read(variables, found):
    assert Collector.read(variables) == found


def test_a_collector_behind_tls_is_refused():
    with pytest.raises(ServingError, match="must be http://host:port for a gateway, found https://c"):
        Collector.read({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c"})


@pytest.mark.parametrize("share", ["much", "1.5"])
def test_a_share_that_is_none_is_refused(share):
    sampler = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": share}
    with pytest.raises(ServingError, match=f"must be from 0 to 1, found {share}"):
        Collector.read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", **sampler})
