"""Runs handed to a cluster without Kubeflow: a Job drives the pipeline, and starts a Pod for each of its steps."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import yaml

from evergrow.errors import PipelineError
from evergrow.integrations.kserve import reasons
from evergrow.integrations.kubernetes import CONFIG_MAP, JOB, POD, Kubernetes, Object
from evergrow.integrations.labels import ENVIRONMENT, MANAGED_BY, MODEL, PIPELINE, SUBMISSION
from evergrow.integrations.pod_logs import without_events
from evergrow.integrations.pods import pod
from evergrow.integrations.submission import OVER, State, Submission, SubmittedRun
from evergrow.spec.environment import EnvironmentSpec, Resources

NAME = "evergrow.dev/run-name"
MOUNT, DOCUMENT, POLICIES = "/evergrow", "model.yaml", "policies.yaml"
# What drives the steps computes nothing itself.
DRIVER = Resources(cpu="50m", memory="256Mi", cpu_limit="1", memory_limit="1Gi")
KEPT_SECONDS = 7 * 24 * 3600
POLL_SECONDS = 1.0
# Exit codes of a process that was killed: by the kernel, by an eviction. All others are the pipeline's own word.
KILLED = [137, 143]
ENDS: Mapping[str, State] = {
    "Complete": "succeeded", "SuccessCriteriaMet": "succeeded", "Failed": "failed", "FailureTarget": "failed",
}  # fmt: skip
"""Conditions of a Job that is over, or about to be."""


class PodRuns:
    """The runs of one environment's Jobs."""

    def __init__(self, kubernetes: Kubernetes, place: EnvironmentSpec) -> None:
        self.kubernetes, self.place = kubernetes, place

    def submit(self, submission: Submission, again: bool = False) -> SubmittedRun:
        """Start a run, or find the one that does or did the same; `again` starts one all the same."""
        earlier = self.kubernetes.search(JOB, {SUBMISSION: submission.identity[:63]})
        for found in () if again else earlier:
            if state_of(found) in submission.needless_after:
                return replace(run_of(found), existing=True)
        name = f"{_base(submission)}-{len(earlier) + 1}"
        made = self.kubernetes.create(JOB, job(self.place, submission, name))
        existing = made is None
        made = made or self.kubernetes.get(JOB, name) or {}
        self.kubernetes.create(CONFIG_MAP, _document(submission, made))
        return replace(run_of(made), existing=existing)

    def runs(self) -> list[SubmittedRun]:
        """All runs that are still known, newest first."""
        found = self.kubernetes.search(JOB, MANAGED_BY)
        runs = [run_of(each) for each in found if PIPELINE in each["metadata"].get("labels", {})]
        return sorted(runs, key=lambda run: str(run.created), reverse=True)

    def find(self, name: str) -> SubmittedRun | None:
        """The newest run that is still known whose name begins so."""
        return next((run for run in self.runs() if run.name.startswith(name)), None)

    def get(self, name: str) -> SubmittedRun:
        """A run by its Job's name.

        Raises:
            PipelineError: there is none.
        """
        found = self.kubernetes.get(JOB, name)
        if found is None:
            raise PipelineError(
                f"run {name} does not exist", hint=f"`evergrow status --env {self.place.name}` lists runs"
            )
        return run_of(found)

    def wait(
        self, run: SubmittedRun, watch: Callable[[str], None] = lambda _: None, timeout: timedelta | None = None
    ) -> SubmittedRun:
        """Hand each line that a run says to `watch` until it is over.

        Raises:
            PipelineError: it failed, with its own last error; or is not over after `timeout`.
        """
        end = time.monotonic() + (timeout.total_seconds() if timeout else float("inf"))
        said: dict[str, int] = {}
        while True:
            now = self.get(run.id)
            self._pass_on(run.id, said, watch)
            if now.state == "succeeded":
                return now
            if now.state in OVER:
                raise PipelineError(f"run {run.id} {now.state}: {self.why(run.id)}", hint=self._look(run.id))
            if time.monotonic() > end:
                raise PipelineError(
                    f"run {run.id} is {now.state} after {timeout}: {self.why(run.id)}",
                    hint=f"it goes on. {self._look(run.id)}",
                )
            time.sleep(POLL_SECONDS)

    def cancel(self, run: SubmittedRun) -> None:
        """Stop a run and remove its pods; what its steps have published stays."""
        self.kubernetes.delete(JOB, run.id)

    def why(self, name: str) -> str:
        """What keeps a run from going well, in its own words or Kubernetes'."""
        pods = sorted(self._drivers(name), key=lambda p: str(p["metadata"]["creationTimestamp"]))
        if not pods:
            conditions = (self.kubernetes.get(JOB, name) or {}).get("status", {}).get("conditions", [])
            return "; ".join(str(c.get("message", "")) for c in conditions) or "it has no pod yet"
        log = self.kubernetes.log(pods[-1]["metadata"]["name"])
        errors = re.findall(r"^(?:error: .*|  hint: .*)", log, re.MULTILINE)
        return "\n".join(errors) or "; ".join(reasons(pods[-1])) or "it says nothing"

    def _look(self, name: str) -> str:
        return f"`kubectl logs -n {self.kubernetes.namespace} job/{name}` has all it said"

    def _drivers(self, name: str) -> list[Object]:
        return self.kubernetes.search(POD, {"job-name": name})

    def _pass_on(self, name: str, said: dict[str, int], watch: Callable[[str], None]) -> None:
        for driver in self._drivers(name):
            each = driver["metadata"]["name"]
            lines = without_events(self.kubernetes.log(each)).splitlines()
            for line in lines[said.get(each, 0) :]:
                watch(line)
            said[each] = len(lines)


def job(place: EnvironmentSpec, submission: Submission, name: str) -> dict[str, Any]:
    """The Job that drives a run."""
    labels = {
        **MANAGED_BY,
        MODEL: submission.document.name,
        PIPELINE: submission.pipeline,
        ENVIRONMENT: place.name,
        SUBMISSION: submission.identity[:63],
    }
    return {
        "metadata": {"name": name, "labels": labels, "annotations": {NAME: submission.name}},
        "spec": driver_job(
            place, labels, submission.pipeline, name, submission.as_of.isoformat(), _of_backtest(submission)
        ),
    }


def driver_job(
    place: EnvironmentSpec,
    labels: Mapping[str, str],
    pipeline: str,
    document: str,
    as_of: str | None,
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """A Job's specification: one pod drives the pipeline; an eviction starts another, an error does not.

    Args:
        place: the environment.
        labels: of the pod.
        pipeline: its name.
        document: name of the ConfigMap that holds the model's document, and a backtest's policies.
        as_of: ISO 8601; None for the time at which it starts.
        more: arguments.
    """
    command = ["python", "-m", "evergrow", "run", pipeline, "-f", f"{MOUNT}/{DOCUMENT}", "--runner", "pods"]
    command += [*(["--as-of", as_of] if as_of else []), *more]
    how = place.execution.pipelines.steps.model_copy(update={"resources": DRIVER})
    body = pod(place, how, place.code.images.steps, command)
    container = body["containers"][0]
    container["volumeMounts"].append({"name": "document", "mountPath": MOUNT})
    container["env"] += [_field("EVERGROW_POD", "metadata.name"), _field("EVERGROW_POD_UID", "metadata.uid")]
    container["env"] += [_field("EVERGROW_JOB", "metadata.labels['job-name']")]
    body["volumes"].append({"name": "document", "configMap": {"name": document}})
    return {
        "backoffLimit": 2,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "NotIn", "values": KILLED}},
            ]
        },
        "template": {"metadata": {"labels": dict(labels)}, "spec": body},
    }


def _of_backtest(submission: Submission) -> Sequence[str]:
    if submission.policies is None:
        return ()
    return "--policies", f"{MOUNT}/{POLICIES}", "--shares", str(submission.shares)


def run_of(found: Object) -> SubmittedRun:
    """What a Job says of its run."""
    about = found["metadata"]
    return SubmittedRun(
        name=about.get("annotations", {}).get(NAME, about["name"]),
        id=about["name"],
        state=state_of(found),
        link="",
        runner="pods",
        created=datetime.fromisoformat(about["creationTimestamp"]),
        ended=_ended(found),
    )


def state_of(found: Object) -> State:
    """Where a Job has got to."""
    told = found.get("status", {})
    over = {c["type"] for c in told.get("conditions", []) if c["status"] == "True"}
    for condition, state in ENDS.items():
        if condition in over:
            return state
    return "running" if told.get("active") else "pending"


def _ended(found: Object) -> datetime | None:
    """When a Job was over, by what ended it first."""
    told = found.get("status", {})
    ends = [str(told["completionTime"])] if "completionTime" in told else []
    conditions = (one for one in told.get("conditions", []) if one["type"] in ENDS and one["status"] == "True")
    ends += [one["lastTransitionTime"] for one in conditions if "lastTransitionTime" in one]
    return min(map(datetime.fromisoformat, ends), default=None)


def _base(submission: Submission) -> str:
    """A name that a Job, its pods and a label can have: at most 50 characters."""
    return (
        f"{submission.pipeline.replace('_', '-')}-{submission.document.name}"[:40].rstrip("-")
        + f"-{submission.identity[:8]}"
    )


def _document(submission: Submission, owner: Object) -> dict[str, Any]:
    about = owner["metadata"]
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": about["name"], "uid": about["uid"]}
    data = {DOCUMENT: yaml.safe_dump(submission.document.dump(), sort_keys=False)}
    if submission.policies is not None:
        data[POLICIES] = yaml.safe_dump(submission.policies.dump(), sort_keys=False)
    return {"metadata": {"name": about["name"], "ownerReferences": [reference]}, "data": data}


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
