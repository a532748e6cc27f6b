"""The chart evergrow-platform: stores that come along or are yours, passwords, data that stays, who reaches what."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import yaml
from mlflow.server.security_utils import is_allowed_host_header

from tests.charts.policies import Release, findings, references_exist_or_are_declared_external
from tests.charts.rendering import CHARTS, Object, render, render_error

CHART, NAMESPACE = "evergrow-platform", "evergrow-platform"
DEV = CHARTS / CHART / "values-dev.yaml"
PRODUCTION = CHARTS / CHART / "values-production.yaml"
STORES = {"postgres": "postgres", "redis": "redis", "objectStore": "seaweedfs"}
EXTERNAL: dict[str, dict[str, Any]] = {
    "postgres": {"mode": "external", "external": {"host": "db.example.com"}},
    "redis": {"mode": "external", "external": {"host": "redis.example.com"}},
    "objectStore": {"mode": "external", "external": {"bucket": "artifacts"}},
}


def dev(**over: Any) -> list[Object]:
    """The platform of dev, with values laid over it."""
    return render(CHART, [DEV], set=over, namespace=NAMESPACE)


def find(objects: Sequence[Object], kind: str, name: str, namespace: str | None = None) -> Object:
    """The one object of that kind and name."""
    (found,) = (
        o
        for o in objects
        if (o["kind"], o["metadata"]["name"]) == (kind, name) and o["metadata"].get("namespace") == namespace
    )
    return found


def names(objects: Sequence[Object], *kinds: str) -> set[str]:
    return {o["metadata"]["name"] for o in objects if o["kind"] in kinds}


def secret(objects: Sequence[Object], name: str, namespace: str | None = None) -> dict[str, str]:
    """A Secret's keys and what they hold."""
    data = find(objects, "Secret", name, namespace)["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def variables(objects: Sequence[Object], deployment: str) -> dict[str, Any]:
    """Variables of a deployment's only container: their value, or the reference to a Secret."""
    (container,) = find(objects, "Deployment", deployment)["spec"]["template"]["spec"]["containers"]
    return {v["name"]: v.get("value") or v["valueFrom"]["secretKeyRef"] for v in container["env"]}


# Bundled and external


@pytest.mark.parametrize(("values", "component"), STORES.items())
def test_a_bundled_store_comes_with_all_that_it_needs(values: str, component: str) -> None:
    objects = dev()
    kinds = {o["kind"] for o in objects if o["metadata"]["labels"]["app.kubernetes.io/component"] == component}
    assert kinds == {"ConfigMap", "NetworkPolicy", "PersistentVolumeClaim", "Secret", "Service", "StatefulSet"}


@pytest.mark.parametrize(("values", "component"), STORES.items())
def test_nothing_of_an_external_store_comes_along(values: str, component: str) -> None:
    objects = dev(**{values: EXTERNAL[values]})
    assert component not in {o["metadata"]["labels"]["app.kubernetes.io/component"] for o in objects}
    assert {c for c in STORES.values() if c != component} <= names(objects, "StatefulSet")


@pytest.mark.parametrize("values", STORES)
def test_one_external_store_is_as_sound_as_all(values: str) -> None:
    needed = {
        "postgres": {"Secret/evergrow-mlflow-database", "Secret/evergrow-feast-database"},
        "redis": {"Secret/evergrow-redis"},
        "objectStore": {"Secret/evergrow-mlflow-storage"},
    }
    objects = dev(**{values: EXTERNAL[values]})
    assert findings(Release(objects, NAMESPACE, frozenset(needed[values]))) == []


def test_servers_use_the_bundled_stores() -> None:
    mlflow, feast = variables(dev(), "mlflow"), variables(dev(), "feast-server")
    assert mlflow["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://mlflow@postgres:5432/mlflow"
    assert mlflow["PGPASSWORD"] == {"name": "postgres", "key": "mlflow-password"}
    assert mlflow["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://mlflow/artifacts"
    assert mlflow["AWS_SECRET_ACCESS_KEY"] == {"name": "mlflow-storage", "key": "AWS_SECRET_ACCESS_KEY"}
    assert feast["FEAST_REGISTRY_URL"] == "postgresql+psycopg://feast@postgres:5432/feast"
    assert feast["FEAST_REDIS"] == "redis:6379,password=$(REDIS_PASSWORD)"
    assert feast == variables(dev(), "feast-ui")


def test_servers_use_the_external_stores_that_are_named() -> None:
    objects = render(CHART, [PRODUCTION], namespace=NAMESPACE)
    mlflow, feast = variables(objects, "mlflow"), variables(objects, "feast-server")
    url = "postgresql+psycopg://mlflow@postgres.production.example.com:5432/mlflow"
    assert mlflow["MLFLOW_BACKEND_STORE_URI"] == url
    assert mlflow["PGPASSWORD"] == {"name": "evergrow-mlflow-database", "key": "password"}
    assert mlflow["PGSSLMODE"] == "verify-full"
    assert mlflow["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://evergrow-production-mlflow/artifacts"
    assert "MLFLOW_S3_ENDPOINT_URL" not in mlflow
    assert feast["FEAST_REDIS"] == "redis.production.example.com:6379,password=$(REDIS_PASSWORD),ssl=true"


def test_an_external_store_may_need_no_secret() -> None:
    over = copy.deepcopy(EXTERNAL)
    over["redis"]["external"]["secret"] = {"name": ""}
    over["objectStore"]["external"]["secret"] = {"name": ""}
    objects = dev(**over, mlflow={"serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}})
    assert variables(objects, "feast-server")["FEAST_REDIS"] == "redis.example.com:6379,ssl=true"
    assert "AWS_ACCESS_KEY_ID" not in variables(objects, "mlflow")
    assert find(objects, "ServiceAccount", "mlflow")["metadata"]["annotations"]


def test_mlflow_signs_urls_of_a_host_that_other_namespaces_reach() -> None:
    assert variables(dev(), "mlflow")["MLFLOW_S3_ENDPOINT_URL"] == f"http://seaweedfs.{NAMESPACE}:8333"


@pytest.mark.parametrize(("values", "key"), [("postgres", "host"), ("redis", "host"), ("objectStore", "bucket")])
def test_an_external_store_must_be_named(values: str, key: str) -> None:
    said = render_error(CHART, [DEV], set={values: {"mode": "external"}})
    assert f"/{values}/external/{key}" in said


# Values that are refused


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"consumer": ["evergrow-dev"]}, "'consumer'"),
        ({"mlflow": {"replica": 2}}, "'/mlflow': additional properties 'replica'"),
        ({"postgres": {"bundled": {"sotrage": "1Gi"}}}, "'/postgres/bundled': additional properties 'sotrage'"),
        (
            {"feast": {"server": {"resources": {"limit": {}}}}},
            "'/feast/server/resources': additional properties 'limit'",
        ),
        ({"redis": {"mode": "bundeled"}}, "'/redis/mode': value must be one of 'bundled', 'external'"),
        ({"mlflow": {"image": "evergrow/mlflow:latest"}}, "/mlflow/image"),
        ({"mlflow": {"image": "evergrow/mlflow"}}, "/mlflow/image"),
        ({"mlflow": {"replicas": 0}}, "/mlflow/replicas"),
        ({"redis": {"bundled": {"maxMemory": "512Mi"}}}, "/redis/bundled/maxMemory"),
        ({"consumers": ["Evergrow_dev"]}, "/consumers/0"),
        ({"consumers": None}, "missing property 'consumers'"),
        ({"redis": {"bundled": {"password": "hunter2"}}}, "'/redis/bundled': additional properties 'password'"),
    ],
)
def test_a_wrong_value_fails_with_its_path(over: Mapping[str, Any], said: str) -> None:
    assert said in render_error(CHART, [DEV], set=over)


def test_comments_of_values_and_descriptions_of_the_schema_say_the_same() -> None:
    schema = json.loads((CHARTS / CHART / "values.schema.json").read_text(encoding="utf-8"))
    text = (CHARTS / CHART / "values.yaml").read_text(encoding="utf-8")
    compared = list(_compared(yaml.compose(text), text.splitlines(), schema))
    assert [each for each in compared if each[1] != each[2]] == []
    assert len(compared) > 50


def _compared(node: yaml.MappingNode, lines: Sequence[str], schema: Mapping[str, Any]) -> Any:
    """Key, comment above it and description, of every value; a value on one line is one."""
    for key, value in node.value:
        part = schema["properties"][key.value]
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _compared(value, lines, part)
        else:
            yield key.value, _comment_above(key.start_mark.line, lines), part["description"]


def _comment_above(line: int, lines: Sequence[str]) -> str:
    first = line
    while first and lines[first - 1].strip().startswith("#"):
        first -= 1
    return " ".join(each.strip().removeprefix("# ") for each in lines[first:line])


# Passwords


def test_a_password_is_the_same_wherever_it_is_used() -> None:
    objects = dev()
    consumer = secret(objects, "evergrow-credentials", "evergrow-dev")
    feast, redis = secret(objects, "postgres")["feast-password"], secret(objects, "redis")["password"]
    key = secret(objects, "seaweedfs")["evergrow-dev"]
    assert consumer["FEAST_REGISTRY_URL"] == f"postgresql+psycopg://feast:{feast}@postgres.{NAMESPACE}:5432/feast"
    assert consumer["FEAST_REDIS"] == f"redis.{NAMESPACE}:6379,password={redis}"
    assert secret(objects, "redis")["auth.conf"] == f"requirepass {redis}\n"
    url = secret(objects, "evergrow-online-store", "evergrow-dev")["url"]
    assert url == f"redis://:{redis}@redis.{NAMESPACE}:6379"
    assert consumer["AWS_SECRET_ACCESS_KEY"] == key
    assert secret(objects, "evergrow-storage", "evergrow-dev")["AWS_SECRET_ACCESS_KEY"] == key
    assert secret(objects, "mlflow-storage")["AWS_SECRET_ACCESS_KEY"] == secret(objects, "seaweedfs")["mlflow"]


def test_passwords_are_long_differ_and_are_no_number() -> None:
    objects = dev()
    passwords = [*secret(objects, "postgres").values(), secret(objects, "redis")["password"]]
    passwords += [secret(objects, "seaweedfs")[bucket] for bucket in ("mlflow", "evergrow-dev")]
    assert len(set(passwords)) == len(passwords) == 6
    assert all(len(p) == 32 and p.isalnum() and p[0].isalpha() for p in passwords)


def test_no_password_is_outside_of_a_secret() -> None:
    objects = dev()
    passwords = {*secret(objects, "postgres").values(), secret(objects, "redis")["password"]}
    passwords |= {secret(objects, "seaweedfs")["mlflow"], secret(objects, "seaweedfs")["evergrow-dev"]}
    others = json.dumps([o for o in objects if o["kind"] != "Secret"])
    assert not any(password in others for password in passwords)


# Data that stays

KEPT = {("PersistentVolumeClaim", f"{c}-data") for c in STORES.values()} | {("Secret", c) for c in STORES.values()}


def kept(objects: Sequence[Object]) -> set[tuple[str, str]]:
    """What Helm leaves when the release is uninstalled."""
    return {
        (o["kind"], o["metadata"]["name"])
        for o in objects
        if (o["metadata"].get("annotations") or {}).get("helm.sh/resource-policy") == "keep"
    }


def test_volumes_and_passwords_outlive_the_release() -> None:
    assert kept(dev()) == KEPT


def test_nothing_outlives_the_release_if_told_so() -> None:
    objects = dev(keepData=False)
    assert kept(objects) == set()
    assert {(o["kind"], o["metadata"]["name"]) for o in objects} >= KEPT


def test_a_new_version_of_the_chart_restarts_no_store() -> None:
    for each in dev():
        if each["kind"] == "StatefulSet":
            labels = each["spec"]["template"]["metadata"]["labels"]
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(labels)


def test_redis_writes_all_that_it_takes_to_its_volume_and_evicts_nothing() -> None:
    lines = find(dev(), "ConfigMap", "redis")["data"]["redis.conf"].splitlines()
    assert {"appendonly yes", "maxmemory-policy noeviction", "maxmemory 256mb", "dir /data"} <= set(lines)


# Consumers


def test_each_consumer_gets_its_secrets_a_bucket_and_an_identity_for_it_alone() -> None:
    objects = dev(consumers=["evergrow-dev", "evergrow-staging"])
    for consumer in ("evergrow-dev", "evergrow-staging"):
        mine = {o["metadata"]["name"] for o in objects if o["metadata"].get("namespace") == consumer}
        assert mine == {"evergrow-credentials", "evergrow-online-store", "evergrow-storage"}
    identities = json.loads(secret(objects, "seaweedfs")["s3.json"])["identities"]
    assert {i["name"] for i in identities} == {"mlflow", "evergrow-dev", "evergrow-staging"}
    for identity in identities:
        assert {action.split(":")[1] for action in identity["actions"]} == {identity["name"]}
    (container,) = find(objects, "StatefulSet", "seaweedfs")["spec"]["template"]["spec"]["containers"]
    assert {"name": "BUCKETS", "value": "mlflow evergrow-dev evergrow-staging"} in container["env"]


def test_the_storage_secret_tells_kserve_where_the_store_is() -> None:
    annotations = find(dev(), "Secret", "evergrow-storage", "evergrow-dev")["metadata"]["annotations"]
    assert annotations == {
        "serving.kserve.io/s3-endpoint": f"seaweedfs.{NAMESPACE}:8333",
        "serving.kserve.io/s3-usehttps": "0",
        "serving.kserve.io/s3-verifyssl": "0",
        "serving.kserve.io/s3-region": "us-east-1",
    }


@pytest.mark.parametrize("values", STORES)
def test_consumers_get_no_secret_where_a_store_is_external(values: str) -> None:
    objects = dev(**{values: EXTERNAL[values]})
    assert {o["metadata"].get("namespace") for o in objects} == {None}


def test_steps_that_kubeflow_runs_find_their_credentials_beside_them() -> None:
    objects = dev(consumers=["evergrow-dev", "evergrow-staging"], kubeflowNamespace="kubeflow")
    for environment in ("dev", "staging"):
        beside = secret(objects, f"evergrow-credentials-{environment}", "kubeflow")
        assert beside == secret(objects, "evergrow-credentials", f"evergrow-{environment}")
    assert "kubeflow" not in {o["metadata"].get("namespace") for o in dev()}


# Who may reach what


def callers(objects: Sequence[Object], of: str) -> tuple[set[str], set[str]]:
    """Components and namespaces that may reach a component."""
    components, namespaces = set(), set()
    for rule in find(objects, "NetworkPolicy", of)["spec"]["ingress"]:
        for peer in rule["from"]:
            if "podSelector" in peer:
                components.add(peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
            else:
                namespaces.add(peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])
    return components, namespaces


def test_only_those_who_need_a_store_reach_it() -> None:
    objects = dev(kubeflowNamespace="kubeflow", networkPolicies={"fromNamespaces": ["ingress"]})
    clients = {"evergrow-dev", "kubeflow"}
    assert callers(objects, "postgres") == ({"mlflow", "feast-server", "feast-ui"}, clients)
    assert callers(objects, "redis") == ({"feast-server", "feast-ui"}, clients)
    assert callers(objects, "seaweedfs") == ({"mlflow"}, clients)
    assert callers(objects, "mlflow") == (set(), clients | {"ingress"})


def test_without_consumers_nobody_reaches_mlflow() -> None:
    policy = find(dev(consumers=[]), "NetworkPolicy", "mlflow")["spec"]
    assert policy["ingress"] == []
    assert policy["policyTypes"] == ["Ingress"]


def test_stores_call_nobody() -> None:
    for store in STORES.values():
        policy = find(dev(), "NetworkPolicy", store)["spec"]
        assert "Egress" in policy["policyTypes"]
        assert "egress" not in policy


def test_every_pod_is_chosen_by_a_network_policy_unless_they_are_off() -> None:
    objects = dev()
    assert names(objects, "NetworkPolicy") == names(objects, "Deployment", "StatefulSet")
    assert names(dev(networkPolicies={"enabled": False}), "NetworkPolicy") == set()


def test_of_the_object_store_only_s3_listens_outside_of_its_pod() -> None:
    (container,) = find(dev(), "StatefulSet", "seaweedfs")["spec"]["template"]["spec"]["containers"]
    assert {"-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0", "-master.telemetry=false"} <= set(container["command"])


# Servers


@pytest.mark.parametrize(
    ("host", "is_answered"),
    [
        (f"mlflow.{NAMESPACE}:5000", True),
        (f"mlflow.{NAMESPACE}.svc.cluster.local:5000", True),
        ("localhost:5000", True),
        ("10.96.227.58:5000", True),
        ("127.0.0.1", True),
        ("ml.example.com", True),
        ("evil.example.com", False),
        ("10.evil.example.com:5000", False),
        ("mlflow.evil.example.com", False),
        ("localhost.evil.example.com:5000", False),
    ],
)
def test_mlflow_answers_to_its_own_names_and_to_addresses(host: str, is_answered: bool) -> None:
    allowed = variables(dev(mlflow={"allowedHosts": ["ml.example.com"]}), "mlflow")["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert is_allowed_host_header(allowed.split(","), host) == is_answered


def test_mlflows_database_is_migrated_before_it_starts_unless_told_not_to() -> None:
    def init_containers(objects: Sequence[Object]) -> list[str]:
        spec = find(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]
        return [container["name"] for container in spec.get("initContainers", ())]

    assert init_containers(dev()) == ["migrate"]
    assert "migrate.py" in find(dev(), "ConfigMap", "mlflow")["data"]
    without = dev(mlflow={"migrate": False})
    assert init_containers(without) == []
    assert "mlflow" not in names(without, "ConfigMap")


def test_production_runs_two_of_each_and_spreads_them() -> None:
    objects = render(CHART, [PRODUCTION], namespace=NAMESPACE)
    assert names(objects, "StatefulSet", "PersistentVolumeClaim") == set()
    assert names(objects, "PodDisruptionBudget") == {"mlflow", "feast-server", "feast-ui"}
    for scaler in ("mlflow", "feast-server"):
        assert find(objects, "HorizontalPodAutoscaler", scaler)["spec"]["minReplicas"] >= 2
    for deployment in ("mlflow", "feast-server", "feast-ui"):
        spec = find(objects, "Deployment", deployment)["spec"]["template"]["spec"]
        keys = {c["topologyKey"] for c in spec["topologySpreadConstraints"]}
        assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}


def test_dev_fits_beside_everything_else_into_two_cpus() -> None:
    requests = [
        container["resources"]["requests"]["cpu"]
        for each in dev()
        if each["kind"] in ("Deployment", "StatefulSet")
        for container in each["spec"]["template"]["spec"]["containers"]
    ]
    assert sum(int(cpu.removesuffix("m")) for cpu in requests) <= 150
    assert all(cpu.endswith("m") for cpu in requests)


def test_the_ui_may_be_left_out() -> None:
    objects = dev(feast={"ui": {"enabled": False}})
    assert "feast-ui" not in {o["metadata"]["name"] for o in objects}
    assert list(references_exist_or_are_declared_external(Release(objects, NAMESPACE))) == []


def test_pods_are_placed_and_their_images_pulled_as_told() -> None:
    toleration = {"key": "ml", "operator": "Exists"}
    objects = dev(nodeSelector={"pool": "ml"}, tolerations=[toleration], imagePullSecrets=["pull"])
    for each in objects:
        if each["kind"] in ("Deployment", "StatefulSet"):
            spec = each["spec"]["template"]["spec"]
            assert spec["nodeSelector"] == {"pool": "ml"}
            assert spec["tolerations"] == [toleration]
            assert spec["imagePullSecrets"] == [{"name": "pull"}]
