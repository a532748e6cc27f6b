"""A model served on this machine while its rollouts are carried out: servers, gateway, shipper and controller.

    <home>/serving/<model>/gateway/    the gateway's files, and `counts.json`
    <home>/serving/<model>/logs/       what servers and shipper print
    <home>/rollouts/<model>/.served    locked while the model is served so; says by whom

Servers, gateway and shipper are processes of their own, which end with this one. Killed and started again, it goes on
from the files of its rollouts.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from evergrow.contracts import Route
from evergrow.environment import Environment
from evergrow.errors import ConflictError, EvergrowError, ServingError, as_text
from evergrow.integrations import envoy_config
from evergrow.integrations.child_processes import start_child
from evergrow.integrations.clocks import OffsetClock
from evergrow.integrations.envoy import EnvoyTraffic
from evergrow.integrations.envoy_config import Listener
from evergrow.integrations.gateway_counts import RequestCounts
from evergrow.integrations.rollout_files import RolloutEvent, RolloutFiles
from evergrow.integrations.server_processes import ServerProcesses, Start, version_directory
from evergrow.integrations.serving import point, served
from evergrow.ports import Clock, Witness
from evergrow.rollout.attempt import Attempt
from evergrow.rollout.control import Controller
from evergrow.rollout.evidence import Evidence
from evergrow.spec import ContinualModel

LOOK_SECONDS = 1.0
POLL_SECONDS = 0.05
SHIP_SECONDS = 20.0
"""How long the end waits for what was recorded to be shipped; the shipper itself goes on."""
CLAIM_SECONDS = 1.0
"""Who asks whether a model is served holds its lock for a moment."""
PORT_SECONDS = 15.0
"""How long the beginning waits for the port: a gateway whose serving process was killed needs a moment to end."""

logger = logging.getLogger("evergrow.rollouts")


class LocalChampions:
    """`evergrow.ports.Champions` of this machine: MLflow's alias, and the link `current` to what is served."""

    def __init__(self, environment: Environment, clock: Clock) -> None:
        self.environment = environment
        self.clock = clock

    def serving(self, model: str) -> int | None:
        """The version that `current` points to; None if there is no such link."""
        about = served(self.environment.serving(model))
        return None if about is None else int(about["version"])

    def promote(self, model: str, version: int, reason: str) -> None:
        """Put it on record, then move the link; again changes nothing.

        Raises:
            RegistryError: there is no such version, or MLflow refuses or does not answer.
            ServingError: the version is not prepared on this machine.
        """
        from evergrow.integrations.mlflow import MlflowRegistry  # takes seconds, once

        root = self.environment.serving(model)
        directory = version_directory(root, version)
        if directory is None:
            raise ServingError(f"{model}: version {version} is not prepared in {root}")
        registry = MlflowRegistry(self.environment)
        registry.promote(registry.known(model, version), reason, self.clock.now())
        point(root.resolve(), directory.resolve())


class LateWitness:
    """`evergrow.ports.Witness` by the prediction log, which is imported when it is first asked: that takes seconds."""

    def __init__(self, environment: Environment, counters: RequestCounts) -> None:
        self.environment, self.counters = environment, counters

    @cached_property
    def _log(self) -> Witness:
        from evergrow.integrations.rollout_evidence import LogWitness

        return LogWitness(self.environment, self.counters)

    def examine(self, model: ContinualModel, attempt: Attempt, now: datetime) -> Evidence:
        """What is known now of an attempt."""
        return self._log.examine(model, attempt, now)


class Served(NamedTuple):
    """Who serves a model with its rollouts.

    Attributes:
        pid: of the serving process.
        port: of the gateway.
        offset: by how many seconds its clock is ahead of the machine's.
    """

    pid: int
    port: int
    offset: float

    @property
    def now(self) -> datetime:
        """The present instant as the serving process has it."""
        return OffsetClock(timedelta(seconds=self.offset)).now()


def served_by(home: Path, model: str) -> Served | None:
    """Who serves a model with its rollouts on this machine; None: nobody does."""
    path = home / "rollouts" / model / ".served"
    if not path.exists():
        return None
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Served(**json.loads(file.read() or b'{"pid": 0, "port": 0, "offset": 0}'))
    return None


@contextmanager
def claimed(home: Path, model: str, about: Served) -> Iterator[None]:
    """Be the one that serves a model with its rollouts.

    Raises:
        ServingError: another process does.
    """
    path = home / "rollouts" / model / ".served"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        until = time.monotonic() + CLAIM_SECONDS
        while not _locked(file):
            other = served_by(home, model)
            if other is not None and time.monotonic() > until:
                raise ServingError(
                    f"{model} is served with its rollouts already, by process {other.pid} on port {other.port}"
                )
            time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(json.dumps(about._asdict()).encode())
        file.flush()
        yield


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass
class RolloutServing:
    """A model that is served while its rollouts are carried out.

    What answers depends on servers and gateway alone: where the controller, the registry or the log is not well, the
    route stays as it is, and a server that ends is started again.

    Attributes:
        environment: where.
        listener: where the gateway listens, and whose it is.
        start: the command that serves a version's directory on ports.
        shipper: the command that ships what servers record.
        clock: what is taken for the present.
        witness: what tells of candidates; None: the prediction log and the gateway's counters.
        grpc: whether gRPC is served, too, on the gateway's port.
        tell: takes each line that is news for people.
    """

    environment: Environment
    listener: Listener
    start: Start
    shipper: Sequence[str]
    clock: OffsetClock = field(default_factory=OffsetClock)
    witness: Witness | None = None
    grpc: bool = False
    tell: Callable[[str], None] = print

    def __post_init__(self) -> None:
        model, folder = self.listener.model, self.environment.serving(self.listener.model)
        self.model, self.logs = model, folder / "logs"
        self.rollouts = RolloutFiles(self.environment.home, self.clock.now)
        self.fleet = ServerProcesses(model, folder, self.logs, self.start, self.grpc)
        self.gateway = EnvoyTraffic(folder / "gateway", self.listener, self.fleet.backends)
        self.champions = LocalChampions(self.environment, self.clock)
        self.counts = RequestCounts(self.gateway.counts, self.gateway.unsent, folder / "gateway" / "counts.json")
        witness = self.witness or LateWitness(self.environment, self.counts)
        self.controller = Controller(self.rollouts, self.fleet, self.gateway, witness, self.champions, self.clock)
        self._shipping: subprocess.Popen[bytes] | None = None
        self._troubles: dict[str, str] = {}
        self._told = len(self.rollouts.events(model))
        self._answers = ""
        self._before, self._in_force = self.gateway.read(model), False

    # -- the loop --

    def run(self, is_told_to_stop: Callable[[], bool]) -> None:
        """Serve until told to stop, then answer what is under way and end.

        Raises:
            ServingError: another process serves the model so, nothing of it is prepared here, or the port is taken.
        """
        about = Served(os.getpid(), self.listener.port, self.clock.offset.total_seconds())
        with claimed(self.environment.home, self.model, about):
            self._check()
            try:
                self._open(is_told_to_stop)
                while not is_told_to_stop():
                    self.look()
                    self._rest(is_told_to_stop)
            finally:
                self.stop()

    def look(self) -> None:
        """Do once all that is to be done; what goes wrong is told, and does not hold up the rest."""
        self._try("the shipper", self._ship)
        self._try("the gateway", self.gateway.start)
        self._try("serving", self._serve)
        self._try("the counters", self._count)
        self._try("the rollout", self._decide)
        self._try("the events", self._news)

    def stop(self) -> None:
        """Answer what is under way, end servers and gateway, and have what was recorded shipped."""
        self.gateway.stop()
        self.fleet.stop()
        if self._shipping is not None:
            self._shipping.terminate()
            try:
                self._shipping.wait(SHIP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("%s: not all that was recorded is shipped yet; the shipper goes on", self.model)

    def _check(self) -> None:
        folder = self.environment.serving(self.model)
        if not any(folder.glob("versions/*/serving.json")):
            raise ServingError(
                f"{self.model}: no version is prepared in {self.environment.home}",
                hint="`evergrow run training` deploys the first version that passes its gate",
            )

    def _open(self, is_told_to_stop: Callable[[], bool]) -> None:
        """Start the gateway; while no server is there, it says that nobody answers."""
        until = time.monotonic() + PORT_SECONDS
        while not is_told_to_stop():
            try:
                self.gateway.start()
            except ServingError:
                if time.monotonic() > until:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                self.tell(f"{self.model}: the gateway listens on http://{self.listener.host}:{self.listener.port}")
                return

    def _rest(self, is_told_to_stop: Callable[[], bool]) -> None:
        """Wait until it is time to look again, or somebody has changed a rollout."""
        until, seen = time.monotonic() + LOOK_SECONDS, self._changed()
        while time.monotonic() < until and self._changed() == seen and not is_told_to_stop():
            time.sleep(POLL_SECONDS)

    def _changed(self) -> int:
        folder = self.rollouts.folder(self.model)
        return folder.stat().st_mtime_ns if folder.exists() else 0

    # -- what is done --

    def _ship(self) -> None:
        if self._shipping is None or self._shipping.poll() is not None:
            self.logs.mkdir(parents=True, exist_ok=True)
            self._shipping = start_child(self.shipper, self.logs / "shipper.log")

    def _serve(self) -> None:
        """Have servers for all who answer, on a route that knows where they listen.

        The route that was in force before comes back once its servers are ready: what failed until then would count as
        a candidate's errors. Until it does, the champion answers.
        """
        route, champion = self.gateway.read(self.model), self.champions.serving(self.model)
        for version in self._answering(route, champion):
            self._try(f"version {version}", partial(self.fleet.ensure, self.model, version, 1))
        if not self.gateway.running:
            return
        ready = self.fleet.ready(self.model).keys()
        if route is not None and envoy_config.versions(route) <= ready:
            self.gateway.apply(route)  # again, for a server that was started again may listen elsewhere
            self._in_force = True
        elif champion in ready and champion is not None and not (self._in_force or route != self._before):
            self.gateway.apply(Route(model=self.model, weights={champion: 100}, warm=(champion,)))

    def _decide(self) -> None:
        """Carry out rollouts; without any, let go who served before the champion was replaced."""
        self.controller.reconcile(self.model)
        route, champion = self.gateway.read(self.model), self.champions.serving(self.model)
        if route is not None and champion is not None and not self.rollouts.attempts(self.model):
            self.fleet.keep(self.model, frozenset({champion, *envoy_config.versions(route)}))

    def _answering(self, route: Route | None, champion: int | None) -> Collection[int]:
        if route is None:
            return [] if champion is None else [champion]
        return [version for version, weight in sorted(route.weights.items()) if weight > 0]

    def _count(self) -> None:
        attempts = self.rollouts.attempts(self.model)
        if attempts and not attempts[-1].over:
            self.counts.look(attempts[-1].name, sorted(self.fleet.backends))

    # -- what is told --

    def _news(self) -> None:
        """Tell what happened, and who answers if that has changed."""
        events = self.rollouts.events(self.model)
        for event in events[self._told :]:
            self.tell(told(event))
        self._told = len(events)
        route = self.gateway.read(self.model)
        answers = self._answers if route is None else who_answers(route)
        if answers != self._answers:
            self.tell(f"{self.model}: {answers}")
        self._answers = answers

    def _try(self, what: str, act: Callable[[], Any]) -> None:
        """Do it; an error is told once, until it is another or none."""
        try:
            act()
        except ConflictError:
            return  # somebody gave an order meanwhile: the next look sees it
        except EvergrowError as error:
            text = as_text(str(error), error.hint)
            if self._troubles.get(what) != text:
                logger.warning("%s: %s: %s", self.model, what, text)
            self._troubles[what] = text
        except Exception as error:  # whatever it is, who answers goes on
            if self._troubles.get(what) != repr(error):
                logger.exception("%s: %s", self.model, what)
            self._troubles[what] = repr(error)
        else:
            self._troubles.pop(what, None)


def told(event: RolloutEvent) -> str:
    """An event as a line."""
    return f"{event.at:%Y-%m-%d %H:%M:%S} {event.name}: {event.reason}: {event.message}"


def who_answers(route: Route) -> str:
    """A route as words.

    >>> who_answers(Route(model="m", weights={3: 90, 4: 10}, mirror=5, mirror_percent=20))
    'version 3 answers 90 %, version 4 10 %, version 5 gets copies of 20 %'
    """
    shares = [(version, weight) for version, weight in sorted(route.weights.items()) if weight > 0]
    words = [
        f"version {version} {'answers ' if i == 0 else ''}{weight} %" for i, (version, weight) in enumerate(shares)
    ]
    copies = [] if route.mirror is None else [f"version {route.mirror} gets copies of {route.mirror_percent} %"]
    return ", ".join([*words, *copies])
