"""Runs of Kubeflow Pipelines: submitted once for each identity, watched, and their failures told by their steps."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, timedelta
from typing import Any

from evergrow.errors import ClusterError, EvergrowError, PipelineError
from evergrow.importing import load_object
from evergrow.integrations.diagnosis import Problem, of_pod
from evergrow.integrations.kubeflow_api import Kubeflow, Unreachable, containing, where
from evergrow.integrations.kubeflow_compile import step_of
from evergrow.integrations.kubeflow_compile import tasks as tasks_of
from evergrow.integrations.kubernetes import POD, Kubernetes, Object
from evergrow.integrations.labels import STEP
from evergrow.integrations.pod_logs import events_of, without_events
from evergrow.integrations.submission import OVER, State, Submission, SubmittedRun, written
from evergrow.journal import Event, failure, returned

STATES: Mapping[str, State] = {
    "PENDING": "pending",
    "PAUSED": "pending",
    "RUNNING": "running",
    "CANCELING": "canceled",  # and Kubeflow says FAILED of it in the end
    "SUCCEEDED": "succeeded",
    "SKIPPED": "succeeded",
    "FAILED": "failed",
    "CANCELED": "canceled",
}
COMPILE = "pipelines.compile:for_environment"
RUN_LABEL = "pipeline/runid"
"""KFP's label of a run's pods."""
CONTAINER = "main"
POLL = timedelta(seconds=2)
PATIENCE = timedelta(minutes=3)
"""How long a watched API server may be away: an upgrade of it, a port-forward that is started again."""
STUCK = timedelta(minutes=3)
"""How long a step's pod may lack what time alone does not bring. KFP itself would wait for ever."""
LOG_LINES = 40

Watch = Callable[[Event], None]
Say = Callable[[str], None]


class KubeflowRuns:
    """Runs of one environment's pipelines.

    Args:
        kubeflow: the connection.
        kubernetes: the namespace of runs' pods, for their logs and what keeps them from running; None: not to be read.
        poll: how long to wait between two looks at a run; default: POLL.
        stuck: how long a pod may be stuck; default: STUCK.
    """

    def __init__(
        self,
        kubeflow: Kubeflow,
        kubernetes: Kubernetes | None,
        poll: timedelta | None = None,
        stuck: timedelta | None = None,
    ) -> None:
        self.kubeflow = kubeflow
        self.kubernetes = kubernetes
        self.poll = POLL if poll is None else poll
        self.stuck = STUCK if stuck is None else stuck

    def submit(self, submission: Submission, again: bool = False) -> SubmittedRun:
        """Start a run, or find the one that does or did the same.

        Args:
            submission: what to run.
            again: start it even if it is there.

        Raises:
            ClusterError: Kubeflow refuses.
        """
        experiment = self.kubeflow.experiment(submission.document.name)
        if not again and (found := self._same(experiment, submission)):
            return dataclasses.replace(found, existing=True)
        compiled = load_object(COMPILE)(submission.pipeline, submission.environment, submission.document.name)
        place, models = submission.environment, self.kubeflow.client.api_models
        body = models.V2beta1Run(
            experiment_id=experiment,
            display_name=submission.name,
            description=described(place.name, submission.identity),
            pipeline_spec=compiled.to_dict(),
            runtime_config=models.V2beta1RuntimeConfig(parameters=dict(submission.arguments)),
            service_account=place.beside_steps(place.execution.pipelines.service_account),
        )
        return self._run(self.kubeflow.call(self._api.run_service_create_run, run=body))

    def get(self, run_id: str) -> SubmittedRun:
        """A run by its id.

        Raises:
            ClusterError: there is none.
        """
        return self._run(self._get(run_id))

    def runs(self, limit: int = 20) -> list[SubmittedRun]:
        """The environment's newest runs that were submitted, newest first."""
        return self._newest(limit)

    def find(self, name: str) -> SubmittedRun | None:
        """The newest run that is still known whose name begins so, however many came after it."""
        return next((run for run in self._newest(20, display_name=name) if run.name.startswith(name)), None)

    def _newest(self, limit: int, **parts: str) -> list[SubmittedRun]:
        """Runs that were submitted to the environment, and whose fields contain these texts."""
        listed = self.kubeflow.call(
            self._api.run_service_list_runs,
            namespace=self.kubeflow.namespace,
            page_size=limit,
            sort_by="created_at desc",
            filter=containing(description=described(self.kubeflow.place.name), **parts),
        )
        return [self._run(run) for run in listed.runs or []]

    def of_schedule(self, schedule_id: str, name: str, limit: int = 5) -> list[SubmittedRun]:
        """The newest runs that a schedule started, newest first.

        Args:
            schedule_id: the schedule's.
            name: the schedule's. Its runs are called by it and by when they were due; Kubeflow names them at random.
            limit: how many at most.
        """
        listed = self.kubeflow.call(
            self._api.run_service_list_runs,
            namespace=self.kubeflow.namespace,
            page_size=limit,
            sort_by="created_at desc",
            filter=where(recurring_run_id=schedule_id),
        )
        due = [(run, run.scheduled_at or run.created_at) for run in listed.runs or []]
        return [dataclasses.replace(self._run(run), name=f"{name} due {written(at)}") for run, at in due]

    def cancel(self, run: SubmittedRun) -> None:
        """Stop a run. What its steps have published stays."""
        self.kubeflow.call(self._api.run_service_terminate_run, run_id=run.id)

    def wait(self, run: SubmittedRun, watch: Watch, timeout: timedelta, say: Say = lambda _: None) -> SubmittedRun:
        """Wait until a run is over.

        Args:
            run: which.
            watch: told of each step that starts, ends or fails.
            timeout: how long; a run that Kubeflow has lost track of stays "running" for ever.
            say: told what concerns the run as a whole, and the end of the failed step's log.

        Raises:
            EvergrowError: the failed step's own error; PipelineError if it had none, and if the run was terminated.
            PipelineError: it is not over in time, or a step's pod is stuck.
            Unreachable: Kubeflow does not answer for too long.
        """
        end = time.monotonic() + timeout.total_seconds()
        progress = Progress(watch, lambda step: self._notes(run.id, step))
        hold_ups = HoldUps(self.stuck)
        while True:
            told = self._get_patiently(run.id, say)
            progress(told)
            run = self._run(told)
            if run.state in OVER:
                break
            hold_ups(run, progress, self._problems(run))
            if time.monotonic() > end:
                raise _late(run, timeout, hold_ups.last)
            time.sleep(self.poll.total_seconds())
        if run.state != "succeeded":
            raise self._failure(run, say)
        return run

    def why(self, run_id: str) -> str:
        """Why a run failed, by its step's own word or Kubernetes'."""
        return str(self._failure(self.get(run_id), lambda _: None))

    def returned(self, run: SubmittedRun) -> Mapping[str, str]:
        """What each step of a run returned, in the order they ran, as far as its pods' logs can still be read."""
        try:
            pods = (pod for pod in sorted(self._pods(run.id), key=_age) if STEP in _labels(pod))
            return returned([event for pod in pods for event in events_of(self._log(pod))])
        except ClusterError:
            return {}

    @property
    def _api(self) -> Any:
        return self.kubeflow.client.runs

    def _get(self, run_id: str) -> Any:
        return self.kubeflow.call(self._api.run_service_get_run, run_id=run_id)

    def _get_patiently(self, run_id: str, say: Say) -> Any:
        end, is_told = time.monotonic() + PATIENCE.total_seconds(), False
        while True:
            try:
                return self._get(run_id)
            except Unreachable as error:
                if time.monotonic() > end:
                    raise
                if not is_told:
                    say(f"{error}; trying again")
                is_told = True
                time.sleep(self.poll.total_seconds())

    def _same(self, experiment: str, submission: Submission) -> SubmittedRun | None:
        """The newest run of a submission's identity that need not be repeated."""
        listed = self.kubeflow.call(
            self._api.run_service_list_runs,
            experiment_id=experiment,
            page_size=20,
            sort_by="created_at desc",
            filter=containing(description=described(submission.environment.name, submission.identity)),
        )
        alive = (self._run(run) for run in listed.runs or [] if run.storage_state != "ARCHIVED")
        return next((run for run in alive if run.state in submission.needless_after), None)

    def _run(self, told: Any) -> SubmittedRun:
        state = STATES.get(str(told.state), "pending" if told.state is None else "unknown")
        link = self.kubeflow.link(told.run_id)
        created, ended = (at.astimezone(UTC) if at else None for at in (told.created_at, told.finished_at))
        return SubmittedRun(
            told.display_name, told.run_id, state, link, "kubeflow", created, ended=ended if state in OVER else None
        )

    def _pods(self, run_id: str, step: str | None = None) -> list[Object]:
        """A run's pods, or those of one of its steps; none if they must not be read."""
        if self.kubernetes is None:
            return []
        try:
            return self.kubernetes.search(POD, {RUN_LABEL: run_id} | ({STEP: step} if step else {}))
        except ClusterError:
            return []

    def _notes(self, run_id: str, step: str) -> list[str]:
        """What a step has said of its work; nothing of steps side by side, for it is not known which is which."""
        pods = [pod for pod in self._pods(run_id, step) if pod["status"].get("phase") == "Succeeded"]
        if len(pods) != 1:
            return []
        try:
            events = events_of(self._log(pods[0]))
        except ClusterError:
            return []
        return [event.text for event in events if event.what == "noted" and not event.passing]

    def _log(self, pod: Object) -> str:
        assert self.kubernetes is not None
        return self.kubernetes.log(pod["metadata"]["name"], CONTAINER)

    def _problems(self, run: SubmittedRun) -> Iterator[tuple[str, Problem]]:
        """What keeps steps from running, by the step's name."""
        for pod in self._pods(run.id):
            if STEP in _labels(pod) and pod["status"].get("phase") == "Pending":
                yield from ((_labels(pod)[STEP], problem) for problem in of_pod(pod))

    def _failure(self, run: SubmittedRun, say: Say) -> EvergrowError:
        """Why a run failed: by its step's own word, else by what Kubernetes says of its pod."""
        if run.state == "canceled":
            return PipelineError(f"{run.name}: was terminated", hint=f"the run: {run.link}")
        pods = [pod for pod in self._pods(run.id) if pod["status"].get("phase") == "Failed"]
        error = self._told_by(_last_attempt(pods), say) if pods else None
        if error is None:
            error = PipelineError(f"{run.name}: failed", hint=self._no_pods())
        error.hint = "\n".join(filter(None, (error.hint, f"the run: {run.link}")))
        return error

    def _told_by(self, pod: Object, say: Say) -> EvergrowError | None:
        name, step = pod["metadata"]["name"], _labels(pod).get(STEP, "")
        try:
            log = self._log(pod)
        except ClusterError as error:
            return PipelineError(f"step {step}: failed, and its log cannot be read: {error}", hint=error.hint)
        if tail := without_events(log).strip().splitlines()[-LOG_LINES:]:
            say("\n".join([f"the end of the log of {step or 'Kubeflow itself'} (pod {name}):", *tail]))
        events = events_of(log)
        if any(event.what == "failed" for event in events):
            return failure(events)
        found = next(of_pod(pod), None)
        subject = f"step {step}" if step else f"Kubeflow's own pod {name}"
        return PipelineError(f"{subject}: {found.what}: {found.why}", hint=found.fix) if found else None

    def _no_pods(self) -> str:
        if self.kubernetes is None:
            return "its logs are in Kubeflow's user interface"
        try:
            self.kubernetes.search(POD, {RUN_LABEL: "none"})
        except ClusterError as error:
            return f"its pods cannot be read, so see its logs in Kubeflow's user interface: {error}"
        return "its pods are gone; Kubeflow's user interface may still have their logs"


class Progress:
    """Turns what Kubeflow says of a run's tasks into events, each once.

    Args:
        watch: told of each event.
        notes: what a step that has ended has said of its work.
    """

    def __init__(self, watch: Watch, notes: Callable[[str], list[str]]) -> None:
        self.watch = watch
        self.notes = notes
        self.steps: frozenset[str] = frozenset()
        self.numbers: dict[str, int] = {}
        self.told: dict[str, str] = {}
        self.names: dict[str, str] = {}

    def __call__(self, told: Any) -> None:
        """Take note of a run as the API gives it."""
        self.steps = self.steps or steps_in(told.pipeline_spec or {})
        # Kubeflow gives tasks in no order.
        for task in sorted((told.run_details and told.run_details.task_details) or [], key=_begin):
            name = str(task.display_name).replace("-", "_")
            if name in self.steps:
                self._note(task, name)

    def _note(self, task: Any, name: str) -> None:
        state, before = STATES.get(str(task.state), "pending"), self.told.get(task.task_id)
        if state == before or state in ("pending", "unknown") or task.state == "SKIPPED":
            return
        self.told[task.task_id], self.names[task.task_id] = state, name
        number = self.numbers.setdefault(task.task_id, len(self.numbers))
        if before is None:
            self.watch(Event(step=name, process=number, at=_seconds(task.start_time), what="started"))
        if state == "succeeded":
            for text in self.notes(name):
                self.watch(Event(step=name, process=number, at=_seconds(task.end_time), what="noted", text=text))
            self.watch(Event(step=name, process=number, at=_seconds(task.end_time), what="ended"))
        if state in ("failed", "canceled"):
            self.watch(Event(step=name, process=number, at=_seconds(task.end_time), what="failed"))

    def note(self, step: str, text: str) -> None:
        """Say something of a step that has started and not ended; nothing of any other."""
        open_ones = (task for task, name in self.names.items() if name == step and self.told[task] == "running")
        if task := next(open_ones, None):
            number = self.numbers[task]
            self.watch(Event(step=step, process=number, at=time.time(), what="noted", text=text, passing=True))


class HoldUps:
    """Pods that do not get to run: told when they are seen, and the end of waiting when they stay."""

    def __init__(self, patience: timedelta) -> None:
        self.patience = patience
        self.since: dict[tuple[str, Problem], float] = {}
        self.last: Problem | None = None

    def __call__(self, run: SubmittedRun, progress: Progress, found: Iterator[tuple[str, Problem]]) -> None:
        """Compare what is seen with what was seen before.

        Raises:
            PipelineError: one has stayed for too long.
        """
        now, seen = time.monotonic(), dict.fromkeys(found)
        for step, problem in seen.keys() - self.since.keys():
            progress.note(step, problem.what)
        self.since = {key: self.since.get(key, now) for key in seen}
        self.last = next((problem for _, problem in self.since), None)
        for (step, problem), since in self.since.items():
            if now - since > self.patience.total_seconds():
                raise PipelineError(
                    f"step {step}: {problem.what}: {problem.why}",
                    hint=f"{problem.fix}\nthe run goes on waiting for that: {run.link}",
                )


def described(environment: str, identity: str = "") -> str:
    """What a run's description says, by which it is found again."""
    return f"evergrow environment={environment} identity={identity}"


def steps_in(spec: Mapping[str, Any]) -> frozenset[str]:
    """The steps of a pipeline as the API gives it, with or without its platform's part."""
    ir = spec.get("pipeline_spec", spec)
    if "root" not in ir:
        return frozenset()
    executors = (ir["components"][task["componentRef"]["name"]].get("executorLabel") for task in tasks_of(ir))
    return frozenset(step_of(executor) for executor in executors if executor)


def _late(run: SubmittedRun, timeout: timedelta, problem: Problem | None) -> PipelineError:
    why = f": {problem.where}: {problem.what}" if problem else ""
    fix = problem.fix if problem else "Kubeflow may have lost track of it"
    return PipelineError(
        f"{run.name}: is {run.state} still after {timeout}{why}",
        hint=f"{fix}\nonly the waiting has ended, the run goes on: {run.link}",
    )


def _last_attempt(pods: list[Object]) -> Object:
    """Of failed pods, the last attempt of the step that failed first; Kubeflow's own only if no step failed."""
    by_age = sorted(pods, key=lambda pod: (STEP not in _labels(pod), _age(pod)))
    step = _labels(by_age[0]).get(STEP)
    return [pod for pod in by_age if _labels(pod).get(STEP) == step][-1]


def _age(pod: Object) -> str:
    return str(pod["metadata"]["creationTimestamp"])


def _labels(pod: Object) -> Mapping[str, str]:
    labels: Mapping[str, str] = pod["metadata"].get("labels", {})
    return labels


def _begin(task: Any) -> float:
    return _seconds(task.start_time)


def _seconds(at: Any) -> float:
    return float(at.timestamp()) if at and at.timestamp() > 0 else time.time()
