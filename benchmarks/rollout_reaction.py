"""How long a harmful version goes on answering once there is enough to see that it is: by errors, and by losses.

errors  `evergrow serve --rollout`'s own loop with a gateway and two servers, one of which fails 5 % of its requests.
        Evidence is there with the request by which the test of errors fails; the reaction is from its answer to the
        version's last.
losses  the same controller on a log whose candidate has twice the loss, with a clock that is set second by second.
        Evidence is there when the time of the block's labels is over by which the test of losses fails; the reaction
        is from then until the route is changed, computing included.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.measure import Result
from benchmarks.serving_world import free_port
from evergrow.environment import Environment
from evergrow.integrations.envoy_config import Backend, Listener
from evergrow.integrations.memory import FixedClock, MemoryTraffic
from evergrow.integrations.memory_rollouts import MemoryChampions, MemoryFleet, MemoryRollouts
from evergrow.integrations.rollouts_local import RolloutServing
from evergrow.rollout.control import Controller
from evergrow.rollout.guardrails import Answered, errors
from evergrow.spec.rollout import ModelRollout, Rollout
from tests.builders import document
from tests.unit.integrations.logged_world import LOSS, World, model
from tests.unit.rollout.simulated import CANDIDATE, HOUR, STABLE, START, answered

MODEL = "delays"
ROLLOUTS, CALLERS, PAUSE = 20, 2, 0.02
MOST_SECONDS = 10.0
LOOK = timedelta(seconds=1)
"""How often the controller looks, at least."""
WEIGHT = 20
"""Percent of the requests that the candidate gets."""

SERVER = """
import http.server, itertools, json, sys
from pathlib import Path

folder, port = Path(sys.argv[1]), int(sys.argv[2])
version, count = folder.name, itertools.count(1)

class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def do_GET(self):
        self.answer(200)
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(500 if version == "2" and next(count) % 20 == 0 else 200)
    def answer(self, status):
        content = json.dumps({"model_version": version}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *_): ...

http.server.ThreadingHTTPServer(("127.0.0.1", port), Answers).serve_forever(0.01)
"""


def run() -> list[Result]:
    """Both."""
    return [_result("fails 5 % of its requests", _errors()), _result("has twice the loss", _losses())]


class Reaction(NamedTuple):
    """Of one rollout.

    Attributes:
        seconds: from enough evidence to the end.
        all: from the candidate's first request to the end, in seconds.
        requests: of the candidate until there was enough.
    """

    seconds: float
    all: float
    requests: int


def _result(what: str, found: list[Reaction]) -> Result:
    worst = max(one.seconds for one in found)
    middle = [statistics.median(getattr(one, name) for one in found) for name in ("seconds", "all", "requests")]
    detail = (
        f"the longest of {len(found)} rollouts, median {middle[0]:.2g} s; from the candidate's first request "
        f"{middle[1]:,.3g} s, evidence after {middle[2]:,.0f} requests (medians)"
    )
    name = f"a version that {what}: from enough evidence until it is sent back"
    return Result(name, worst, "s", f"≤ {MOST_SECONDS:g}", worst <= MOST_SECONDS, detail)


# -- errors --


@dataclass
class Calls:
    """Requests as their callers saw them.

    Attributes:
        seen: when each was answered, by whom, and whether well.
    """

    port: int
    seen: list[tuple[float, str, bool]] = field(default_factory=list)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """From a few threads."""
        ended = threading.Event()
        threads = [threading.Thread(target=self._call, args=(ended,)) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def _call(self, ended: threading.Event) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not ended.wait(PAUSE):
            try:
                connection.request("POST", f"/v1/models/{MODEL}:predict", b"{}")
                answer = connection.getresponse()
                version = json.loads(answer.read())["model_version"]
            except (OSError, LookupError, ValueError, http.client.HTTPException):  # nobody is ready yet
                connection.close()
            else:
                self.seen.append((time.monotonic(), version, answer.status == http.client.OK))
        connection.close()


def _errors() -> list[Reaction]:
    with TemporaryDirectory() as name:
        home, port = Path(name), free_port()
        for version in ("1", "2"):
            directory = home / "serving" / MODEL / "versions" / version
            directory.mkdir(parents=True)
            (directory / "serving.json").write_text(json.dumps({"version": int(version)}))
        (home / "serving" / MODEL / "current").symlink_to("versions/1")
        (home / "server.py").write_text(SERVER)
        with _served(home, port) as serving:
            serving.rollouts.put_model(document(name=MODEL))
            return [_sent_back(serving, port, number) for number in range(ROLLOUTS)]


@contextmanager
def _served(home: Path, port: int) -> Iterator[RolloutServing]:
    """As `evergrow serve --rollout` does, with small servers."""

    def start(directory: Path, at: Backend) -> list[str]:
        return [sys.executable, "-S", str(home / "server.py"), str(directory), str(at.http_port)]

    stop, environment = threading.Event(), Environment.read({"EVERGROW_HOME": str(home)})
    shipper = [sys.executable, "-S", "-c", "import time; time.sleep(3600)"]
    serving = RolloutServing(
        environment, Listener(model=MODEL, port=port), start, shipper, tell=lambda line: print(line, file=sys.stderr)
    )
    # Servers and gateway end with the thread that started them.
    thread = threading.Thread(target=serving.run, args=(stop.is_set,))
    thread.start()
    try:
        yield serving
    finally:
        stop.set()
        thread.join()


def _sent_back(serving: RolloutServing, port: int, number: int) -> Reaction:
    """Roll the failing version out, and wait until nobody is answered by it any more."""
    analysis = {"decides": "guardrails", "guardrails": ["errors"]}
    how = {"strategy": {"kind": "canary", "steps": [{"weight": WEIGHT, "requests": 100_000}]}, "analysis": analysis}
    calls, name = Calls(port), f"try-{number}"
    with calls.going_on():
        serving.rollouts.create(_asked(name, 2, how))
        deadline = time.monotonic() + 300
        while not next(one for one in serving.rollouts.attempts(MODEL) if one.name == name).over:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} was not sent back")
            time.sleep(0.1)
        time.sleep(1)  # whoever is still answered by it
    return _reaction(Rollout.model_validate(how), [(at, good) for at, version, good in calls.seen if version == "2"])


def _reaction(how: Rollout, answers: list[tuple[float, bool]]) -> Reaction:
    """From the first answer by which the test fails, by what callers saw, to the last."""
    failed = 0
    for count, (at, good) in enumerate(sorted(answers), 1):
        failed += not good
        found = errors(how.analysis, 2, Answered(count, failed, None))
        if found is not None and found.outcome == "fail":
            return Reaction(answers[-1][0] - at, answers[-1][0] - answers[0][0], count)
    raise RuntimeError(f"sent back with {failed} failures in {len(answers)} answers, which is no evidence")


def _asked(name: str, version: int, how: dict[str, object]) -> ModelRollout:
    about = {"apiVersion": "evergrow.dev/v1alpha1", "kind": "ModelRollout", "metadata": {"name": name}}
    return ModelRollout.model_validate({**about, "spec": {"model": MODEL, "candidates": [version], "rollout": how}})


# -- losses --


def _losses() -> list[Reaction]:
    return [_by_loss(seed) for seed in range(ROLLOUTS)]


def _by_loss(seed: int) -> Reaction:
    """Let time go by, second by second where something may come, until the candidate has no traffic any more."""
    shares = {STABLE: 1 - WEIGHT / 100, CANDIDATE: WEIGHT / 100}
    log = answered(6000, (shares,), size={CANDIDATE: 2.0}, span=2 * HOUR, delay=timedelta(minutes=2), seed=seed)
    analysis = {**LOSS, "guardrails": []}
    how = {"strategy": {"kind": "canary", "steps": [{"weight": WEIGHT, "requests": 100_000}]}, "analysis": analysis}
    with TemporaryDirectory() as name:
        world, clock = World(Path(name), log), FixedClock(START)
        fleet, traffic, rollouts = MemoryFleet({STABLE: 1, CANDIDATE: 1}), _Traffic(), MemoryRollouts([model()])
        controller = Controller(rollouts, fleet, traffic, world.witness(), MemoryChampions(STABLE), clock)
        rollouts.create(_asked("try", CANDIDATE, how))
        parts = Rollout.model_validate(how).analysis
        for now in _instants(parts.block, parts.labels_within, seed / ROLLOUTS * LOOK):
            clock.move_to(now)
            world.ship(now)
            if now.second == 0:
                world.ingest(now)
            begun = time.perf_counter()
            controller.reconcile(MODEL)
            if rollouts.attempts(MODEL)[0].over:
                ended = now + timedelta(seconds=time.perf_counter() - begun)
                # What it was decided by is due since the end of a block and of its labels' time.
                due = START + (now - START) // parts.block * parts.block
                requests = rollouts.attempts(MODEL)[0].document.status.findings[-1].requests
                return Reaction((ended - due).total_seconds(), (ended - START).total_seconds(), requests)
    raise RuntimeError("two hours of twice the loss were not enough")


class _Traffic(MemoryTraffic):
    def __init__(self) -> None:
        super().__init__((STABLE, CANDIDATE))


def _instants(block: timedelta, within: timedelta, phase: timedelta) -> Iterator[datetime]:
    """Every second of a while after the end of each block, and every fifth one between; as often as one looks."""
    for seconds in range(int(2 * HOUR / LOOK)):
        now = START + seconds * LOOK + phase
        behind = (now - START - within) % block
        if behind <= timedelta(seconds=30) or seconds % 5 == 0:
            yield now
