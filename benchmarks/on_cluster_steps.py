"""From `evergrow submit` to the model's route: what a training run takes beyond the computing of its steps.

A step computes from its event "started" to its "ended", which its process tells. All else is overhead, and is divided
by what this machine sees of it: pods as the API server shows them change, and the first line of KFP's executor. A
deployment's wait for a new InferenceService to be Ready counts as overhead too.

The run is one that has been carried out before, so its steps find what they made. Made by other code, it is a new one:
then the gate decides anew, and if it does not pass, the run ends with the version's registration.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import urllib3.exceptions

from benchmarks.measure import Result, Skipped
from benchmarks.on_cluster import DOCUMENT, ENVIRONMENT, Installed, until
from evergrow.integrations.kserve import condition
from evergrow.integrations.kubernetes import INFERENCE_SERVICE, POD, Kubernetes, Object
from evergrow.integrations.labels import JOB, STEP
from evergrow.integrations.pod_logs import events_of
from evergrow.integrations.pods_submit import PodRuns
from evergrow.integrations.submission import OVER

AS_OF = "2013-10-01"
ROUNDS = 3
REACH = 15.0
RUN_SECONDS = 1800.0
_EXECUTOR = re.compile(r"^\[KFP Executor (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ", re.MULTILINE)


@dataclass(frozen=True)
class Moments:
    """When things happened to a step's pod, in seconds since the epoch."""

    step: str
    created: float
    executor: float
    started: float
    ended: float
    seen_ended: float


@dataclass(frozen=True)
class Overhead:
    """Seconds around one step's computing.

    Attributes:
        before: from the end of the step before, or of the driver's start, to the pod's creation.
        start: until KFP's executor speaks: scheduling, container, artifacts down, imports of both.
        imports: until the step's function begins: its own imports.
        end: from the function's end to the pod's, as the API server tells it: artifacts up.
    """

    before: float
    start: float
    imports: float
    end: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        driver: seconds from the submission to the first step's pod: the command, and the start of what drives.
        steps: the overhead of each.
        computing: seconds in all steps' functions.
        serving: of these, how long one waited for an InferenceService.
        total: seconds from the submission to the end of the last step's function, which switches the route.
    """

    driver: float
    steps: Mapping[str, Overhead]
    computing: float
    serving: float
    total: float

    @property
    def overhead(self) -> float:
        """From the submission to the route, beyond computing."""
        return self.total - self.computing + self.serving


def run() -> list[Result]:
    """Several runs, one after the other."""
    installed = Installed.find()
    if installed.place.execution.pipelines.runner != "pods":
        raise Skipped("the environment's steps are run by Kubeflow")
    return _results([measure(installed) for _ in range(ROUNDS)])


def measure(installed: Installed) -> Run:
    """Submit as a user does, and watch."""
    runs = PodRuns(installed.kubernetes, installed.place)
    submitted = time.time()
    name = submit()
    with Watch(installed.kubernetes, f"{JOB}={name}").running() as watch:
        until(lambda: runs.get(name).state in OVER, f"run {name} is not over", patience=RUN_SECONDS)
    if runs.get(name).state != "succeeded":
        raise RuntimeError(f"run {name} failed: {runs.why(name)}")
    moments = sorted(_moments(installed.kubernetes, watch), key=lambda m: m.created)
    return account(submitted, moments, waited(installed, moments))


def submit() -> str:
    """The run's id."""
    command = [sys.executable, "-m", "evergrow", "submit", "training", "-f", str(DOCUMENT), "--env", ENVIRONMENT]
    command += ["--as-of", AS_OF, "--reason", "benchmark", "--again", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"submitting failed:\n{done.stderr[-2000:]}")
    return str(json.loads(done.stdout)["id"])


@dataclass
class Watch:
    """Pods as the API server shows them change.

    Attributes:
        created: when each pod was first seen.
        ended: when each pod was first seen to have ended.
    """

    kubernetes: Kubernetes
    selector: str
    created: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    @contextmanager
    def running(self) -> Iterator[Watch]:
        """Look on while the body runs."""
        answer = self._open()
        looking = threading.Thread(target=self._look, args=(answer,), daemon=True)
        looking.start()
        try:
            yield self
        finally:
            looking.join(timeout=2)  # the last pod's end may still be on its way
            answer.shutdown()  # close() would wait for the thread that reads

    def _open(self) -> Any:
        query = [("watch", "true"), ("labelSelector", self.selector)]
        return self.kubernetes.client.call_api(
            POD.path(self.kubernetes.namespace),
            "GET",
            query_params=query,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
        )

    def _look(self, answer: Any) -> None:
        try:
            for line in answer:
                self.see(json.loads(line)["object"], time.time())
        except urllib3.exceptions.HTTPError:
            return  # shut down

    def see(self, pod: Object, now: float) -> None:
        """Note what is new of a pod."""
        name, phase = pod["metadata"]["name"], pod.get("status", {}).get("phase")
        self.created.setdefault(name, now)
        if phase in ("Succeeded", "Failed"):
            self.ended.setdefault(name, now)
        if phase == "Failed":
            self.failed.add(name)


def _moments(kubernetes: Kubernetes, watch: Watch) -> Iterator[Moments]:
    """Of each pod that did its step's work."""
    for name in watch.created.keys() - watch.failed:
        pod = kubernetes.get(POD, name) or {}
        yield read(pod["metadata"]["labels"][STEP], kubernetes.log(name), watch.created[name], watch.ended[name])


def read(step: str, log: str, created: float, seen_ended: float) -> Moments:
    """What a pod's log and the watch say of its step."""
    told = {event.what: event.at for event in events_of(log) if event.what in ("started", "ended")}
    spoke = _EXECUTOR.search(log)
    if spoke is None:
        raise RuntimeError(f"step {step}: KFP's executor has not said when it began")
    executor = datetime.strptime(spoke[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp() + int(spoke[2]) / 1000
    return Moments(step, created, executor, told["started"], told["ended"], seen_ended)


def waited(installed: Installed, moments: Sequence[Moments]) -> float:
    """Seconds for which the deployment waited for an InferenceService that it made; 0 if it served already."""
    found = installed.kubernetes.get(INFERENCE_SERVICE, Installed.find().service) or {}
    made, ready = (
        datetime.fromisoformat(text).timestamp()
        for text in (found["metadata"]["creationTimestamp"], condition(found, "Ready")["lastTransitionTime"])
    )
    return ready - made if made >= moments[-1].started - 1 else 0.0


def account(submitted: float, moments: Sequence[Moments], serving: float) -> Run:
    """Divide the time of a run."""
    steps, before = {}, moments[0].created
    for m in moments:
        last = m is moments[-1]
        steps[m.step] = Overhead(
            before=m.created - before,
            start=m.executor - m.created,
            imports=m.started - m.executor,
            end=0.0 if last else m.seen_ended - m.ended,
        )
        before = m.seen_ended
    computing = sum(m.ended - m.started for m in moments)
    return Run(moments[0].created - submitted, steps, computing, serving, moments[-1].ended - submitted)


def _results(runs: Sequence[Run]) -> list[Result]:
    steps = {"the driver": statistics.median(run.driver for run in runs)}
    steps |= {step: statistics.median(run.steps[step].total for run in runs) for step in runs[0].steps}
    worst = max(steps, key=lambda step: steps[step])
    each = ", ".join(f"{step} {seconds:.1f}" for step, seconds in steps.items())
    computing, serving = (statistics.median(getattr(run, n) for run in runs) for n in ("computing", "serving"))
    end = "the route" if "deploy" in runs[0].steps else f"the end of {list(runs[0].steps)[-1]}: the gate did not pass"
    name = "trigger → model serving, beyond the computing of its steps"
    return [
        Result(
            name=f"{name}: most of any step",
            value=steps[worst],
            unit="s",
            reach=f"≤ {REACH:g}",
            holds=steps[worst] <= REACH,
            detail=f"{each}; of a step {_parts(runs)}",
        ),
        Result(
            name=f"{name}: in total",
            value=statistics.median(run.overhead for run in runs),
            unit="s",
            reach="stated",
            holds=True,
            detail=f"until {end}; {len(steps) - 1} steps computed for {computing:.1f} s, "
            f"of which {serving:.1f} s until a new InferenceService was Ready count as overhead",
        ),
    ]


def _parts(runs: Sequence[Run]) -> str:
    """The parts of a step's overhead, medians over steps and runs."""
    words = {
        "before": "until its pod is made",
        "start": "for start and artifacts down",
        "imports": "for its imports",
        "end": "for artifacts up and the end to be seen",
    }
    all_steps = [overhead for run in runs for overhead in run.steps.values()]
    return ", ".join(
        f"{statistics.median(getattr(each, part) for each in all_steps):.1f} {what}" for part, what in words.items()
    )
