"""What is wrong in an environment, from what Kubernetes says of its objects: what, why, and how to fix it.

Pure functions of objects as the API gives them. A pod that runs, and one that still starts, is no problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from evergrow.contracts import instant
from evergrow.integrations.kserve import condition
from evergrow.integrations.labels import MODEL, PIPELINE, RUN, STEP, VERSION

Object = Mapping[str, Any]

RECENT = timedelta(minutes=15)
"""Kubernetes keeps an event for an hour; one that has not come again for so long is over."""
ENDED = timedelta(hours=1)
"""A pod that failed longer ago is history."""


@dataclass(frozen=True)
class Problem:
    """Something that does not work.

    Attributes:
        where: of what: a step, a model's version, a Job.
        what: what does not work, in our words.
        why: what Kubernetes, or the container, says.
        fix: what to do about it.
    """

    where: str
    what: str
    why: str
    fix: str


@dataclass(frozen=True)
class Rule:
    """What a message means. Groups of its pattern may be named in `what` and `fix`, and so may what is known."""

    pattern: str
    what: str
    fix: str


RUNS = (RUN, "pipeline/runid")
"""Labels that say which run a step's pod is of: one of ours, one of Kubeflow's."""
ERROR = r"^\s*(error: |(\w+\.)*\w*(Error|Exception): )"
"""What a line begins with that says why a program ended."""
LONGEST = 300
"""Characters that are shown of a message's line."""

LOOK = "kubectl -n {namespace} describe pod {pod}"
OVERRIDE = "raise {key} of execution.pipelines.stepOverrides.{step} in the environment's values, then `helm upgrade`"
CREDENTIALS = (
    "check the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the Secrets that data.secrets names, and what they "
    "may do in the bucket of data.store"
)

CONFIGURATION = (
    Rule(
        r'secret "(?P<name>[^"]+)" not found',
        "the Secret {name} does not exist",
        "create it: kubectl -n {namespace} create secret generic {name} --from-literal=KEY=VALUE ...",
    ),
    Rule(
        r"couldn't find key (?P<key>\S+) in Secret \S+/(?P<name>\S+)",
        "the Secret {name} has no key {key}",
        'add it: kubectl -n {namespace} patch secret {name} -p \'{{"stringData": {{"{key}": "VALUE"}}}}\'',
    ),
    Rule(
        r'configmap "(?P<name>[^"]+)" not found|couldn\'t find key \S+ in ConfigMap \S+/(?P<name_of_key>\S+)',
        "the environment's configuration is missing or older than this evergrow",
        "install the chart again: helm upgrade --install evergrow charts/evergrow -f charts/evergrow/values-....yaml",
    ),
    Rule(
        r"runAsNonRoot and image (will run as root|has non-numeric user)",
        "the image {image} would run as root, which its pod forbids",
        "use an image whose USER is a number other than 0, as ours are: code.images in the environment's values",
    ),
)

IMAGES = (
    Rule(
        r"present with pull policy of Never|ErrImageNeverPull",
        "the image {image} is not on the node, and must not be pulled",
        "load it into the cluster, or set code.images.pullPolicy to IfNotPresent",
    ),
    Rule(
        r"denied|unauthorized|authentication required|forbidden",
        "the registry does not let this cluster pull the image {image}",
        "name a Secret with the registry's login in code.images.pullSecrets; is the image's name right?",
    ),
    Rule(
        r"not found|manifest unknown|InvalidImageName",
        "the image {image} does not exist",
        "correct code.images in the environment's values, or push that tag",
    ),
    Rule(
        r"",
        "the image {image} cannot be pulled",
        "does its registry answer the nodes, and is that tag there? With kind: `kind load docker-image {image}`",
    ),
)

STORAGE = (
    Rule(
        r"NoSuchBucket|bucket does not exist|bucket '?\S+ not found",
        "the object store has no such bucket",
        "create the bucket of data.store, or correct it in the environment's values",
    ),
    Rule(
        r"InvalidAccessKeyId|SignatureDoesNotMatch|Unable to locate credentials|authentication failed",
        "the object store does not accept the credentials",
        CREDENTIALS,
    ),
    Rule(
        r"AccessDenied|Access denied|lacked the necessary privileges",
        "the object store denies access",
        f"does the bucket of data.store exist? If so, {CREDENTIALS}",
    ),
    Rule(
        r"Could not connect to the endpoint URL|Failed to connect to \S+ endpoint|EndpointConnectionError",
        "the object store does not answer",
        "does it run, and do data.endpoint and execution.network let pods reach it?",
    ),
    Rule(
        r"S3 resource not found|No model found in|path or model \S+ does not exist",
        "the version is not in the object store",
        "register and deploy it again: `evergrow submit training`",
    ),
)

SCHEDULING = (
    Rule(
        r"Insufficient (?P<resource>[\w./-]*\w)",
        "no node has enough {resource} left",
        "request less (execution.pipelines.steps.resources or execution.serving.resources), or add a node",
    ),
    Rule(
        r"didn't match Pod's node affinity/selector",
        "no node has the labels that the pod wants",
        "correct nodeSelector in the environment's values, or label a node; `kubectl get nodes --show-labels`",
    ),
    Rule(
        r"untolerated taint\(?s?\)? ?(?P<taint>\{[^}]*\})?",
        "the nodes' taint keeps the pod off",
        "tolerate it: tolerations in the environment's values",
    ),
    Rule(r"", "no node takes the pod", LOOK),
)

CREATION = (
    Rule(
        r"exceeded quota: (?P<quota>\S+), requested: (?P<asked>\S+), used: (?P<used>\S+), limited: (?P<limit>\S+)",
        "the quota {quota} is used up: {asked} more was asked for, {used} of {limit} is in use",
        "raise execution.quota in the environment's values, request less, or wait until others are done",
    ),
    Rule(
        r"failed quota: (?P<quota>[^:]+): must specify (?P<missing>.+)",
        "the quota {quota} wants every container to say {missing}",
        "set its resources in the environment's values",
    ),
    Rule(
        r'violates PodSecurity "(?P<level>[^"]+)"',
        "the pod is not as safe as the namespace wants it (pod security {level})",
        "the message names what its specification lacks",
    ),
    Rule(
        r'serviceaccount "(?P<name>[^"]+)" not found',
        "the service account {name} does not exist",
        "the chart `evergrow` makes it: install it, or correct its name in the environment's values",
    ),
    Rule(r"(maximum|minimum) \S+ usage per", "the pod asks for more than the namespace's limits allow", "request less"),
    Rule(r"", "its pod cannot be created", "the message says why; `kubectl -n {namespace} get events`"),
)


def problems(
    pods: Iterable[Object], events: Iterable[Object], services: Iterable[Object], now: datetime
) -> list[Problem]:
    """Everything that is wrong, once each.

    Args:
        pods: the environment's.
        events: of its namespace.
        services: its InferenceServices.
        now: to tell what is over.
    """
    pods, services = list(pods), list(services)
    found = [problem for pod in pods if not _is_over(pod, pods, now) for problem in of_pod(pod)]
    found += [problem for event in events if (problem := of_event(event, pods, now))]
    told = {(_label(pod, MODEL), _label(pod, VERSION)) for pod in pods if any(of_pod(pod))}
    # Of a version whose pod says what is wrong, the service only says that it is not ready.
    silent = (service for service in services if (_label(service, MODEL), _label(service, VERSION)) not in told)
    found += [problem for service in silent if (problem := of_service(service))]
    return list(dict.fromkeys(found))


def of_pod(pod: Object) -> Iterator[Problem]:
    """Why a pod does not run, or why it failed."""
    status = pod.get("status", {})
    if status.get("phase") == "Failed" and status.get("reason"):
        yield _ended_by_kubernetes(pod)
        return
    if status.get("phase") == "Pending" and (unscheduled := _unscheduled(pod)):
        yield _told(pod, SCHEDULING, unscheduled)
        return
    for container in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        if problem := _of_container(pod, container):
            yield problem


def of_event(event: Object, pods: Iterable[Object], now: datetime) -> Problem | None:
    """Why an object could not be made or mounted, if that still is so.

    A Job or ReplicaSet whose pod was refused has no pod to say so: its events do. Those of pods are heard only where
    the pod itself does not know: a volume that cannot be mounted.
    """
    involved = event.get("involvedObject", {})
    last = event.get("lastTimestamp") or event.get("eventTime")
    if event.get("type") != "Warning" or not last or now - instant(last) > RECENT:
        return None
    namespace, name = str(involved.get("namespace", "")), str(involved.get("name", ""))
    if event["reason"] == "FailedCreate" and not _has_pod_since(involved, pods, instant(last)):
        known = {"namespace": namespace, "pod": name}
        return _by(CREATION, event["message"], f"{involved['kind']} {name}", known)
    if event["reason"] == "FailedMount":
        waiting = (p for p in pods if p["metadata"]["name"] == name and p["status"].get("phase") == "Pending")
        return next((_told(pod, (*CONFIGURATION, MOUNT), event["message"]) for pod in waiting), None)
    return None


MOUNT = Rule(r"", "a volume cannot be mounted", LOOK)


def of_service(service: Object) -> Problem | None:
    """Why an InferenceService is not ready."""
    ready = condition(service, "Ready")
    if ready.get("status") == "True":
        return None
    failure = service.get("status", {}).get("modelStatus", {}).get("lastFailureInfo", {})
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    message = str(failure.get("message") or ready.get("message", ""))
    why = _reason(message)
    if failure.get("reason") == "RuntimeNotRecognized":
        runtime = service["spec"]["predictor"].get("model", {}).get("runtime", "")
        what = f"the ServingRuntime {runtime} does not exist"
        return Problem(_of(service), what, why, "the chart `evergrow` makes it: is the environment installed?")
    if not failure and ready.get("status") != "False":
        return None  # it still starts
    fix = f"kubectl -n {namespace} describe inferenceservice {name}"
    storage = _by(STORAGE, message, _of(service), {})
    return replace(storage, why=why) if storage else Problem(_of(service), "it is not ready to serve", why, fix)


def _of_container(pod: Object, container: Object) -> Problem | None:
    state, last = container.get("state", {}), container.get("lastState", {})
    waiting, ended = state.get("waiting", {}), state.get("terminated") or last.get("terminated") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return _told(pod, (*CONFIGURATION, CONTAINER), message, container)
    if reason in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"):
        return _told(pod, IMAGES, f"{reason}: {message}", container)
    is_back = reason == "" and "running" in state
    if is_back or not ended or ended.get("exitCode") == 0:
        return None
    return _of_end(pod, container, ended)


CONTAINER = Rule(r"", "its container cannot be created", LOOK)


def _of_end(pod: Object, container: Object, ended: Object) -> Problem:
    name = str(container["name"])
    if ended.get("reason") == "OOMKilled":
        limit = _limit(pod, name)
        where = "execution.serving.resources.memoryLimit" if _label(pod, VERSION) else None
        fix = f"raise {where} in the environment's values" if where else _override(pod, "resources.memoryLimit")
        return Problem(_of(pod), f"it ran out of memory (limit {limit})", f"OOMKilled, exit code {_code(ended)}", fix)
    message = str(ended.get("message", ""))
    why = _reason(message) or f"exit code {_code(ended)}"
    log = f"kubectl -n {pod['metadata']['namespace']} logs {pod['metadata']['name']} -c {name}"
    what = "it failed" if name == "main" else f"{name} failed"
    hint = _hint(message)
    storage = _by(STORAGE, why if hint else message, _of(pod), {})
    fix = hint or (storage.fix if storage else f"its log: {log}")
    return Problem(_of(pod), storage.what if storage else what, why, fix)


def _ended_by_kubernetes(pod: Object) -> Problem:
    """Of a pod that did not end of itself."""
    status = pod["status"]
    reason, message = str(status["reason"]), str(status.get("message", "")).strip()
    what, fix = {
        "DeadlineExceeded": ("it took longer than its timeout", _override(pod, "timeout")),
        "Evicted": (
            "the node ran short of something and evicted it",
            "it is run again; if that happens often, request more",
        ),
        "NodeLost": ("its node was lost", "it is run again elsewhere"),
    }.get(reason, ("it was ended from outside", "it is run again"))
    if "EmptyDir volume" in message:
        what = "it wrote more than its scratch space holds"
        fix = "have it read less at once: the training window of the model's document"
    return Problem(_of(pod), what, f"{reason}: {message}", fix)


def _unscheduled(pod: Object) -> str:
    scheduled = condition(pod, "PodScheduled")
    return str(scheduled.get("message", "")) if scheduled.get("reason") == "Unschedulable" else ""


def _has_pod_since(owner: Object, pods: Iterable[Object], since: datetime) -> bool:
    """Whether a Job or ReplicaSet got its pod in the end."""
    made = (pod["metadata"] for pod in pods if instant(pod["metadata"]["creationTimestamp"]) >= since)
    owners = (o for metadata in made for o in metadata.get("ownerReferences", []))
    return any((o["kind"], o["name"]) == (owner["kind"], owner["name"]) for o in owners)


def _is_over(pod: Object, pods: Iterable[Object], now: datetime) -> bool:
    """Whether a pod failed so long ago that nobody asks any more, or its step is tried again since."""
    if pod["status"].get("phase") != "Failed":
        return False
    ended = _end(pod)
    others = (p for p in pods if _step_of_run(p) == _step_of_run(pod) and p is not pod)
    is_tried_again = any(instant(p["metadata"]["creationTimestamp"]) >= ended for p in others)
    return now - ended > ENDED or (is_tried_again and bool(_label(pod, STEP)))


def _end(pod: Object) -> datetime:
    statuses = pod["status"].get("containerStatuses", [])
    ends = (s.get("state", {}).get("terminated", {}).get("finishedAt") for s in statuses)
    return instant(max(filter(None, ends), default=pod["metadata"]["creationTimestamp"]))


def _step_of_run(pod: Object) -> tuple[str, ...]:
    return tuple(_label(pod, label) for label in (STEP, *RUNS))


def _told(pod: Object, rules: Iterable[Rule], message: str, container: Object | None = None) -> Problem:
    """What a message about a pod means; the last of the rules holds for all."""
    known = {
        "namespace": pod["metadata"]["namespace"],
        "pod": pod["metadata"]["name"],
        "image": str((container or {}).get("image", "")),
    }
    problem = _by(rules, message, _of(pod), known)
    return problem or Problem(_of(pod), message, message, LOOK.format(**known))


def _by(rules: Iterable[Rule], message: str, where: str, known: Mapping[str, str]) -> Problem | None:
    for rule in rules:
        if found := re.search(rule.pattern, message):
            names = {**known, **{key: value or "" for key, value in found.groupdict().items()}}
            return Problem(where, rule.what.format(**names), message, rule.fix.format(**names))
    return None


def _of(found: Object) -> str:
    """What a pod or a service is to people."""
    name, model = str(found["metadata"]["name"]), _label(found, MODEL)
    of_model = f" of {model}" if model else ""
    if step := _label(found, STEP):
        return f"step {step}{of_model} (pod {name})"
    if version := _label(found, VERSION):
        return f"{model} version {version} ({name})"
    if pipeline := _label(found, PIPELINE):
        return f"what drives {pipeline}{of_model} (pod {name})"
    return name


def _label(found: Object, label: str) -> str:
    return str(found["metadata"].get("labels", {}).get(label, ""))


def _override(pod: Object, key: str) -> str:
    return OVERRIDE.format(key=key, step=_label(pod, STEP) or "<step>")


def _limit(pod: Object, container: str) -> str:
    found = (c for c in pod["spec"]["containers"] if c["name"] == container)
    return next((str(c.get("resources", {}).get("limits", {}).get("memory", "none")) for c in found), "none")


def _code(ended: Object) -> str:
    return str(ended.get("exitCode", "unknown"))


def _hint(message: str) -> str:
    """What to do, where a program of ours ended and said it."""
    return " ".join(re.findall(r"^\s*hint: (.+)", message, re.MULTILINE))[:LONGEST]


def _reason(message: str) -> str:
    """The line of what was said last that says why: a step's own word is such a line, a log holds one."""
    lines = message.strip().splitlines()
    found = [line for line in lines if re.match(ERROR, line)] or lines[-1:]
    return found[-1].strip()[:LONGEST] if found else ""
