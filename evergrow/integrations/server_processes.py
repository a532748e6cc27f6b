"""Servers of a model's versions on this machine: one process a version, on ports that are free.

All record into one folder, each in its writer's own, so one shipper ships them all. They end with the thread that
starts them: after a kill of the serving process nothing is left that nobody looks after.
"""

from __future__ import annotations

import http.client
import logging
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from evergrow.errors import ServingError
from evergrow.integrations.child_processes import start_child
from evergrow.integrations.envoy_config import Backend
from evergrow.integrations.serving import SERVING, served

PROBE_SECONDS = 2.0
SILENT_PROBES = 3
"""So many probes in a row that a server does not answer at all mean that it is not ready: a machine may be busy."""
STOP_SECONDS = 45.0
"""From SIGTERM to SIGKILL: longer than a server drains and waits for answers under way."""
LONGEST_PAUSE_SECONDS = 30.0
"""Between two starts of a server that never became ready."""

logger = logging.getLogger("evergrow.rollouts")

Start = Callable[[Path, Backend], Sequence[str]]
"""The command that serves a version's directory on ports."""


@dataclass
class _Server:
    """A version's process.

    Attributes:
        wanted: replicas that it stands for.
        is_ready: what it said last.
        silent: probes since then that it did not answer.
        was_ready: whether it ever was.
        failures: starts in a row after which it was not.
    """

    process: subprocess.Popen[bytes]
    backend: Backend
    log: Path
    wanted: int
    began: float
    is_ready: bool = False
    silent: int = 0
    was_ready: bool = False
    failures: int = 0

    @property
    def runs(self) -> bool:
        return self.process.poll() is None


@dataclass
class ServerProcesses:
    """`evergrow.ports.Fleet` of one model on this machine.

    A process stands for as many replicas as are wanted: a second one would share the same cores. So a rollout's shares,
    which wait for the replicas that they need, wait here for a server that is ready.

    Attributes:
        model: its name.
        root: the model's serving folder, with `versions/<n>/`.
        logs: folder for what servers print, a file a version.
        start: the command that serves a directory.
        grpc: whether servers speak gRPC.
        backends: where each version's server listens, also while it is not ready; true at any moment, and the same
            mapping for good. A server that is started again gets the port that it had, if it can.
    """

    model: str
    root: Path
    logs: Path
    start: Start
    grpc: bool = False
    backends: dict[int, Backend] = field(default_factory=dict, init=False)
    _servers: dict[int, _Server] = field(default_factory=dict, init=False)
    _leaving: list[tuple[_Server, float]] = field(default_factory=list, init=False)

    # -- the port --

    def ready(self, model: str) -> Mapping[int, int]:
        """As many as are wanted of each version whose server takes requests."""
        self._reap()
        return {version: server.wanted for version, server in self._of(model).items() if _is_ready(server)}

    def ensure(self, model: str, version: int, replicas: int) -> None:
        """Have a version's server started, without waiting for it; one that ended is started again.

        Raises:
            ServingError: the version was never prepared on this machine, or its server ended before it was ready: it
                is tried again at growing intervals.
        """
        if model != self.model:
            raise ServingError(f"model must be {self.model}, whose servers these are, found {model}")
        server = self._servers.get(version)
        if server is None:
            self._servers[version] = self._started(version, replicas)
            return
        server.wanted = max(server.wanted, replicas)
        if not server.runs:
            self._start_again(version, server)

    def keep(self, model: str, versions: frozenset[int]) -> None:
        """Ask the servers of all other versions to end after what they have under way; returns at once."""
        for version in self._of(model).keys() - versions:
            server = self._servers.pop(version)
            del self.backends[version]
            server.process.terminate()
            self._leaving.append((server, time.monotonic()))
        for server in self._of(model).values():
            server.wanted = 1
        self._reap()

    # -- beyond the port --

    def processes(self) -> dict[int, int]:
        """Process id by version, of servers that run."""
        return {version: server.process.pid for version, server in self._servers.items() if server.runs}

    def stop(self) -> None:
        """End all servers after what they have under way, and wait for it."""
        self.keep(self.model, frozenset())
        while self._leaving:
            time.sleep(0.02)
            self._reap()

    # -- how --

    def _of(self, model: str) -> dict[int, _Server]:
        return self._servers if model == self.model else {}

    def _started(self, version: int, replicas: int) -> _Server:
        directory = version_directory(self.root, version)
        if directory is None:
            raise ServingError(
                f"{self.model}: version {version} is not prepared in {self.root}",
                hint="the training pipeline's deploy step prepares a version on this machine: `evergrow run training`",
            )
        backend = _free(self.backends.get(version), self.grpc)
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"version-{version}.log"
        process = start_child(self.start(directory, backend), log)
        self.backends[version] = backend
        return _Server(process, backend, log, replicas, time.monotonic())

    def _start_again(self, version: int, ended: _Server) -> None:
        """At once if it was ready; else after a pause, and the caller is told."""
        failures = 0 if ended.was_ready else ended.failures + 1
        if time.monotonic() - ended.began >= _pause(failures):
            logger.warning(
                "%s: the server of version %s ended, exit code %s", self.model, version, ended.process.returncode
            )
            server = self._servers[version] = self._started(version, ended.wanted)
            server.failures = failures
        if failures:
            code, said = ended.process.returncode, _last_line(ended.log)
            told = f"{self.model}: the server of version {version} ended with exit code {code}, never ready: {said}"
            raise ServingError(told, hint=f"its log: {ended.log}", retriable=True)

    def _reap(self) -> None:
        """Forget those that ended, and end those that take too long."""
        for leaving in [*self._leaving]:
            server, asked = leaving
            if not server.runs:
                self._leaving.remove(leaving)
            elif time.monotonic() - asked > STOP_SECONDS:
                server.process.kill()


def version_directory(root: Path, version: int) -> Path | None:
    """The directory that serves a version: what is served now if it is of that version, else what was prepared last.

    Args:
        root: a model's serving folder.
        version: its number.
    """
    about = served(root)
    if about is not None and int(about["version"]) == version:
        return (root / "current").resolve()
    # A version that was deployed with another plan or other options has a directory beside the first.
    prepared = [root / "versions" / str(version), *(root / "versions").glob(f"{version}-*")]
    found = [path for path in prepared if (path / SERVING).exists()]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _pause(failures: int) -> float:
    return min(2.0**failures, LONGEST_PAUSE_SECONDS) if failures else 0.0


def _is_ready(server: _Server) -> bool:
    """Whether it says that it is; of one that is silent, what it said last, for a while."""
    if not server.runs:
        return False
    connection = http.client.HTTPConnection(server.backend.host, server.backend.http_port, timeout=PROBE_SECONDS)
    with closing(connection):
        try:
            connection.request("GET", "/v2/health/ready")
            server.is_ready, server.silent = connection.getresponse().status == http.client.OK, 0
        except TimeoutError:
            server.silent += 1
        except (OSError, http.client.HTTPException):
            server.is_ready = False
    server.was_ready |= server.is_ready
    return server.is_ready and server.silent < SILENT_PROBES


def _free(before: Backend | None, grpc: bool) -> Backend:
    """The ports that a server had, if they are free, else others that are."""
    if before is not None and _is_free(before.http_port) and (not grpc or _is_free(before.grpc_port)):
        return before
    return Backend(http_port=_free_port(), grpc_port=_free_port() if grpc else 0)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
