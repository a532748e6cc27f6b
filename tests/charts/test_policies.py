"""Every policy finds what it is for, and finds nothing in a release that is as it should be."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.charts import policies
from tests.charts.policies import POLICIES, Policy, Release
from tests.charts.rendering import Object

PASSWORD = "correct-horse-battery"


def metadata(name: str) -> dict[str, Any]:
    return {"name": name, "labels": {f"app.kubernetes.io/{label}": "x" for label in policies.LABELS}}


def container(**over: Any) -> dict[str, Any]:
    return {
        "name": "web",
        "image": "evergrow/web:0.1.0",
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [
            {"name": "MODE", "value": "fast"},
            {"name": "URL", "value": "postgresql://web:$(PASSWORD)@postgres:5432/web"},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "web", "key": "password"}}},
        ],
        "envFrom": [{"configMapRef": {"name": "web"}}],
        "resources": {"requests": {"cpu": "10m", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
        "livenessProbe": {"httpGet": {"path": "/", "port": "http"}},
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        **over,
    }


def pod_spec(**over: Any) -> dict[str, Any]:
    return {
        "serviceAccountName": "web",
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": "config", "configMap": {"name": "web"}},
            {"name": "outside", "secret": {"secretName": "outside"}},
        ],
        "containers": [container()],
        **over,
    }


POD_LABELS = {"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "x"}


def objects() -> dict[str, Object]:
    """A release that is as it should be, by kind."""
    template = {"metadata": {"labels": POD_LABELS}, "spec": pod_spec()}
    job = {"metadata": {"labels": POD_LABELS}, "spec": {**pod_spec(), "restartPolicy": "Never"}}
    for probe in ("readinessProbe", "livenessProbe"):
        job["spec"]["containers"] = [{k: v for k, v in c.items() if k != probe} for c in job["spec"]["containers"]]
    account = {"kind": "ServiceAccount", "name": "web"}
    specs: dict[str, dict[str, Any]] = {
        "Deployment": {"spec": {"selector": {"matchLabels": POD_LABELS}, "template": template}},
        "Job": {"spec": {"template": job}},
        "Service": {"spec": {"selector": POD_LABELS, "ports": [{"port": 80, "targetPort": "http"}]}},
        "ConfigMap": {"data": {"MODE": "fast", "document": '{"secrets": {"credentials": "evergrow-credentials"}}'}},
        "Secret": {"data": {"password": base64.b64encode(PASSWORD.encode()).decode()}},
        "ServiceAccount": {"secrets": [{"name": "web"}]},
        "Role": {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
        "RoleBinding": {"subjects": [account]},
        "PodDisruptionBudget": {"spec": {"selector": {"matchLabels": POD_LABELS}, "maxUnavailable": 1}},
        "HorizontalPodAutoscaler": {
            "spec": {"minReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}
        },
    }
    return {kind: {"kind": kind, "metadata": metadata("web"), **rest} for kind, rest in specs.items()}


def release(of: dict[str, Object]) -> Release:
    return Release(list(copy.deepcopy(of).values()), external=frozenset({"Secret/outside"}))


def spec_of(of: dict[str, Object]) -> dict[str, Any]:
    return of["Deployment"]["spec"]["template"]["spec"]


def first(of: dict[str, Object]) -> dict[str, Any]:
    return spec_of(of)["containers"][0]


Change = Callable[[dict[str, Object]], Any]


def in_container(**over: Any) -> Change:
    return lambda of: first(of).update(over)


def in_security(**over: Any) -> Change:
    return lambda of: first(of)["securityContext"].update(over)


def in_pod(**over: Any) -> Change:
    return lambda of: spec_of(of).update(over)


def in_spec(kind: str, **over: Any) -> Change:
    return lambda of: of[kind]["spec"].update(over)


def without(kind: str) -> Change:
    return lambda of: of.pop(kind)


def in_data(**over: str) -> Change:
    return lambda of: of["ConfigMap"]["data"].update(over)


def variable(name: str, value: str) -> Change:
    return lambda of: first(of)["env"].append({"name": name, "value": value})


def reads(kind: str, key: str) -> Change:
    source = {"ConfigMap": "configMapKeyRef", "Secret": "secretKeyRef"}[kind]
    return lambda of: first(of)["env"].append({"name": "X", "valueFrom": {source: {"name": "web", "key": key}}})


def init(**over: Any) -> Change:
    return in_pod(initContainers=[container(name="first", **over)])


# Policy, what is wrong, what it says.
BROKEN: list[tuple[Policy, Change, str]] = [
    (policies.images_have_a_tag_that_is_not_latest, in_container(image="evergrow/web"), "'evergrow/web'"),
    (policies.images_have_a_tag_that_is_not_latest, in_container(image="evergrow/web:latest"), "latest"),
    (policies.images_have_a_tag_that_is_not_latest, in_container(image="localhost:5000/web"), "must have a tag"),
    (policies.images_have_a_tag_that_is_not_latest, init(image="web"), "container first"),
    (policies.nothing_runs_as_root, in_security(runAsNonRoot=False), "runAsNonRoot must be true"),
    (policies.nothing_runs_as_root, in_security(runAsUser=0), "runAsUser must be"),
    (policies.nothing_runs_as_root, in_pod(securityContext={}), "found None"),
    (policies.root_file_systems_are_read_only, in_security(readOnlyRootFilesystem=False), "readOnlyRootFilesystem"),
    (policies.root_file_systems_are_read_only, init(securityContext={}), "container first"),
    (policies.all_capabilities_are_dropped, in_security(capabilities={"drop": ["NET_RAW"]}), "NET_RAW"),
    (policies.all_capabilities_are_dropped, in_security(capabilities={"drop": ["ALL"], "add": ["CHOWN"]}), "CHOWN"),
    (policies.privileges_cannot_escalate, in_container(securityContext={}), "allowPrivilegeEscalation"),
    (policies.privileges_cannot_escalate, in_security(privileged=True), "privileged must not"),
    (policies.privileges_cannot_escalate, in_pod(hostNetwork=True), "hostNetwork"),
    (policies.seccomp_is_the_runtimes_default, in_security(seccompProfile={"type": "Unconfined"}), "Unconfined"),
    (policies.cpu_and_memory_are_requested_and_limited, in_container(resources={}), "limits.memory is missing"),
    (policies.long_running_containers_are_probed, in_container(readinessProbe=None), "readinessProbe is missing"),
    (policies.long_running_containers_are_probed, in_container(livenessProbe=None), "livenessProbe is missing"),
    (
        policies.long_running_containers_are_probed,
        in_container(livenessProbe={"initialDelaySeconds": 9}),
        "startupProbe",
    ),
    (policies.long_running_containers_are_probed, init(restartPolicy="Always", livenessProbe=None), "container first"),
    (policies.pods_get_no_variables_of_services, in_pod(enableServiceLinks=True), "enableServiceLinks"),
    (policies.no_secret_is_in_clear, variable("POSTGRES_PASSWORD", "hunter2"), "POSTGRES_PASSWORD"),
    (policies.no_secret_is_in_clear, variable("AWS_SECRET_ACCESS_KEY", "abc"), "AWS_SECRET_ACCESS_KEY"),
    (policies.no_secret_is_in_clear, variable("URL", "redis://:hunter2@redis:6379"), "URL holds a password"),
    (policies.no_secret_is_in_clear, in_data(**{"redis.conf": "requirepass hunter2"}), "redis.conf"),
    (policies.no_secret_is_in_clear, in_data(**{"s3.json": '{"secretKey": "hunter2"}'}), "s3.json"),
    (policies.no_secret_is_in_clear, in_data(motd=f"say {PASSWORD}"), "holds a value of a Secret"),
    (policies.no_secret_is_in_clear, in_container(args=["--password=hunter2"]), "an argument"),
    (policies.service_account_tokens_are_mounted_only_where_used, without("RoleBinding"), "web has no RoleBinding"),
    (policies.service_account_tokens_are_mounted_only_where_used, in_pod(serviceAccountName="other"), "other has no"),
    (policies.no_role_may_do_everything, lambda of: of["Role"]["rules"][0].update(verbs=["*"]), "verbs must be named"),
    (policies.objects_have_the_standard_labels, lambda of: of["Role"]["metadata"].pop("labels"), "part-of is missing"),
    (
        policies.objects_have_the_standard_labels,
        lambda of: of["Deployment"]["spec"]["template"].update(metadata={"labels": {}}),
        "pod label",
    ),
    (policies.replicas_have_a_disruption_budget, without("PodDisruptionBudget"), "2 replicas"),
    (policies.replicas_have_a_disruption_budget, in_spec("PodDisruptionBudget", maxUnavailable=0), "be evicted"),
    (
        policies.replicas_have_a_disruption_budget,
        lambda of: of["PodDisruptionBudget"].update(
            spec={"selector": {"matchLabels": POD_LABELS}, "minAvailable": "60%"}
        ),
        "no pod of 2 may be evicted",
    ),
    (
        policies.replicas_have_a_disruption_budget,
        lambda of: (
            of.pop("HorizontalPodAutoscaler"),
            of["Deployment"]["spec"].update(replicas=1),
            of["PodDisruptionBudget"].update(spec={"selector": {"matchLabels": POD_LABELS}, "minAvailable": 1}),
        ),
        "no pod of 1 may be evicted",
    ),
    (policies.an_autoscaler_alone_sets_its_replicas, in_spec("Deployment", replicas=3), "must not be set"),
    (policies.an_autoscaler_alone_sets_its_replicas, without("Deployment"), "not in the release"),
    (policies.services_reach_a_port_of_a_pod, in_spec("Service", selector={"a": "b"}), "no pod template has"),
    (policies.services_reach_a_port_of_a_pod, in_spec("Service", ports=[{"port": 80}]), "the port 80"),
    (policies.services_reach_a_port_of_a_pod, in_container(ports=[]), "the port http"),
    (
        policies.services_reach_a_port_of_a_pod,
        lambda of: of["Service"]["metadata"].update(namespace="elsewhere"),
        "no pod template has",
    ),
    (policies.references_exist_or_are_declared_external, without("ConfigMap"), "ConfigMap/web is not in the release"),
    (policies.references_exist_or_are_declared_external, without("Secret"), "Secret/web is not in the release"),
    (policies.references_exist_or_are_declared_external, without("ServiceAccount"), "ServiceAccount/web is not"),
    (
        policies.references_exist_or_are_declared_external,
        lambda of: (of.pop("Job"), in_pod(volumes=[])(of)),
        "nothing refers to it",
    ),
    (policies.references_exist_or_are_declared_external, in_pod(imagePullSecrets=[{"name": "pull"}]), "Secret/pull"),
    (
        policies.references_exist_or_are_declared_external,
        in_pod(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]),
        "PersistentVolumeClaim/data",
    ),
    (
        policies.references_exist_or_are_declared_external,
        lambda of: of["ServiceAccount"].update(secrets=[{"name": "other"}]),
        "ServiceAccount/web: Secret/other",
    ),
    (policies.keys_of_references_exist, reads("Secret", "passwort"), "has no key 'passwort'"),
    (policies.keys_of_references_exist, reads("ConfigMap", "mode"), "has no key 'mode'"),
    (policies.every_object_is_there_once, lambda of: of.update(again=of["Role"]), "rendered twice"),
]


def test_a_release_that_is_as_it_should_be_has_no_findings() -> None:
    assert policies.findings(release(objects())) == []


@pytest.mark.parametrize(("check", "change", "said"), BROKEN, ids=[f"{c.__name__}-{s}" for c, _, s in BROKEN])
def test_what_is_wrong_is_found_and_said(check: Policy, change: Change, said: str) -> None:
    of = objects()
    change(of)
    assert any(said in found for found in check(release(of))), list(check(release(of)))


def test_every_policy_is_tried_on_something_wrong() -> None:
    assert {check for check, _, _ in BROKEN} == set(POLICIES)


# What looks wrong and is not.
RIGHT: list[tuple[str, Change]] = [
    ("an image by digest", in_container(image="evergrow/web@sha256:" + 64 * "0")),
    ("an image of a registry with a port", in_container(image="localhost:5000/web:1")),
    ("an init container without probes", init(readinessProbe=None, livenessProbe=None)),
    ("a bound account of another namespace", lambda of: of["RoleBinding"]["subjects"][0].update(namespace="default")),
    (
        "no token and no right",
        lambda of: (of.pop("RoleBinding"), of.pop("Job"), in_pod(automountServiceAccountToken=False)(of)),
    ),
    ("an optional Secret", lambda of: first(of)["envFrom"].append({"secretRef": {"name": "maybe", "optional": True}})),
    ("a password's file", variable("PASSWORD_FILE", "/run/secrets/password")),
    ("a Secret's name in a variable", variable("SECRET_NAME", "evergrow-credentials")),
    ("a URL with a user and no password", variable("DATABASE", "postgresql://web@postgres/web")),
    (
        "one replica that may be evicted",
        lambda of: (of.pop("HorizontalPodAutoscaler"), in_spec("Deployment", replicas=1)(of)),
    ),
    ("a Service by port number", in_spec("Service", ports=[{"port": 8080}])),
    ("a Service without a selector", in_spec("Service", selector=None)),
    (
        "the same name in another namespace",
        lambda of: of.update(again={**of["Role"], "metadata": {**of["Role"]["metadata"], "namespace": "elsewhere"}}),
    ),
]


@pytest.mark.parametrize("change", [change for _, change in RIGHT], ids=[name for name, _ in RIGHT])
def test_what_only_looks_wrong_is_not_found(change: Change) -> None:
    of = objects()
    change(of)
    assert policies.findings(release(of)) == []


def test_a_serving_runtime_is_held_to_what_containers_are_and_not_to_what_kserve_sets() -> None:
    container_spec = container(
        env=[],
        envFrom=[],
        securityContext={
            **container()["securityContext"],
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    )
    runtime = {"kind": "ServingRuntime", "metadata": metadata("server"), "spec": {"containers": [container_spec]}}
    assert policies.findings(Release([runtime])) == []
    broken = copy.deepcopy(runtime)
    broken["spec"]["containers"][0].update(image="web:latest", resources={}, readinessProbe=None)
    found = " ".join(policies.findings(Release([broken])))
    assert all(word in found for word in ("latest", "requests.cpu", "readinessProbe"))


def test_a_cron_jobs_pods_are_checked_too() -> None:
    of = objects()
    job = {"spec": {"template": of["Job"]["spec"]["template"]}}
    cron = {"kind": "CronJob", "metadata": metadata("nightly"), "spec": {"jobTemplate": job}}
    job["spec"]["template"]["spec"]["containers"][0]["image"] = "web:latest"
    (found,) = policies.images_have_a_tag_that_is_not_latest(replace(release(of), objects=[cron]))
    assert found.startswith("CronJob/nightly")
