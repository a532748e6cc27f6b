"""Pipelines without a Kubeflow installation: KFP's local orchestrator decides, and each step runs in a Pod of its own.

The orchestrator is the one that runs pipelines on one machine (`kfp.local`), so the same compiled pipeline decides
order, branches, loops and artifacts; only what carries out a step differs. Artifacts go from pod to pod through the
object store.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp.local import status, task_dispatcher
from kfp.local.task_handler_interface import ITaskHandler

from evergrow.environment import Environment
from evergrow.errors import ClusterError, PipelineError, StoreError
from evergrow.integrations.environments import CONFIGURATION
from evergrow.integrations.kserve import reasons
from evergrow.integrations.kubeflow import REMOTE
from evergrow.integrations.kubernetes import POD, Kubernetes, Object
from evergrow.integrations.labels import ENVIRONMENT, JOB, MANAGED_BY, MODEL, RUN, STEP
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.places import place_of
from evergrow.integrations.pod_logs import events_of
from evergrow.integrations.pod_step import OUTPUT, ROOT, TEMPORARY, executor_input, task_folder
from evergrow.journal import FOLDER, STDOUT, Event, Journal, failure
from evergrow.spec.environment import EnvironmentSpec, Step

POLL_SECONDS = 0.5
# A pod that cannot start for a reason of its own gets this long to be mended: a Secret may be on its way.
START_SECONDS = 120.0
STUCK = frozenset({
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError",
})  # fmt: skip
STATE = "/home/evergrow/state"


@dataclass(frozen=True)
class Ended:
    """How a pod ended.

    Attributes:
        ok: whether its step did its work.
        error: why not; None if it did.
        lost: whether the step was not given the chance, so that it is worth another pod.
    """

    ok: bool
    error: Exception | None = None
    lost: bool = False


@dataclass(frozen=True)
class Driver:
    """The pod that drives a run, one of those that its Job makes until one has ended."""

    pod: str
    uid: str
    job: str

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Driver | None:
        """From EVERGROW_POD, EVERGROW_POD_UID and EVERGROW_JOB; None outside of a Job of ours."""
        if "EVERGROW_POD_UID" not in variables:
            return None
        return cls(variables["EVERGROW_POD"], variables["EVERGROW_POD_UID"], variables["EVERGROW_JOB"])

    @property
    def reference(self) -> dict[str, Any]:
        """As an owner of other objects."""
        return {"apiVersion": "v1", "kind": "Pod", "name": self.pod, "uid": self.uid}


@dataclass
class PodRunner:
    """What all steps of one run share.

    Attributes:
        place: the environment.
        kubernetes: its namespace.
        store: its object store.
        folder: the run's folder here: journal and executor outputs.
        run: the run's name, also in the object store.
        driver: the pod that this process runs in, if it runs in one: it owns the steps' pods, which go when it goes.
    """

    place: EnvironmentSpec
    kubernetes: Kubernetes
    store: ObjectStore
    folder: Path
    run: str
    model: str
    driver: Driver | None = None
    numbers: Iterator[int] = field(default_factory=itertools.count)
    running: set[str] = field(default_factory=set)

    @property
    def remote(self) -> str:
        """The run's folder in the object store."""
        return f"runs/{self.run}"

    def clear(self) -> None:
        """Remove the pods of a driver that was lost before us: two of one step would do the same work twice."""
        if self.driver:
            for left in self.kubernetes.search(POD, {JOB: self.driver.job}):
                self.kubernetes.delete(POD, left["metadata"]["name"])

    def stop(self) -> None:
        """Remove the pods that are still running: nobody waits for them any more."""
        for name in sorted(self.running):
            self.kubernetes.delete(POD, name)

    def carry_out(self, image: str, command: list[str], local_root: str) -> bool:
        """Run a step in a pod, again if that is worth it; returns whether it did its work."""
        name = command[command.index("--function_to_execute") + 1]
        told = [argument.replace(local_root, str(ROOT)) for argument in command]
        how = self.place.execution.pipelines.step(name)
        for attempt in range(how.retries + 1):
            number = next(self.numbers)
            ended = self._once(f"{self.run}-{name.replace('_', '-')}-{number}", name, image, told, how, number)
            if ended.ok:
                ended = self._brought(command, told)
            if ended.ok:
                return True
            if not ended.lost or attempt == how.retries:
                self._tell(Event(step=name, process=number, at=time.time(), what="failed", **_described(ended.error)))
                return False
            pause = how.back_off.total_seconds() * 2**attempt
            text = f"{ended.error}; trying again in {pause:.0f} s ({attempt + 1} of {how.retries})"
            self._tell(Event(step=name, process=number, at=time.time(), what="noted", text=text))
            time.sleep(pause)
        return False

    def _once(self, pod: str, step: str, image: str, command: list[str], how: Step, number: int) -> Ended:
        body = self._pod(pod, step, image, command, how)
        self.running.add(pod)
        try:
            self.kubernetes.create(POD, body)
            return self._follow(pod, step, number, how)
        except ClusterError as error:
            return Ended(False, error, lost="exceeded quota" not in str(error))
        finally:
            self.running.discard(pod)

    def _follow(self, pod: str, step: str, number: int, how: Step) -> Ended:
        """Pass on what a pod says until it has ended."""
        begun, said, events = time.monotonic(), 0, []
        while True:
            found = self.kubernetes.get(POD, pod)
            if found is None:
                return Ended(False, ClusterError(f"pod {pod} was removed while it ran"), lost=True)
            phase = found.get("status", {}).get("phase", "Pending")
            if phase != "Pending":
                lines = self.kubernetes.log(pod).splitlines(keepends=True)
                fresh = [line for line in lines[said:] if line.endswith("\n") or phase in ("Succeeded", "Failed")]
                said += len(fresh)
                events += self._pass_on("".join(fresh), number)
            if phase == "Succeeded":
                return Ended(True)
            if phase == "Failed":
                return ending(step, found, events)
            if stuck(found) and time.monotonic() - begun > START_SECONDS:
                self.kubernetes.delete(POD, pod)
                return Ended(False, PipelineError(f"step {step}: its pod cannot start: {'; '.join(reasons(found))}"))
            if time.monotonic() - begun > how.timeout.total_seconds() + START_SECONDS:
                self.kubernetes.delete(POD, pod)
                why = "; ".join(reasons(found)) or f"it is {phase.lower()}"
                return Ended(False, PipelineError(f"step {step}: its pod has not ended after {how.timeout}: {why}"))
            time.sleep(POLL_SECONDS)

    def _pass_on(self, log: str, number: int) -> list[Event]:
        print(log, end="", flush=True)
        events = [event.model_copy(update={"process": number}) for event in events_of(log)]
        for event in events:
            if event.what != "failed":  # whether that is the end is decided when no further pod is tried
                self._tell(event)
        return events

    def _tell(self, event: Event) -> None:
        Journal(self.folder).write(event)

    def _brought(self, command: list[str], told: list[str]) -> Ended:
        """Bring what the step has kept here; if the store does not give it, another pod would not help."""
        try:
            self._bring_output(command, told)
        except StoreError as error:
            return Ended(False, error)
        return Ended(True)

    def _bring_output(self, command: list[str], told: list[str]) -> None:
        """Put what KFP's orchestrator reads of a step where it looks for it."""
        here = task_folder(executor_input(command))
        there = task_folder(executor_input(told)).relative_to(ROOT).as_posix()
        found = self.store.read(f"{self.remote}/{there}/{OUTPUT}")
        if found is not None:
            here.mkdir(parents=True, exist_ok=True)
            root = str(here)[: -len(there) - 1]
            (here / OUTPUT).write_bytes(found[0].replace(str(ROOT).encode(), root.encode()))

    def _pod(self, name: str, step: str, image: str, command: list[str], how: Step) -> dict[str, Any]:
        labels = {
            **how.labels,
            **MANAGED_BY,
            STEP: step,
            RUN: self.run,
            MODEL: self.model,
            ENVIRONMENT: self.place.name,
        }
        wrapped = ["python", "-m", "evergrow.integrations.pod_step", self.remote, "--", *command]
        body = pod(self.place, how, image, wrapped)
        body["activeDeadlineSeconds"] = int(how.timeout.total_seconds())
        metadata: dict[str, Any] = {"name": name, "labels": labels}
        if self.driver:
            labels[JOB] = self.driver.job
            metadata["ownerReferences"] = [self.driver.reference]
        return {"metadata": metadata, "spec": body}


def pod(place: EnvironmentSpec, how: Step, image: str, command: list[str]) -> dict[str, Any]:
    """The specification of a pod that runs a command of the steps' image, as pod security "restricted" wants it."""
    pipelines, images = place.execution.pipelines, place.code.images
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": images.pull_policy,
        "command": command,
        "envFrom": [
            {"configMapRef": {"name": CONFIGURATION}},
            {"secretRef": {"name": place.data.secrets.credentials}},
        ],
        "env": [
            {"name": "EVERGROW_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "EVERGROW_ACTOR", "value": os.environ.get("EVERGROW_ACTOR", "pipeline")},
            {"name": FOLDER, "value": STDOUT},
        ],
        "resources": how.resources.manifest(),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "state", "mountPath": STATE}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {
        "serviceAccountName": pipelines.service_account,
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "nodeSelector": dict(how.node_selector),
        "tolerations": [t.manifest() for t in how.tolerations],
        "imagePullSecrets": [{"name": name} for name in images.pull_secrets],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "state", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
        "containers": [container],
    }


def stuck(found: Object) -> bool:
    """Whether a pod waits for something that time alone does not bring."""
    statuses = found.get("status", {}).get("containerStatuses", [])
    waiting = (s.get("state", {}).get("waiting", {}).get("reason") for s in statuses)
    return any(reason in STUCK for reason in waiting)


def ending(step: str, found: Object, events: list[Event]) -> Ended:
    """What a failed pod died of, by its own word if it had one.

    A pod that was evicted, preempted or lost with its node is worth another one; so is a step whose backing service
    did not answer. One that ran out of memory or time would do so again.
    """
    told = found.get("status", {})
    reason = str(told.get("reason", ""))
    if reason == "DeadlineExceeded":
        return Ended(False, PipelineError(f"step {step}: it took longer than its timeout", hint=_OVERRIDE))
    ended = next((s.get("state", {}).get("terminated") or {} for s in told.get("containerStatuses", [])), {})
    if ended.get("reason") == "OOMKilled":
        return Ended(False, PipelineError(f"step {step}: it ran out of memory", hint=_OVERRIDE))
    error = failure(events)
    if any(event.what == "failed" for event in events) and error is not None:
        return Ended(False, error, lost=error.retriable)
    if reason or ended.get("exitCode") in (None, 137, 143):
        why = " ".join(filter(None, (reason, str(told.get("message", ""))))) or "its process was killed"
        return Ended(False, ClusterError(f"step {step}: its pod was lost: {why}"), lost=True)
    message = _last_error(str(ended.get("message", "")))
    if ended.get("exitCode") == TEMPORARY:
        return Ended(False, StoreError(f"step {step}: {message}"), lost=True)
    return Ended(False, PipelineError(f"step {step}: exit code {ended.get('exitCode')}: {message}"))


_OVERRIDE = "raise it for this step in the environment's execution.pipelines.stepOverrides"


def _last_error(log: str) -> str:
    found = re.findall(r"^\s*((?:\w+\.)*\w*(?:Error|Exception): .*)", log, re.MULTILINE)
    return found[-1] if found else (log.strip().splitlines() or ["it said nothing"])[-1]


def _described(error: Exception | None) -> dict[str, str]:
    text = re.sub(r"^step \w+: ", "", str(error))
    return {"text": text, "error": type(error).__name__, "hint": getattr(error, "hint", "")}


def run_steps_in_pods(folder: Path) -> None:
    """Have KFP's orchestrator in this process run its steps in pods.

    KFP chooses what runs a task from a fixed table, by the runner's type, so the entry is replaced: of all ways to
    have a runner of one's own, the one that leaves most of KFP as it is.
    """
    environment = Environment.read()
    place = place_of(environment)
    assert place is not None, "only where there is one is this process told to run steps in pods"
    arguments = json.loads((folder / "arguments.json").read_text(encoding="utf-8"))
    runner = PodRunner(
        place=place,
        kubernetes=Kubernetes.open(place.execution.namespace),
        store=ObjectStore.open(str(environment.store)),
        folder=folder,
        run=f"{folder.parent.name}-{uuid.uuid4().hex[:8]}".replace("_", "-"),
        model=json.loads(arguments["spec"])["metadata"]["name"],
        driver=Driver.read(os.environ),
    )
    runner.clear()
    (folder / REMOTE).write_text(runner.remote, encoding="utf-8")

    class PodTaskHandler(ITaskHandler):  # type: ignore[misc]  # KFP has no types
        def __init__(
            self, image: str, full_command: list[str], pipeline_root: str, runner: Any, env_vars: Any = None
        ) -> None:
            self.image, self.command, self.root = image, full_command, pipeline_root

        def run(self) -> Any:
            ok = runner.carry_out(self.image, self.command, self.root)
            return status.Status.SUCCESS if ok else status.Status.FAILURE

    task_dispatcher.subprocess_task_handler.SubprocessTaskHandler = PodTaskHandler
    atexit.register(runner.stop)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(_stopped(runner)))


def _stopped(runner: PodRunner) -> int:
    runner.stop()
    return 143
