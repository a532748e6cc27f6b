"""What must hold for every object of every chart. Each policy is a pure function from a release to its findings."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.charts.rendering import Object


@dataclass(frozen=True)
class Release:
    """The objects of a rendered chart.

    Attributes:
        external: what they refer to and someone else makes, "Kind/name" each.
    """

    objects: Sequence[Object]
    namespace: str = "default"
    external: frozenset[str] = frozenset()

    def of(self, *kinds: str) -> Iterator[Object]:
        """Objects of some kinds."""
        return (each for each in self.objects if each["kind"] in kinds)

    def namespace_of(self, each: Object) -> str:
        """The namespace an object is in."""
        return str(each["metadata"].get("namespace", self.namespace))

    def has(self, kind: str, name: str, namespace: str) -> bool:
        """Whether an object is among them."""
        return any(e["metadata"]["name"] == name and self.namespace_of(e) == namespace for e in self.of(kind))


@dataclass(frozen=True)
class Pod:
    """A pod's template, and the object that it is part of."""

    owner: Object
    spec: dict[str, Any]
    labels: dict[str, str]

    def __str__(self) -> str:
        return name_of(self.owner)

    @property
    def is_long_running(self) -> bool:
        """Whether it is to run for ever, as pods of Jobs are not."""
        return self.owner["kind"] not in ("Job", "CronJob") and self.spec.get("restartPolicy", "Always") == "Always"

    @property
    def is_part_of_a_pod(self) -> bool:
        """Whether another controller completes it: of a ServingRuntime KServe makes pods, and owns their spec."""
        return self.owner["kind"] in ("ServingRuntime", "ClusterServingRuntime")


@dataclass(frozen=True)
class Container:
    """A container, and the pod that it is in."""

    pod: Pod
    spec: dict[str, Any]
    is_init: bool

    def __str__(self) -> str:
        return f"{self.pod} container {self.spec['name']}"

    def security(self, key: str) -> Any:
        """A setting of its security context, or else of its pod's."""
        own, pods = self.spec.get("securityContext") or {}, self.pod.spec.get("securityContext") or {}
        return own.get(key, pods.get(key))


Policy = Callable[[Release], Iterator[str]]
POLICIES: list[Policy] = []


def policy(function: Policy) -> Policy:
    """Have every chart checked by it."""
    POLICIES.append(function)
    return function


def name_of(each: Object) -> str:
    """Kind and name, as kubectl writes them."""
    return f"{each['kind']}/{each['metadata']['name']}"


def pods(release: Release) -> Iterator[Pod]:
    """Every pod template."""
    for each in release.objects:
        match each["kind"]:
            case "Pod":
                yield Pod(each, each["spec"], each["metadata"].get("labels", {}))
            case "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job":
                yield _of_template(each, each["spec"]["template"])
            case "CronJob":
                yield _of_template(each, each["spec"]["jobTemplate"]["spec"]["template"])
            case "ServingRuntime" | "ClusterServingRuntime":
                yield Pod(each, each["spec"], each["spec"].get("labels", {}))


def _of_template(owner: Object, template: dict[str, Any]) -> Pod:
    return Pod(owner, template["spec"], template.get("metadata", {}).get("labels", {}))


def containers(release: Release) -> Iterator[Container]:
    """Every container, those of initialisation too."""
    for pod in pods(release):
        yield from (Container(pod, spec, is_init=True) for spec in pod.spec.get("initContainers", ()))
        yield from (Container(pod, spec, is_init=False) for spec in pod.spec["containers"])


# What runs


@policy
def images_have_a_tag_that_is_not_latest(release: Release) -> Iterator[str]:
    """`latest`, and no tag, mean something else tomorrow."""
    for each in containers(release):
        image = each.spec.get("image", "")
        tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            yield f"{each}: image {image!r} must have a tag other than latest, or a digest"


@policy
def nothing_runs_as_root(release: Release) -> Iterator[str]:
    """Not as uid 0, and the kubelet holds that."""
    for each in containers(release):
        if each.security("runAsNonRoot") is not True:
            yield f"{each}: runAsNonRoot must be true, found {each.security('runAsNonRoot')}"
        if not each.security("runAsUser"):
            yield f"{each}: runAsUser must be a number other than 0, found {each.security('runAsUser')}"


@policy
def root_file_systems_are_read_only(release: Release) -> Iterator[str]:
    """What may be written is mounted."""
    for each in containers(release):
        if each.security("readOnlyRootFilesystem") is not True:
            yield f"{each}: readOnlyRootFilesystem must be true"


@policy
def all_capabilities_are_dropped(release: Release) -> Iterator[str]:
    """And none is added."""
    for each in containers(release):
        found = each.security("capabilities") or {}
        if found.get("drop") != ["ALL"] or found.get("add"):
            yield f"{each}: capabilities must be {{drop: [ALL]}}, found {found}"


@policy
def privileges_cannot_escalate(release: Release) -> Iterator[str]:
    """No setuid program gains any, and no container is privileged or in a namespace of the node."""
    for each in containers(release):
        if each.security("allowPrivilegeEscalation") is not False:
            yield f"{each}: allowPrivilegeEscalation must be false"
        if each.security("privileged"):
            yield f"{each}: privileged must not be set"
    for pod in pods(release):
        yield from (
            f"{pod}: {key} must not be set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(key)
        )


@policy
def seccomp_is_the_runtimes_default(release: Release) -> Iterator[str]:
    """System calls that no program needs are refused."""
    for each in containers(release):
        if (found := each.security("seccompProfile")) != {"type": "RuntimeDefault"}:
            yield f"{each}: seccompProfile must be {{type: RuntimeDefault}}, found {found}"


@policy
def cpu_and_memory_are_requested_and_limited(release: Release) -> Iterator[str]:
    """So that a quota admits the pod, and the scheduler knows what it takes."""
    for each in containers(release):
        resources = each.spec.get("resources") or {}
        for kind in ("requests", "limits"):
            missing = {"cpu", "memory"} - set(resources.get(kind) or {})
            yield from (f"{each}: resources.{kind}.{what} is missing" for what in sorted(missing))


@policy
def long_running_containers_are_probed(release: Release) -> Iterator[str]:
    """For being alive, and for readiness where one listens; a slow start is a startup probe's, not a delay's."""
    for each in containers(release):
        is_sidecar = each.spec.get("restartPolicy") == "Always"
        if not each.pod.is_long_running or (each.is_init and not is_sidecar):
            continue
        for probe in ("readinessProbe", "livenessProbe"):
            if probe == "readinessProbe" and not each.spec.get("ports"):
                continue
            if not each.spec.get(probe):
                yield f"{each}: {probe} is missing"
            elif each.spec[probe].get("initialDelaySeconds"):
                yield f"{each}: {probe}.initialDelaySeconds guesses how long a start takes; use a startupProbe"


@policy
def pods_get_no_variables_of_services(release: Release) -> Iterator[str]:
    """A Service named as a program's setting would change it: the variable REDIS_PORT of a Service `redis` is a URL."""
    for pod in pods(release):
        if not pod.is_part_of_a_pod and pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod}: enableServiceLinks must be false"


# Secrets and rights

_SECRET_NAME = re.compile(r"(password|passwd|secret|secret_?key|access_?key|token|credentials?)$", re.IGNORECASE)
_PASSWORD_IN_TEXT = (
    re.compile(r"[a-z][a-z0-9+]*://[^\s:/@]*:(?!\$)[^\s@/]+@", re.IGNORECASE),  # a URL with a password
    re.compile(
        r"(password|passwd|secret_?(access_?)?key)[\"']?(\s*=|:)\s*[\"']?(?![$\"'])[^\s\"',}]{3,}", re.IGNORECASE
    ),
    re.compile(r"requirepass\s+(?!\$)\S+"),
)


@policy
def no_secret_is_in_clear(release: Release) -> Iterator[str]:
    """Not in a ConfigMap, an argument or a variable: by its name, by its form, or as a value that a Secret holds."""
    secrets = set(_secret_values(release))
    for where, key, text in _open_texts(release):
        if _SECRET_NAME.search(key) and text and not text.startswith("$("):
            yield f"{where}: {key} looks like a secret and has a value; refer to a Secret"
        elif any(pattern.search(text) for pattern in _PASSWORD_IN_TEXT):
            yield f"{where}: {key} holds a password; refer to a Secret"
        elif any(secret in text for secret in secrets):
            yield f"{where}: {key} holds a value of a Secret; refer to it"


def _secret_values(release: Release) -> Iterator[str]:
    """What Secrets of the release keep under keys that sound secret; short words are no secrets."""
    for each in release.of("Secret"):
        plain = {key: base64.b64decode(value).decode() for key, value in (each.get("data") or {}).items()}
        for key, value in {**plain, **(each.get("stringData") or {})}.items():
            if _SECRET_NAME.search(key) and len(value) >= 8:
                yield value


def _open_texts(release: Release) -> Iterator[tuple[str, str, str]]:
    """All texts that anyone may read who may read pods and ConfigMaps: where, under which key, and the text."""
    for each in release.of("ConfigMap"):
        yield from ((name_of(each), key, str(text)) for key, text in (each.get("data") or {}).items())
    for container in containers(release):
        spec = container.spec
        variables = ((v["name"], str(v["value"])) for v in spec.get("env", ()) if v.get("value") is not None)
        yield from ((str(container), name, text) for name, text in variables)
        words = [*spec.get("command", ()), *spec.get("args", ())]
        yield from ((str(container), "an argument", str(word)) for word in words)


@policy
def service_account_tokens_are_mounted_only_where_used(release: Release) -> Iterator[str]:
    """A pod whose service account has no right has no use for a token either."""
    bound = {
        (subject.get("namespace") or release.namespace_of(binding), subject["name"])
        for binding in release.of("RoleBinding", "ClusterRoleBinding")
        for subject in binding.get("subjects", ())
        if subject["kind"] == "ServiceAccount"
    }
    for pod in pods(release):
        account = (release.namespace_of(pod.owner), pod.spec.get("serviceAccountName", "default"))
        mounted = pod.spec.get("automountServiceAccountToken", True)
        if not pod.is_part_of_a_pod and mounted and account not in bound:
            yield f"{pod}: automountServiceAccountToken must be false; {account[1]} has no RoleBinding"


@policy
def no_role_may_do_everything(release: Release) -> Iterator[str]:
    """Rights are named."""
    for each in release.of("Role", "ClusterRole"):
        for rule in each.get("rules") or ():
            for key in ("verbs", "resources", "apiGroups"):
                if "*" in rule.get(key, ()):
                    yield f"{name_of(each)}: {key} must be named, found '*'"


# How objects fit together

LABELS = ("name", "instance", "version", "managed-by", "part-of")


@policy
def objects_have_the_standard_labels(release: Release) -> Iterator[str]:
    """All of them on objects; name and instance, which do not change with a version, on pods."""
    for each in release.objects:
        found = each["metadata"].get("labels") or {}
        missing = [label for label in LABELS if not found.get(f"app.kubernetes.io/{label}")]
        yield from (f"{name_of(each)}: label app.kubernetes.io/{label} is missing" for label in missing)
    for pod in pods(release):
        missing = [label for label in LABELS[:2] if not pod.labels.get(f"app.kubernetes.io/{label}")]
        if not pod.is_part_of_a_pod:
            yield from (f"{pod}: pod label app.kubernetes.io/{label} is missing" for label in missing)


@policy
def replicas_have_a_disruption_budget(release: Release) -> Iterator[str]:
    """A drained node takes one pod at a time where there are several, and can be drained where there is one."""
    for each in release.of("Deployment", "StatefulSet"):
        count, budgets = _replicas(release, each), list(_budgets(release, each))
        if count > 1 and not budgets:
            yield f"{name_of(each)}: {count} replicas, and no PodDisruptionBudget selects them"
        for budget in budgets:
            if not _allows_one(budget["spec"], count):
                yield f"{name_of(budget)}: no pod of {count} may be evicted, so no node could be drained"


def _replicas(release: Release, workload: Object) -> int:
    scaler = _scaler(release, workload)
    return int(scaler["spec"].get("minReplicas", 1) if scaler else workload["spec"].get("replicas", 1))


def _scaler(release: Release, workload: Object) -> Object | None:
    target = {"kind": workload["kind"], "name": workload["metadata"]["name"]}
    scalers = release.of("HorizontalPodAutoscaler")
    return next((s for s in scalers if target.items() <= s["spec"]["scaleTargetRef"].items()), None)


def _budgets(release: Release, workload: Object) -> Iterator[Object]:
    labels = workload["spec"]["template"]["metadata"]["labels"]
    for budget in release.of("PodDisruptionBudget"):
        wanted = budget["spec"]["selector"]["matchLabels"]
        if wanted.items() <= labels.items() and release.namespace_of(budget) == release.namespace_of(workload):
            yield budget


def _allows_one(budget: dict[str, Any], count: int) -> bool:
    """Whether at least one of `count` pods may go. A percentage is rounded up, as Kubernetes does."""

    def pods_of(amount: int | str) -> int:
        return -(-count * int(amount.rstrip("%")) // 100) if isinstance(amount, str) else amount

    if "maxUnavailable" in budget:
        return pods_of(budget["maxUnavailable"]) >= 1
    return pods_of(budget["minAvailable"]) < count


@policy
def an_autoscaler_alone_sets_its_replicas(release: Release) -> Iterator[str]:
    """A chart that sets them too takes the pods away again at every upgrade; a target must exist."""
    workloads = list(release.of("Deployment", "StatefulSet"))
    for each in workloads:
        if _scaler(release, each) and "replicas" in each["spec"]:
            yield f"{name_of(each)}: replicas must not be set beside a HorizontalPodAutoscaler"
    for scaler in release.of("HorizontalPodAutoscaler"):
        if not any(_scaler(release, each) is scaler for each in workloads):
            yield f"{name_of(scaler)}: its scaleTargetRef is not in the release"


@policy
def services_reach_a_port_of_a_pod(release: Release) -> Iterator[str]:
    """A Service's selector is a template's labels, and its port one that a container there has."""
    for service in release.of("Service"):
        selector = service["spec"].get("selector")
        if not selector:
            continue
        chosen = [p for p in pods(release) if _selects(release, service, p)]
        if not chosen:
            yield f"{name_of(service)}: no pod template has the labels {selector}"
        for port in service["spec"]["ports"] if chosen else ():
            target = port.get("targetPort", port["port"])
            if not any(target in _ports(pod) for pod in chosen):
                yield f"{name_of(service)}: no container has the port {target}"


def _selects(release: Release, service: Object, pod: Pod) -> bool:
    is_near = release.namespace_of(service) == release.namespace_of(pod.owner)
    return is_near and pod.is_long_running and service["spec"]["selector"].items() <= pod.labels.items()


def _ports(pod: Pod) -> set[int | str]:
    ports = [port for container in pod.spec["containers"] for port in container.get("ports", ())]
    return {port["containerPort"] for port in ports} | {port["name"] for port in ports if "name" in port}


@policy
def references_exist_or_are_declared_external(release: Release) -> Iterator[str]:
    """What a pod needs is made by the release, or is declared to come from outside; nothing is declared in vain."""
    found: set[str] = set()
    for owner, kind, name in _references(release):
        if release.has(kind, name, release.namespace_of(owner)):
            continue
        found.add(f"{kind}/{name}")
        if f"{kind}/{name}" not in release.external:
            yield f"{name_of(owner)}: {kind}/{name} is not in the release, and not declared external"
    yield from (f"{name} is declared external, and nothing refers to it" for name in sorted(release.external - found))


def _references(release: Release) -> Iterator[tuple[Object, str, str]]:
    """Owner, kind and name of everything that pods and service accounts refer to and cannot do without."""
    for pod in pods(release):
        if account := pod.spec.get("serviceAccountName"):
            yield pod.owner, "ServiceAccount", account
        for kind, name in _of_pod(pod):
            yield pod.owner, kind, name
    for account in release.of("ServiceAccount"):
        named = [*account.get("secrets", ()), *account.get("imagePullSecrets", ())]
        yield from ((account, "Secret", secret["name"]) for secret in named)


def _of_pod(pod: Pod) -> Iterator[tuple[str, str]]:
    yield from (("Secret", secret["name"]) for secret in pod.spec.get("imagePullSecrets", ()))
    volumes = pod.spec.get("volumes", ())
    sources = [source for volume in volumes for source in (volume, *volume.get("projected", {}).get("sources", ()))]
    for source in sources:
        if "configMap" in source and not source["configMap"].get("optional"):
            yield "ConfigMap", source["configMap"]["name"]
        if "secret" in source and not source["secret"].get("optional"):
            yield "Secret", source["secret"].get("secretName") or source["secret"]["name"]
        if "persistentVolumeClaim" in source:
            yield "PersistentVolumeClaim", source["persistentVolumeClaim"]["claimName"]
    for container in (*pod.spec.get("initContainers", ()), *pod.spec["containers"]):
        yield from _of_environment(container)


def _of_environment(container: dict[str, Any]) -> Iterator[tuple[str, str]]:
    froms = [variable.get("valueFrom", {}) for variable in container.get("env", ())]
    for kind, one, all_keys in (
        ("ConfigMap", "configMapKeyRef", "configMapRef"),
        ("Secret", "secretKeyRef", "secretRef"),
    ):
        references = [source[one] for source in froms if one in source]
        references += [source[all_keys] for source in container.get("envFrom", ()) if all_keys in source]
        yield from ((kind, reference["name"]) for reference in references if not reference.get("optional"))


@policy
def keys_of_references_exist(release: Release) -> Iterator[str]:
    """A key that a container reads of a ConfigMap or Secret of the release is there."""
    for container in containers(release):
        for variable in container.spec.get("env", ()):
            for kind, source in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
                reference = variable.get("valueFrom", {}).get(source)
                if reference and _lacks_key(release, container, kind, reference):
                    yield f"{container}: {kind}/{reference['name']} has no key {reference['key']!r}"


def _lacks_key(release: Release, container: Container, kind: str, reference: dict[str, Any]) -> bool:
    namespace = release.namespace_of(container.pod.owner)
    for each in release.of(kind):
        if each["metadata"]["name"] == reference["name"] and release.namespace_of(each) == namespace:
            return reference["key"] not in {**(each.get("data") or {}), **(each.get("stringData") or {})}
    return False


@policy
def every_object_is_there_once(release: Release) -> Iterator[str]:
    """Of two objects with one name, the second silently takes the first one's place."""
    seen: set[tuple[str, str, str]] = set()
    for each in release.objects:
        key = (each["kind"], release.namespace_of(each), each["metadata"]["name"])
        if key in seen:
            yield f"{name_of(each)} in namespace {key[1]} is rendered twice"
        seen.add(key)


def findings(release: Release) -> list[str]:
    """What all policies find."""
    return [f"{found} [{check.__name__}]" for check in POLICIES for found in check(release)]
