"""Envoy's configuration, from who is to answer and where servers listen. Pure: nothing is read, nothing is written.

A version has a cluster of its own for each way by which requests reach it, so that they are counted apart: `weights`
for those that were drawn, `named` for those that asked for it, `shadow` for copies. The gateway alone says which way it
was: whatever a caller sends in these headers is replaced or taken away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field

from evergrow.contracts import Route, Value, digest
from evergrow.errors import ServingError
from evergrow.headers import DRAWN, ENTITY, PROPENSITY, REQUEST_ID, ROUTE, VERSION

Object = dict[str, Any]
Arm = Literal["weights", "named", "shadow"]
"""How a request reached a version; the prediction log's column `route`."""

NAME = "evergrow"
"""Of the listener, of the route configuration, and of the host that servers are told."""
COLLECTOR = "collector"
"""The cluster that spans go to."""

CONNECT_SECONDS = 1.0
# KServe's server closes a connection that was idle for 65 s: whoever closes first must be the one who sends.
IDLE_SECONDS = 30.0
# A shadow that is slow loses copies rather than to have them pile up here.
MOST_COPIES = 64
# Envoy has a caller wait for a shadow that does not read, once this much of a body could not be sent. A server takes as
# much whose model has a `maxBatch` of 65,536.
LARGEST_BODY = 64 << 20
# Only what no server has begun to work on: no connection was made (`connect-failure`), it was lost before the request
# was sent (`reset-before-request`), or the server says that it did not look at it (`refused-stream`, RFC 9113, 8.7).
# Anything else might be predicted, and recorded, twice.
SAFE_TO_RETRY = "connect-failure,reset-before-request,refused-stream"
RETRIES = 2

_API = "type.googleapis.com/envoy"
_CLUSTER = f"{_API}.config.cluster.v3.Cluster"
_ROUTES = f"{_API}.config.route.v3.RouteConfiguration"
_MANAGER = f"{_API}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_PROTOCOL = f"{_API}.extensions.upstreams.http.v3.HttpProtocolOptions"


class Backend(Value):
    """Where the server of a version listens."""

    http_port: int
    grpc_port: int = Field(default=0, description="0 for no gRPC")
    host: str = Field(default="127.0.0.1", description="an IP address")


class Collector(Value):
    """Where spans are sent, and of how many requests that come without a trace."""

    host: str
    port: int
    path: str = "/v1/traces"
    share: float = Field(default=1.0, ge=0, le=1)

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Self | None:
        """As OpenTelemetry's own variables say it to the servers; None where they name no collector.

        Raises:
            ServingError: it is to be reached by something else than HTTP without TLS, or the share is none.

        >>> Collector.read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"})
        Collector(host='localhost', port=4318, path='/v1/traces', share=1.0)
        """
        base = variables.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").rstrip("/")
        url = variables.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or (base and f"{base}/v1/traces")
        if not url:
            return None
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ServingError(f"OTEL_EXPORTER_OTLP_ENDPOINT: must be http://host:port for a gateway, found {url}")
        sampler = variables.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
        share = {"always_off": "0", "traceidratio": variables.get("OTEL_TRACES_SAMPLER_ARG", "1")}.get(sampler, "1")
        try:
            return cls(host=parts.hostname, port=parts.port or 80, path=parts.path, share=float(share))
        except ValueError as error:
            raise ServingError(f"OTEL_TRACES_SAMPLER_ARG: must be from 0 to 1, found {share}") from error


class Listener(Value):
    """What does not change while a gateway runs.

    Attributes:
        model: whose gateway it is.
        host: where it listens: an IP address.
        port: for HTTP/1.1, and for HTTP/2 without TLS, which gRPC is.
        timeout: seconds within which a request must be answered.
        collector: of spans; None for no traces.
        logs_requests: whether each request is told in a line of JSON.
    """

    model: str
    port: int
    host: str = "127.0.0.1"
    timeout: float = 60.0
    collector: Collector | None = None
    logs_requests: bool = False


class Way(NamedTuple):
    """One way to one version, by one protocol."""

    version: int
    arm: Arm
    grpc: bool = False

    @property
    def cluster(self) -> str:
        """The name of its cluster.

        >>> Way(3, "shadow").cluster, Way(4, "weights", grpc=True).cluster
        ('v3-shadow', 'v4-weights-grpc')
        """
        return f"v{self.version}-{self.arm}{'-grpc' if self.grpc else ''}"


def versions(route: Route) -> set[int]:
    """Those that requests can reach.

    >>> sorted(versions(Route(model="m", weights={1: 100, 2: 0}, mirror=3, mirror_percent=10, warm=(1,))))
    [1, 3]
    """
    return {way.version for way in _ways(route)}


def _ways(route: Route) -> Iterator[Way]:
    yield from (Way(version, "weights") for version, weight in sorted(route.weights.items()) if weight > 0)
    yield from (Way(version, "named") for version in sorted(set(route.warm)))
    if route.mirror is not None:
        yield Way(route.mirror, "shadow")


# -- clusters --


def clusters(route: Route, backends: Mapping[int, Backend]) -> list[Object]:
    """A cluster for each way that requests take.

    Raises:
        ServingError: a version of the route has no backend.
    """
    if missing := sorted(versions(route) - set(backends)):
        raise ServingError(f"{route.model}: version {missing[0]} of the route has no server, found {sorted(backends)}")
    ways = [Way(way.version, way.arm, grpc) for way, grpc in product(_ways(route), (False, True))]
    return [_cluster(way, backends[way.version]) for way in ways if not way.grpc or backends[way.version].grpc_port]


def _cluster(way: Way, backend: Backend) -> Object:
    protocol = "http2_protocol_options" if way.grpc else "http_protocol_options"
    options = {
        "@type": _PROTOCOL,
        "common_http_protocol_options": {"idle_timeout": _seconds(IDLE_SECONDS)},
        "explicit_http_config": {protocol: {}},
    }
    made = _endpoint(way.cluster, "STATIC", backend.host, backend.grpc_port if way.grpc else backend.http_port)
    made["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
    if way.arm == "shadow":
        most = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), MOST_COPIES)
        made["circuit_breakers"] = {"thresholds": [most]}
        made["per_connection_buffer_limit_bytes"] = LARGEST_BODY
    return made


def _endpoint(name: str, kind: str, host: str, port: int) -> Object:
    address = {"socket_address": {"address": host, "port_value": port}}
    return {
        "@type": _CLUSTER,
        "name": name,
        "type": kind,
        "connect_timeout": _seconds(CONNECT_SECONDS),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


# -- routes --


def routes(route: Route, grpc: bool, timeout: float = 60.0) -> Object:
    """The whole of what is decided per request. It carries the route itself, so that whoever reads it reads what is so.

    Args:
        route: who answers.
        grpc: whether all versions of it speak gRPC.
        timeout: seconds within which a request must be answered.
    """
    refused = [] if grpc else [_refuse({"prefix": "/", "grpc": {}}, 404, "gRPC is not served here; ask over HTTP")]
    listed = [rule for way in (True, False) if grpc or not way for rule in _rules(route, way, timeout)]
    return _configuration([*refused, *listed], route)


def no_routes(route: Route | None) -> Object:
    """What is decided while nobody answers; it carries the route that is to come back, if there is one."""
    return _configuration([_refuse({"prefix": "/"}, 503, "no version of the model is served yet; try again")], route)


def route_in(configuration: Mapping[str, Any]) -> Route | None:
    """The route that a configuration was made of."""
    carried = configuration.get("metadata")
    return None if carried is None else Route.model_validate(carried["filter_metadata"][NAME])


def _configuration(rules: list[Object], route: Route | None) -> Object:
    host = {"name": NAME, "domains": ["*"], "routes": rules}
    carried = {} if route is None else {"metadata": {"filter_metadata": {NAME: route.model_dump(mode="json")}}}
    # Copies are marked as such here, and no caller is to say that theirs is one.
    return {"@type": _ROUTES, "name": NAME, "virtual_hosts": [host], "request_headers_to_remove": [DRAWN], **carried}


def _rules(route: Route, grpc: bool, timeout: float) -> Iterator[Object]:
    """In their order: who asks for a version is answered by it or told that it is not there; the rest is drawn."""
    anywhere: Object = {"prefix": "/", "grpc": {}} if grpc else {"prefix": "/"}
    warm = sorted(set(route.warm))
    for version in warm:
        yield _named({**anywhere, "headers": [_header(exact=str(version))]}, Way(version, "named", grpc), timeout)
    known = f"one of {', '.join(map(str, warm))}" if warm else "absent: no version can be asked for"
    told = f"{VERSION}: must be {known}, found %REQ({VERSION}):128%"
    yield _refuse({**anywhere, "headers": [_header()]}, 404, told)
    for version in () if grpc else warm:
        path = {"path_separated_prefix": f"/v2/models/{route.model}/versions/{version}"}
        yield _named(path, Way(version, "named"), timeout)
    yield {"match": anywhere, "route": {**_drawn(route, grpc), **_action(timeout)}}


def _header(exact: str | None = None) -> Object:
    how: Object = {"present_match": True} if exact is None else {"string_match": {"exact": exact}}
    return {"name": VERSION, **how}


def _refuse(match: Object, status: int, message: str) -> Object:
    """Refuse with a text, which `_told` makes an answer of."""
    return {"match": match, "direct_response": {"status": status, "body_format": _text(message)}}


def _named(match: Object, way: Way, timeout: float) -> Object:
    return {
        "match": match,
        "route": {"cluster": way.cluster, **_action(timeout)},
        "request_headers_to_add": [_set(ROUTE, "named")],
        "request_headers_to_remove": [PROPENSITY],
    }


def _action(timeout: float) -> Object:
    retry = {
        "retry_on": SAFE_TO_RETRY,
        "num_retries": RETRIES,
        "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"},
    }
    # The server takes a host that ends in "-shadow" for a copy's.
    return {"timeout": _seconds(timeout), "retry_policy": retry, "host_rewrite_literal": NAME}


def _drawn(route: Route, grpc: bool) -> Object:
    """Weighted clusters, in the order of versions: of two, a change of weights moves no more entities than it must."""
    split: Object = {"clusters": [_weighted(way, route, grpc) for way in _ways(route) if way.arm == "weights"]}
    made: Object = {"weighted_clusters": split}
    if route.sticky:
        split["use_hash_policy"] = True
        made["hash_policy"] = [{"header": {"header_name": ENTITY, "regex_rewrite": _salted(route)}}]
    if route.mirror is not None:
        made["request_mirror_policies"] = [_copied(Way(route.mirror, "shadow", grpc), route.mirror_percent)]
    return made


def _weighted(way: Way, route: Route, grpc: bool) -> Object:
    weight = route.weights[way.version]
    return {
        "name": way._replace(grpc=grpc).cluster,
        "weight": weight,
        "request_headers_to_add": [_set(ROUTE, way.arm), _set(PROPENSITY, f"{weight / 100:g}")],
    }


def _salted(route: Route) -> Object:
    """Hash an entity together with the newest version: else the same would be the first to get each new one."""
    newest = max({*route.weights, *versions(route)})
    return {"pattern": {"regex": "^.*$"}, "substitution": rf"{route.model}/{newest}/\0"}


def _copied(way: Way, percent: int) -> Object:
    return {
        "cluster": way.cluster,
        # In millionths, for Envoy draws once for both: by hundredths, the same requests that one version answers
        # would be the ones that are copied.
        "runtime_fraction": {"default_value": {"numerator": percent * 10_000, "denominator": "MILLION"}},
        "request_headers_mutations": [{"append": _set(ROUTE, way.arm)}, {"remove": PROPENSITY}],
        "disable_shadow_host_suffix_append": True,
    }


def _set(name: str, value: str) -> Object:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


# -- the process --


def bootstrap(listener: Listener, watched: str) -> Object:
    """What Envoy is started with.

    Args:
        listener: where and how it listens.
        watched: absolute path of the folder with `clusters.json` and `routes.json`.
    """
    static: Object = {"listeners": [_listener(listener, watched)]}
    if listener.collector is not None:
        cluster = _endpoint(COLLECTOR, "STRICT_DNS", listener.collector.host, listener.collector.port)
        static["clusters"] = [{key: value for key, value in cluster.items() if key != "@type"}]
    return {
        "node": {"id": listener.model, "cluster": NAME},
        # Loopback, a port that is free, and no more of it than is asked here.
        "admin": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "allow_paths": [{"exact": "/ready"}, {"prefix": "/stats"}, {"prefix": "/drain_listeners"}],
        },
        "static_resources": static,
        "dynamic_resources": {"cds_config": _watched(watched, "clusters")},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _RUNTIME}]},
    }


_RUNTIME: Object = {
    # Spans are sent each second, or as soon as there are so many.
    "tracing.opentelemetry.flush_interval_ms": 1000,
    "tracing.opentelemetry.min_flush_spans": 100,
}


def discovered(resources: list[Object]) -> Object:
    """A file of resources; its version is their digest.

    >>> discovered([])["version_info"] == discovered([])["version_info"]
    True
    """
    return {"version_info": digest(resources), "resources": resources}


def _watched(folder: str, name: str) -> Object:
    source = {"path": f"{folder}/{name}.json", "watched_directory": {"path": folder}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def _listener(listener: Listener, watched: str) -> Object:
    address = {"address": listener.host, "port_value": listener.port}
    chain = {"filters": [{"name": "http", "typed_config": _manager(listener, watched)}]}
    # Without its own share of the port a second gateway is refused, rather than given half of the callers.
    return {
        "name": NAME,
        "address": {"socket_address": address},
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": LARGEST_BODY,
        "filter_chains": [chain],
    }


def _manager(listener: Listener, watched: str) -> Object:
    # Envoy would write into a caller's id whether it is traced, and trace only those whose id is a UUID.
    ids = dict.fromkeys(("pack_trace_reason", "use_request_id_for_trace_sampling"), False)
    uuid = {"@type": f"{_API}.extensions.request_id.uuid.v3.UuidRequestIdConfig", **ids}
    made: Object = {
        "@type": _MANAGER,
        "stat_prefix": NAME,
        "rds": {"route_config_name": NAME, "config_source": _watched(watched, "routes")},
        "http_filters": _filters(),
        # A caller's name for a request stays as it is; one that has none gets one, before it is copied.
        "preserve_external_request_id": True,
        "request_id_extension": {"typed_config": uuid},
        # Every caller is a stranger: what would have Envoy retry, or wait longer, is taken from their headers.
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        "skip_xff_append": True,
        "server_header_transformation": "PASS_THROUGH",
        "request_headers_timeout": "10s",
        "local_reply_config": _told(),
    }
    if listener.collector is not None:
        made["tracing"] = _tracing(listener.model, listener.collector)
    if listener.logs_requests:
        made["access_log"] = [_access_log()]
    return made


def _told() -> Object:
    """How the gateway's own refusals are told: as a server's are, in JSON, or in gRPC's message."""
    told = "%LOCAL_REPLY_BODY%"
    header = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    grpc = {"filter": {"header_filter": {"header": header}}, "body_format_override": _text(told)}
    return {"mappers": [grpc], "body_format": {"json_format": {"error": told}}}


def _text(template: str) -> Object:
    return {"text_format_source": {"inline_string": template}}


def _filters() -> list[Object]:
    router = {"@type": f"{_API}.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}
    statuses = {"@type": f"{_API}.extensions.filters.http.grpc_stats.v3.FilterConfig", "stats_for_all_methods": False}
    return [{"name": "grpc_stats", "typed_config": statuses}, {"name": "router", "typed_config": router}]


def _tracing(model: str, collector: Collector) -> Object:
    service = {
        "http_uri": {
            "uri": f"http://{collector.host}:{collector.port}{collector.path}",
            "cluster": COLLECTOR,
            "timeout": "2s",
        }
    }
    exporter = {
        "@type": f"{_API}.config.trace.v3.OpenTelemetryConfig",
        "service_name": f"{model}-gateway",
        "http_service": service,
    }
    return {
        "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": exporter},
        "random_sampling": {"value": 100 * collector.share},
        # A path may name what a caller asked about.
        "max_path_tag_length": 0,
    }


def _access_log() -> Object:
    told = {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "status": "%RESPONSE_CODE%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "milliseconds": "%DURATION%",
        "request_id": f"%REQ({REQUEST_ID})%",
        "flags": "%RESPONSE_FLAGS%",
    }
    stream = {"@type": f"{_API}.extensions.access_loggers.stream.v3.StdoutAccessLog"}
    return {"name": "stdout", "typed_config": {**stream, "log_format": {"json_format": told}}}


def _seconds(value: float) -> str:
    return f"{value:g}s"
