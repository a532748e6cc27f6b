"""The chart of one environment: its values are an EnvironmentSpec, and what it renders follows from that."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.server.__main__ import parser
from components.shipper.__main__ import parser as shipper_parser
from evergrow.integrations.labels import MODEL, VERSION
from evergrow.integrations.pods_submit import driver_job
from evergrow.spec import parse
from evergrow.spec.environment import EnvironmentSpec
from tests.builders import document
from tests.charts import policies
from tests.charts.policies import Release, name_of
from tests.charts.rendering import CHARTS, GOLDEN, Object, Variant, assert_golden, render, render_error, rendered

CHART = CHARTS / "evergrow"
ENVIRONMENTS = ("dev", "staging", "production")
VARIANTS = [Variant("evergrow", environment) for environment in ENVIRONMENTS]

# Numbers that go wrong where one tool writes them and another reads them.
PARAMETERS = {"learning_rate": 1e-05, "max_iter": 12_345_678}
ESTIMATOR = {"entrypoint": "tests.example_model.estimator:boosted", "parameters": PARAMETERS}
DOCUMENT = document(name="delays", training={"estimator": ESTIMATOR}).dump()
SCHEDULES = [
    {"pipeline": "training", "cron": "0 3 * * 1"},
    {"pipeline": "materialization", "cron": "*/10 * * * *"},
    {"pipeline": "training", "cron": "0 3 1 * *", "suspended": True},
]
SCHEDULED = {"models": {"delays": {"document": DOCUMENT, "schedules": SCHEDULES}}}
PODS = {"execution": {"pipelines": {"runner": "pods"}}}
OBSERVED = {
    "observability": {
        "tracing": {"endpoint": "http://collector.monitoring:4318"},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRules": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True},
    }
}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Values laid over others as Helm does: maps are merged, everything else is replaced."""
    both = {k: merged(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **over, **both}


def read(file: Path) -> dict[str, Any]:
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


DEFAULTS = read(CHART / "values.yaml")


def dev(*over: dict[str, Any]) -> list[Object]:
    """The environment dev with other values laid over."""
    values: dict[str, Any] = {}
    for each in over:
        values = merged(values, each)
    return render("evergrow", [VARIANTS[0].values], set=values, namespace="evergrow-dev")


def refused(over: dict[str, Any]) -> str:
    return render_error("evergrow", [VARIANTS[0].values], set=over, namespace="evergrow-dev")


def nested(path: str, value: Any) -> dict[str, Any]:
    """`value` at a dotted path."""
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def of(objects: list[Object] | tuple[Object, ...], kind: str) -> dict[str, Object]:
    """Objects of a kind by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


# -- values ------------------------------------------------------------------------------------------------------------


def test_the_values_that_come_with_the_chart_are_the_models_defaults():
    required = {
        "name": "x",
        "execution": {"namespace": "x"},
        "data": {"store": "s3://x/y", "mlflow": "http://x"},
    }
    defaults = EnvironmentSpec.model_validate(required).dump()
    del defaults["name"], defaults["execution"]["namespace"], defaults["data"]["store"], defaults["data"]["mlflow"]
    del defaults["execution"]["serving"]["rollouts"]
    assert defaults == DEFAULTS


def repeated(values: dict[str, Any], defaults: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of values that say what is the default anyway."""
    for key, value in values.items():
        if key not in defaults:
            continue
        if isinstance(value, dict) and isinstance(defaults[key], dict):
            yield from repeated(value, defaults[key], f"{path}{key}.")
        if value == defaults[key]:
            yield f"{path}{key}"


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_an_environments_file_holds_only_what_differs(variant):
    assert list(repeated(read(variant.values), DEFAULTS)) == []


def test_a_value_that_is_the_default_anyway_is_found():
    values = {"name": "x", "execution": {"quota": {"cpu": "8", "pods": 7}}, "data": {"endpoint": None}}
    assert list(repeated(values, DEFAULTS)) == ["execution.quota.cpu", "data.endpoint"]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_an_environment_differs_on_the_four_axes_alone(variant):
    values = read(variant.values)
    assert set(values) <= {"name", "execution", "code", "models", "data", "observability"}
    assert (values["name"], values["execution"]["namespace"]) == (
        variant.environment,
        f"evergrow-{variant.environment}",
    )


def test_no_two_environments_share_their_data():
    stores = [read(variant.values)["data"]["store"] for variant in VARIANTS]
    assert len(set(stores)) == len(stores)


MISSPELT = [
    ("nmae", "dev", "at ''"),
    ("execution.namesapce", "x", "/execution"),
    ("execution.pipelines.steps.resources.memroy", "1Gi", "/execution/pipelines/steps/resources"),
    ("execution.pipelines.stepOverrides.train.timeuot", "1h", "/execution/pipelines/stepOverrides/train"),
    (
        "execution.pipelines.stepOverrides.train.resources.memroy",
        "1Gi",
        "/execution/pipelines/stepOverrides/train/resources",
    ),
    ("execution.pipelines.stepOverrides.trian", {}, "/execution/pipelines/stepOverrides"),
    (
        "execution.serving.tolerations",
        [{"key": "gpu", "efect": "NoSchedule"}],
        "/execution/serving/tolerations/0",
    ),
    ("models.delays.documnet", {}, "/models/delays"),
    ("models.delays.document", {**DOCUMENT, "sepc": {}}, "/models/delays/document"),
    (
        "models.delays.document",
        {**DOCUMENT, "spec": {**DOCUMENT["spec"], "trainig": {}}},
        "/models/delays/document/spec",
    ),
    ("models.delays.schedules", [{"pipeline": "training", "corn": "* * * * *"}], "/models/delays/schedules/0"),
    ("data.secrets.credential", "x", "/data/secrets"),
    ("observability.prometheusRules.enable", True, "/observability/prometheusRules"),
]


@pytest.mark.parametrize(("path", "value", "where"), MISSPELT, ids=[path for path, _, _ in MISSPELT])
def test_a_misspelt_key_fails_with_its_path(path, value, where):
    said = refused(nested(path, value))
    assert where in said
    key = next(
        k for k in ("sepc", "trainig", "efect", "corn", path.rpartition(".")[2]) if k in json.dumps({path: value})
    )
    assert f"'{key}'" in said


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("execution.pipelines.runner", "argo", "/execution/pipelines/runner"),
        ("execution.quota.cpu", 8, "/execution/quota/cpu': got number, want string"),
        ("code.images.server", "evergrow/server-python", "/code/images/server"),
        ("data.store", "evergrow-dev", "/data/store"),
        ("observability.prometheusRules.latency", "0.3", "/observability/prometheusRules/latency"),
        ("observability.prometheusRules.availability", 90, "/observability/prometheusRules/availability"),
        ("observability.logs.level", "debug", "/observability/logs/level"),
        (
            "models.delays.schedules",
            SCHEDULES,
            "models.delays.document: is required where there are schedules, found 3",
        ),
        ("models.bikes.document", DOCUMENT, 'models.bikes.document.metadata.name: must be "bikes", found "delays"'),
        (
            "execution.serving.autoscaling.minReplicas",
            5,
            "execution.serving.autoscaling.maxReplicas: must be at least minReplicas, found 2 and 5",
        ),
    ],
)
def test_a_wrong_value_fails_with_its_path_and_rule(path, value, said):
    assert said in refused(nested(path, value))


def test_what_helm_hands_down_to_charts_is_accepted_and_left_out_of_the_document():
    (config,) = of(dev({"global": {"x": 1}}, PODS), "ConfigMap").values()
    assert "global" not in json.loads(config["data"]["EVERGROW_ENVIRONMENT"])


def test_without_an_environments_values_helm_says_which_are_required():
    said = render_error("evergrow")
    assert "'name'" in said
    assert "'namespace'" in said


# -- the document ------------------------------------------------------------------------------------------------------


def document_in(objects: Any, name: str = "evergrow-environment") -> EnvironmentSpec:
    return EnvironmentSpec.model_validate_json(of(objects, "ConfigMap")[name]["data"]["EVERGROW_ENVIRONMENT"])


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_what_is_installed_is_the_whole_document(variant):
    values = merged(DEFAULTS, read(variant.values))
    told = merged(values, nested("execution.serving.rollouts", True))
    assert document_in(rendered(variant)) == EnvironmentSpec.model_validate(told)


@pytest.mark.parametrize("enabled", [True, False])
def test_whether_rollouts_are_carried_out_is_told_by_whether_there_is_an_operator(enabled):
    objects = dev({"operator": {"enabled": enabled}}, nested("execution.serving.rollouts", not enabled))
    assert document_in(objects).execution.serving.rollouts is enabled
    assert [name for name in of(objects, "Deployment") if name == "evergrow-operator"] == [
        "evergrow-operator"
    ] * enabled
    assert [name_of(each) for each in objects if "operator" in name_of(each) and not enabled] == []


def test_models_and_overrides_arrive_in_the_document_as_they_were_written():
    override = nested("execution.pipelines.stepOverrides.train", {"resources": {"memory": "4Gi"}})
    spec = document_in(dev(SCHEDULED, override))
    assert spec.models["delays"].document == parse(DOCUMENT)
    assert [s.dump() for s in spec.models["delays"].schedules] == [{"suspended": False, **s} for s in SCHEDULES]
    assert spec.execution.pipelines.step("train").resources.memory == "4Gi"


KEYS = {
    "EVERGROW_ENV",
    "EVERGROW_ENVIRONMENT",
    "EVERGROW_STORE",
    "EVERGROW_HOME",
    "EVERGROW_LOG",
    "EVERGROW_LOG_LEVEL",
    "EVERGROW_RUN",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_DISABLE_TELEMETRY",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "FEAST_USAGE",
    "OMP_NUM_THREADS",
}


@pytest.mark.parametrize(
    ("endpoint", "more"),
    [
        (None, set()),
        ("https://s3.example.com", {"AWS_ENDPOINT_URL"}),
        ("http://seaweedfs.x:8333", {"AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP"}),
    ],
)
def test_steps_get_an_endpoint_only_where_there_is_one_and_http_only_where_it_is(endpoint, more):
    config = of(dev(nested("data.endpoint", endpoint)), "ConfigMap")["evergrow-environment"]["data"]
    assert set(config) == KEYS | more
    assert config.get("AWS_ENDPOINT_URL") == endpoint


# -- where steps run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runner", "kubeflow"), [("pods", "kubeflow"), ("kubeflow", "kubeflow"), ("kubeflow", "evergrow-dev")]
)
def test_what_steps_refer_to_is_where_their_pods_are(runner, kubeflow):
    objects = dev(nested("execution.pipelines", {"runner": runner, "kubeflow": {"namespace": kubeflow}}))
    spec = document_in(objects)
    account = of(objects, "ServiceAccount")[spec.beside_steps("evergrow-steps")]
    assert account["metadata"]["namespace"] == spec.steps_namespace
    config = of(objects, "ConfigMap")[spec.beside_steps("evergrow-environment")]
    assert config["metadata"]["namespace"] == spec.steps_namespace
    assert document_in(objects, config["metadata"]["name"]) == spec
    binding = of(objects, "RoleBinding")["evergrow-steps"]
    assert binding["metadata"]["namespace"] == "evergrow-dev"
    subject = {"name": account["metadata"]["name"], "namespace": spec.steps_namespace, "kind": "ServiceAccount"}
    assert binding["subjects"] == [subject]


def test_environments_that_share_kubeflow_have_nothing_of_one_name_there():
    there = [
        {name_of(each) for each in rendered(variant) if each["metadata"]["namespace"] == "kubeflow"}
        for variant in VARIANTS
    ]
    assert all(len(names) == 3 for names in there)
    assert len(set.union(*there)) == 9


def rights(objects: list[Object], role: str = "evergrow-steps") -> dict[str, set[str]]:
    """Verbs per resource of a Role."""
    verbs: dict[str, set[str]] = {}
    for rule in of(objects, "Role")[role]["rules"]:
        for group, resource in ((g, r) for g in rule["apiGroups"] for r in rule["resources"]):
            verbs.setdefault(f"{group}/{resource}".lstrip("/"), set()).update(rule["verbs"])
    return verbs


def test_steps_may_deploy_and_read_why_a_version_fails_and_only_a_runner_of_ours_may_make_pods():
    deploying = {"get", "list", "watch", "create", "patch", "delete"}
    under_kubeflow = {
        "serving.kserve.io/inferenceservices": deploying,
        "gateway.networking.k8s.io/httproutes": deploying,
        "pods/log": {"get"},
        "pods": {"get", "list"},
    }
    asking = {"get", "list", "watch", "create", "patch"}
    under_kubeflow |= {"evergrow.dev/continualmodels": asking, "evergrow.dev/modelrollouts": asking}
    # What the loop hears and tells.
    under_kubeflow |= {"evergrow.dev/continualmodels/status": {"patch"}, "events": {"get", "create", "patch"}}
    assert rights(dev()) == under_kubeflow
    # A training that the loop begins is a Job of a document.
    begun = {"batch/jobs": {"get", "list", "create"}, "configmaps": {"create"}}
    pods = {"pods": {"get", "list", "watch", "create", "delete"}}
    assert rights(dev(PODS)) == {**under_kubeflow, **pods, **begun}
    without = rights(dev({"operator": {"enabled": False}}))
    assert without == {what: verbs for what, verbs in under_kubeflow.items() if "modelrollouts" not in what}


def test_the_operator_may_do_what_it_does_and_nothing_else():
    watching = {"get", "list", "watch"}
    assert rights(dev(), "evergrow-operator") == {
        "evergrow.dev/continualmodels": watching,
        "evergrow.dev/continualmodels/status": {"patch"},
        "evergrow.dev/modelrollouts": {*watching, "patch"},
        "evergrow.dev/modelrollouts/status": {"patch"},
        "serving.kserve.io/inferenceservices": {*watching, "create", "patch", "delete"},
        "gateway.networking.k8s.io/httproutes": {*watching, "create", "patch"},
        "apps/deployments": watching,
        "pods": {"get", "list"},
        "events": {"get", "create", "patch"},
        "coordination.k8s.io/leases": {"get", "create", "update"},
    }
    leases = [r for r in of(dev(), "Role")["evergrow-operator"]["rules"] if r["resources"] == ["leases"]]
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in leases] == [
        (["create"], None), (["get", "update"], ["evergrow-operator"])
    ]  # fmt: skip


@pytest.mark.parametrize("replicas", [1, 2])
def test_of_several_operators_a_drained_node_takes_one_and_a_single_one_keeps_no_node(replicas):
    objects = dev({"operator": {"replicas": replicas}})
    assert ("evergrow-operator" in of(objects, "PodDisruptionBudget")) is (replicas > 1)
    assert of(objects, "Deployment")["evergrow-operator"]["spec"]["replicas"] == replicas


def test_servers_have_no_rights_and_no_token_and_the_object_stores_keys():
    objects = dev()
    account = of(objects, "ServiceAccount")["evergrow-serving"]
    assert account["automountServiceAccountToken"] is False
    assert account["secrets"] == [{"name": "evergrow-storage"}]
    bound = [subject["name"] for each in of(objects, "RoleBinding").values() for subject in each["subjects"]]
    assert bound
    assert "evergrow-serving" not in bound


@pytest.mark.parametrize("names", [[], ["registry"]])
def test_images_are_pulled_with_the_secrets_that_are_named(names):
    accounts = of(dev(nested("code.images.pullSecrets", names)), "ServiceAccount").values()
    assert len(accounts) == 3
    assert all([s["name"] for s in a.get("imagePullSecrets", [])] == names for a in accounts)


# -- the network -------------------------------------------------------------------------------------------------------


def test_network_policies_are_there_unless_they_are_switched_off():
    assert of(dev(), "NetworkPolicy")["evergrow-default-deny"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    assert of(dev(nested("execution.networkPolicies", False)), "NetworkPolicy") == {}


def namespaces(peers: list[dict[str, Any]]) -> set[str]:
    return {p["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for p in peers}


def test_only_the_gateways_proxies_and_monitoring_reach_servers():
    network = {"gatewayNamespaces": ["proxies"], "monitoringNamespaces": ["prometheus", "agents"]}
    found = of(dev(nested("execution.network", network)), "NetworkPolicy")
    opening = [name for name, each in found.items() if each["spec"].get("ingress")]
    assert sorted(opening) == ["evergrow-operator", "evergrow-servers"]
    callers, operator, readers = found["evergrow-servers"]["spec"]["ingress"]
    assert operator["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/component": "operator"}}}]
    assert [p["port"] for p in operator["ports"]] == [8080]
    (asking,) = found["evergrow-operator"]["spec"]["ingress"]
    assert (namespaces(asking["from"]), [p["port"] for p in asking["ports"]]) == ({"prometheus", "agents"}, [8089])
    assert (namespaces(callers["from"]), [p["port"] for p in callers["ports"]]) == ({"proxies"}, [8080, 8081])
    assert (namespaces(readers["from"]), [p["port"] for p in readers["ports"]]) == ({"prometheus", "agents"}, [8080])


def test_no_list_of_peers_is_empty_for_that_would_mean_everyone():
    lists = ("platformNamespaces", "kubernetesApi", "gatewayNamespaces", "monitoringNamespaces")
    found = of(dev(nested("execution.network", dict.fromkeys(lists, ()))), "NetworkPolicy")
    assert "evergrow-kubernetes-api" not in found
    assert not found["evergrow-platform"]["spec"]["egress"]
    (operator,) = found["evergrow-servers"]["spec"]["ingress"]
    assert operator["from"]
    assert not found["evergrow-operator"]["spec"]["ingress"]


def test_steps_alone_reach_the_api_server_and_all_reach_the_platform_and_what_is_outside():
    network = {
        "platformNamespaces": ["stores"],
        "external": [{"cidr": "10.1.0.0/16", "ports": [5432, 6379]}],
        "kubernetesApi": ["10.96.0.1/32"],
    }
    found = of(dev(nested("execution.network", network)), "NetworkPolicy")
    inside, outside = found["evergrow-platform"]["spec"]["egress"]
    assert found["evergrow-platform"]["spec"]["podSelector"] == {}
    assert namespaces(inside["to"]) == {"stores"}
    assert outside["to"] == [{"ipBlock": {"cidr": "10.1.0.0/16"}}]
    assert [port["port"] for port in outside["ports"]] == [5432, 6379]
    (server,) = found["evergrow-servers"]["spec"]["podSelector"]["matchExpressions"]
    (other,) = found["evergrow-kubernetes-api"]["spec"]["podSelector"]["matchExpressions"]
    assert (server["key"], server["operator"], other["operator"]) == (other["key"], "Exists", "DoesNotExist")
    (api,) = found["evergrow-kubernetes-api"]["spec"]["egress"]
    assert api["to"] == [{"ipBlock": {"cidr": "10.96.0.1/32"}}]


# -- serving -----------------------------------------------------------------------------------------------------------


def test_the_runtime_starts_our_server_as_it_wants_to_be_started():
    runtime = of(dev(), "ServingRuntime")["evergrow-server"]["spec"]
    container, _ = runtime["containers"]
    options = parser().parse_args(container["args"])
    assert str(options.model_dir) == "/mnt/models"
    assert [port["containerPort"] for port in container["ports"]] == [options.http_port, options.grpc_port]
    probed = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
    assert probed == {
        "startupProbe": "/v2/health/live",
        "readinessProbe": "/v2/health/ready",
        "livenessProbe": "/v2/health/live",
    }
    assert runtime["supportedModelFormats"] == [{"name": "evergrow", "autoSelect": False}]


def test_the_runtime_is_placed_and_sized_as_the_values_say():
    serving = {
        "runtime": "other",
        "resources": {"cpu": "2", "memory": "3Gi", "cpuLimit": "4", "memoryLimit": "5Gi"},
        "nodeSelector": {"pool": "serving"},
        "tolerations": [{"key": "serving", "operator": "Exists"}],
    }
    images = {"server": "example.com/server-python:2", "pullPolicy": "Always"}
    runtime = of(dev(nested("execution.serving", serving), nested("code.images", images)), "ServingRuntime")["other"]
    container, shipper = runtime["spec"]["containers"]
    assert shipper["imagePullPolicy"] == "Always"
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "3Gi"},
        "limits": {"cpu": "4", "memory": "5Gi"},
    }
    assert (container["image"], container["imagePullPolicy"]) == (images["server"], "Always")
    assert runtime["spec"]["nodeSelector"] == serving["nodeSelector"]
    assert runtime["spec"]["tolerations"] == serving["tolerations"]


def test_what_the_server_records_is_where_the_shipper_looks_and_outlives_the_server():
    runtime = of(dev(nested("execution.serving", {"logVolume": "3Gi"})), "ServingRuntime")["evergrow-server"]["spec"]
    server, shipper = runtime["containers"]
    recorded, shipped = parser().parse_args(server["args"]), shipper_parser().parse_args(shipper["command"][3:])
    assert recorded.log_dir == shipped.log_dir
    assert shipper["command"][:3] == ["python", "-m", "components.shipper"]
    volumes = {v["name"]: v for v in runtime["volumes"]}
    for container in (server, shipper):
        mounted = {m["mountPath"]: volumes[m["name"]] for m in container["volumeMounts"]}
        assert mounted[str(recorded.log_dir)]["emptyDir"] == {"sizeLimit": "3Gi"}
    assert str(shipped.beat) in shipper["livenessProbe"]["exec"]["command"][2]
    assert {"configMapRef": {"name": "evergrow-environment"}} in shipper["envFrom"]


def test_each_model_has_a_disruption_budget_that_means_its_servers_and_no_other_pods():
    budgets = of(dev({"models": {"bikes": {}}}), "PodDisruptionBudget")
    assert set(budgets) == {"arrival-delay", "bikes"}
    for model, budget in budgets.items():
        selector = budget["spec"]["selector"]
        assert selector["matchLabels"] == {"evergrow.dev/model": model}
        assert selector["matchExpressions"] == [{"key": "serving.kserve.io/inferenceservice", "operator": "Exists"}]


def test_the_quota_is_what_the_values_say():
    quota = {"cpu": "3", "memory": "5Gi", "cpuLimit": "7", "memoryLimit": "9Gi", "pods": 11}
    hard = of(dev(nested("execution.quota", quota)), "ResourceQuota")["evergrow"]["spec"]["hard"]
    assert hard == {
        "requests.cpu": "3",
        "requests.memory": "5Gi",
        "limits.cpu": "7",
        "limits.memory": "9Gi",
        "pods": "11",
    }


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_only_our_own_runner_has_cron_jobs_for_kubeflow_keeps_schedules_itself():
    assert of(dev(SCHEDULED), "CronJob") == {}
    assert "evergrow-model-delays" not in of(dev(SCHEDULED), "ConfigMap")
    assert set(of(dev(SCHEDULED, PODS), "CronJob")) == {
        "delays-training",
        "delays-training-2",
        "delays-materialization",
    }
    assert of(dev(PODS), "CronJob") == {}


def test_a_cron_job_runs_at_its_time_one_run_after_the_other_and_rests_when_suspended():
    jobs = of(dev(SCHEDULED, PODS), "CronJob")
    first, second = jobs["delays-training"]["spec"], jobs["delays-training-2"]["spec"]
    assert (first["schedule"], first["timeZone"], first["suspend"]) == ("0 3 * * 1", "Etc/UTC", False)
    assert (second["schedule"], second["suspend"]) == ("0 3 1 * *", True)
    assert {job["spec"]["concurrencyPolicy"] for job in jobs.values()} == {"Forbid"}


def test_what_is_scheduled_is_read_as_the_document_that_was_written():
    text = of(dev(SCHEDULED, PODS), "ConfigMap")["evergrow-model-delays"]["data"]["model.yaml"]
    assert parse(text) == parse(DOCUMENT)


def test_a_scheduled_run_is_driven_by_the_same_pod_as_a_submitted_one():
    objects = dev(SCHEDULED, PODS)
    made = of(objects, "CronJob")["delays-training"]["spec"]["jobTemplate"]
    expected = driver_job(document_in(objects), {}, "training", "evergrow-model-delays", None)
    assert made["spec"]["podFailurePolicy"] == expected["podFailurePolicy"]
    assert made["spec"]["backoffLimit"] == expected["backoffLimit"]
    pod, other = made["spec"]["template"]["spec"], expected["template"]["spec"]
    (container,), (known,) = pod["containers"], other["containers"]
    for key in ("name", "image", "command", "envFrom", "resources"):
        assert container[key] == known[key], key
    assert {v["name"] for v in container["env"]} == {v["name"] for v in known["env"]} - {"EVERGROW_RUN"}
    assert {m["mountPath"] for m in container["volumeMounts"]} == {m["mountPath"] for m in known["volumeMounts"]}
    assert pod["serviceAccountName"] == other["serviceAccountName"]
    labels = made["metadata"]["labels"]
    assert (labels["app.kubernetes.io/managed-by"], labels["evergrow.dev/pipeline"]) == ("evergrow", "training")


def test_a_name_too_long_for_a_cron_job_is_cut_and_stays_told_apart():
    models = {}
    for last in "ab":
        name = "a-model-whose-name-is-as-long-as-names-may-be-456" + last
        models[name] = {"document": {**DOCUMENT, "metadata": {"name": name}}, "schedules": SCHEDULES}
    names = list(of(dev({"models": models}, PODS), "CronJob"))
    assert len(names) == 6
    assert all(len(name) <= 52 for name in names)


# -- as a whole --------------------------------------------------------------------------------------------------------


def test_with_our_own_runner_and_schedules_every_policy_holds():
    secrets = {f"Secret/evergrow-{name}" for name in ("credentials", "online-store", "storage")}
    release = Release(dev(SCHEDULED, PODS), "evergrow-dev", frozenset(secrets))
    assert policies.findings(release) == []


def test_with_our_own_runner_and_schedules_what_is_rendered_is_the_golden_file():
    assert_golden(dev(SCHEDULED, PODS), GOLDEN / "evergrow-pods.yaml")


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_object_says_where_it_is_so_that_the_releases_namespace_does_not_matter(variant):
    elsewhere = render("evergrow", [variant.values], namespace="default")
    assert tuple(elsewhere) == rendered(variant)
    assert all(each["metadata"]["namespace"] in (f"evergrow-{variant.environment}", "kubeflow") for each in elsewhere)


# -- what is seen from outside -----------------------------------------------------------------------------------------


def test_when_all_is_seen_every_policy_holds():
    secrets = frozenset(f"Secret/evergrow-{name}" for name in ("credentials", "online-store", "storage"))
    assert policies.findings(Release(dev(OBSERVED), "evergrow-dev", secrets)) == []


@pytest.mark.parametrize("token", ["", "watch-token"], ids=["no token", "a token"])
def test_the_page_that_watches_holds_every_policy_and_is_reached_by_monitoring_alone(token):
    watched = {"observability": {"watch": {"enabled": True, "tokenKey": token}}}
    objects = dev(PODS, OBSERVED, watched)
    secrets = frozenset(f"Secret/evergrow-{name}" for name in ("credentials", "online-store", "storage"))
    assert policies.findings(Release(objects, "evergrow-dev", secrets)) == []

    (policy,) = [o for o in objects if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == "evergrow-watch"]
    assert [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]
    deployment = of(objects, "Deployment")["evergrow-watch"]
    variables = [v["name"] for v in deployment["spec"]["template"]["spec"]["containers"][0].get("env", [])]
    assert ("EVERGROW_WATCH_TOKEN" in variables) is bool(token)


def test_the_page_may_list_rollouts_and_nothing_else_and_nothing_at_all_where_there_are_none():
    watched = {"observability": {"watch": {"enabled": True}}}
    objects, without = dev(PODS, watched), dev(PODS, watched, {"operator": {"enabled": False}})
    pod, alone = (of(each, "Deployment")["evergrow-watch"]["spec"]["template"]["spec"] for each in (objects, without))

    assert rights(objects, "evergrow-watch") == {"evergrow.dev/modelrollouts": {"list"}}
    assert [one["name"] for one in of(objects, "RoleBinding")["evergrow-watch"]["subjects"]] == [
        pod["serviceAccountName"]
    ]
    assert pod["automountServiceAccountToken"] is True
    assert "evergrow-watch" not in of(without, "Role")
    assert alone["automountServiceAccountToken"] is False


def test_without_being_asked_for_there_is_no_page():
    assert not [each for each in dev() if "evergrow-watch" in each["metadata"]["name"]]


def test_when_all_is_seen_what_is_rendered_is_the_golden_file():
    mine = [each for each in dev(OBSERVED) if each not in dev()]
    assert_golden([each for each in mine if "dashboard" not in each["metadata"]["name"]], GOLDEN / "evergrow-seen.yaml")


def test_what_needs_the_prometheus_operator_is_only_made_when_asked_for():
    assert not [each for each in dev() if each["apiVersion"].startswith("monitoring.coreos.com")]
    kinds = {each["kind"] for each in dev(OBSERVED) if each["apiVersion"] == "monitoring.coreos.com/v1"}
    assert kinds == {"PodMonitor", "PrometheusRule"}


def variables(objects):
    """Of the server's container."""
    (runtime,) = of(objects, "ServingRuntime").values()
    return {each["name"]: each.get("value") for each in runtime["spec"]["containers"][0]["env"]}


def test_servers_shippers_and_steps_log_json_unless_they_are_told_otherwise():
    text = {"observability": {"logs": {"format": "text", "level": "DEBUG"}}}
    for objects, told in ((dev(), ("json", "INFO")), (dev(text), ("text", "DEBUG"))):
        environment = of(objects, "ConfigMap")["evergrow-environment"]["data"]
        for read in (environment, variables(objects)):
            assert (read["EVERGROW_LOG"], read["EVERGROW_LOG_LEVEL"]) == told


def test_servers_send_spans_where_they_may_be_sent_and_only_if_there_is_such_a_place():
    assert not [name for name in variables(dev()) if name.startswith("OTEL")]
    assert "evergrow-traces" not in of(dev(), "NetworkPolicy")
    seen = variables(dev(OBSERVED))
    assert seen["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.monitoring:4318"
    assert (seen["OTEL_TRACES_SAMPLER"], seen["OTEL_TRACES_SAMPLER_ARG"]) == ("parentbased_traceidratio", "0.01")
    policy = of(dev(OBSERVED), "NetworkPolicy")["evergrow-traces"]["spec"]
    assert policy["egress"][0]["ports"] == [{"protocol": "TCP", "port": 4318}]


@pytest.mark.parametrize(
    ("url", "port"), [("http://collector.monitoring", 4318), ("https://otel.monitoring:443/v1", 443)]
)
def test_the_port_that_servers_may_send_spans_to_is_the_endpoints(url, port):
    objects = dev(OBSERVED, nested("observability.tracing.endpoint", url))
    assert of(objects, "NetworkPolicy")["evergrow-traces"]["spec"]["egress"][0]["ports"][0]["port"] == port


def test_the_pod_monitor_finds_servers_and_gives_their_series_model_and_version():
    objects = dev(OBSERVED)
    spec = of(objects, "PodMonitor")["evergrow-servers"]["spec"]
    (runtime,) = of(objects, "ServingRuntime").values()
    assert spec["selector"]["matchLabels"].items() <= runtime["spec"]["labels"].items()
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in runtime["spec"]["containers"][0]["ports"]]
    assert endpoint["path"] == runtime["spec"]["annotations"]["prometheus.io/path"]
    given = {each["targetLabel"]: each["sourceLabels"] for each in endpoint["relabelings"]}
    names = {"model": MODEL, "version": VERSION}
    for label, name in names.items():
        assert given[label] == ["__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", name)]
