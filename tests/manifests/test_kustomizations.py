"""The platform's kustomizations, built with excerpts of what they fetch (see upstream.py)."""

import re
from types import SimpleNamespace

import pytest
import yaml

from evergrow.journal import FINAL
from evergrow.spec.environment import Gateway
from manifests.installer import versions
from tests.manifests.upstream import EXCERPTS, MANIFESTS, ROOT, build, excerpt, key, kustomizations, place, remotes

PLATFORM = [folder for folder in kustomizations() if folder.is_relative_to(MANIFESTS / "platform")]
OVERLAYS = [folder for folder in kustomizations() if folder.is_relative_to(MANIFESTS / "overlays")]


def name(folder):
    return str(folder.relative_to(MANIFESTS))


def built(path, change=lambda copy: None):
    """The objects of a kustomization by kind and name."""
    return {key(each): each for each in build(MANIFESTS / path, excerpt, change)}


def kustomization(folder):
    return yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))


def container(objects, kind, name):
    return objects[kind, name]["spec"]["template"]["spec"]["containers"][0]


# -- versions --


def test_every_url_names_the_version_that_is_chosen_in_one_place():
    chosen, found = versions.chosen(), {}
    for file in versions.files():
        for match in versions.named(file.read_text(encoding="utf-8")):
            found.setdefault(match["name"], set()).add(match["version"])

    assert found == {repository: {version} for repository, version in chosen.items()}


def test_nothing_is_fetched_that_names_no_version():
    for url in remotes():
        assert len(list(versions.named(url))) == 1, f"{url} names no version"


def test_no_version_moves():
    for repository, version in versions.chosen().items():
        assert re.fullmatch(r"v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?", version), f"{repository}: {version}"


def test_the_clusters_parts_are_of_the_same_release_as_the_python_packages():
    locked = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8")
    package = {name: re.search(rf"^{name}==([\w.]+)", locked, re.M)[1] for name in ("kserve", "kfp")}

    assert versions.chosen()["kserve/kserve"] == f"v{package['kserve']}"
    assert versions.chosen()["kubeflow/pipelines"] == package["kfp"]


def test_pinning_writes_a_new_version_into_urls_and_images():
    text = (
        "- https://github.com/kserve/kserve/releases/download/v0.1.0/kserve.yaml\n"
        "- https://github.com/kubeflow/pipelines//manifests/plain?ref=2.0.0&timeout=600s\n"
        "  image: kindest/node:v1.0.0\n"
    )
    new = {"kserve/kserve": "v9.9.9", "kubeflow/pipelines": "3.0.0", "kindest/node": "v1.99.0"}

    assert versions.pinned(text, new) == (
        "- https://github.com/kserve/kserve/releases/download/v9.9.9/kserve.yaml\n"
        "- https://github.com/kubeflow/pipelines//manifests/plain?ref=3.0.0&timeout=600s\n"
        "  image: kindest/node:v1.99.0\n"
    )


def test_pinning_what_is_pinned_changes_nothing():
    for file in versions.files():
        text = file.read_text(encoding="utf-8")
        assert versions.pinned(text, versions.chosen()) == text


# -- excerpts --


def test_every_release_has_an_excerpt_and_every_excerpt_a_release():
    there = {str(file.relative_to(EXCERPTS)) for file in EXCERPTS.rglob("*.yaml")}

    assert there == {str(place(url)) for url in remotes()}


# -- what is built --


@pytest.mark.usefixtures("kubectl")
@pytest.mark.parametrize("folder", [*PLATFORM, *OVERLAYS], ids=name)
def test_it_builds(folder):
    assert build(folder, excerpt)


@pytest.mark.usefixtures("kubectl")
@pytest.mark.parametrize(
    ("folder", "number"),
    [(f, n) for f in [*PLATFORM, *OVERLAYS] for n in range(len(kustomization(f).get("patches", [])))],
    ids=lambda value: name(value) if not isinstance(value, int) else f"patch {value}",
)
def test_every_patch_changes_something(folder, number):
    # A patch with a `target` that nothing matches is no error to kustomize.
    def without(copy):
        changed = kustomization(copy)
        del changed["patches"][number]
        (copy / "kustomization.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")

    try:
        other = build(folder, excerpt, without)
    except AssertionError:
        return  # What another patch or a replacement is laid over is not there without this one.
    assert other != build(folder, excerpt)


@pytest.mark.usefixtures("kubectl")
def test_a_patch_of_something_that_upstream_does_not_have_fails(tmp_path):
    def without_workflow_controller(url):
        text = excerpt(url).read_text(encoding="utf-8")
        file = tmp_path / place(url).name
        file.write_text(text.replace("name: workflow-controller,", "name: controller,"), encoding="utf-8")
        return file

    with pytest.raises(AssertionError, match="workflow-controller"):
        build(MANIFESTS / "platform/kubeflow-pipelines", without_workflow_controller)


@pytest.mark.usefixtures("kubectl")
def test_kserve_runs_in_standard_mode_with_routes_at_our_gateway():
    config = built("platform/kserve")["ConfigMap", "inferenceservice-config"]["data"]
    gateway = built("platform/gateway")["Gateway", "kserve-ingress-gateway"]["metadata"]
    ingress = yaml.safe_load(config["ingress"])

    assert yaml.safe_load(config["deploy"]) == {"defaultDeploymentMode": "Standard"}
    assert ingress["enableGatewayApi"] is True
    assert ingress["kserveIngressGateway"] == f"{gateway['namespace']}/{gateway['name']}"
    assert "s3AccessKeyIDName" in config["credentials"], "what we do not change stays"


@pytest.mark.usefixtures("kubectl")
def test_environments_look_for_the_gateway_where_it_is():
    gateway = built("platform/gateway")["Gateway", "kserve-ingress-gateway"]
    ingress = yaml.safe_load(built("platform/kserve")["ConfigMap", "inferenceservice-config"]["data"]["ingress"])

    assert (Gateway().name, Gateway().namespace) == (gateway["metadata"]["name"], gateway["metadata"]["namespace"])
    assert Gateway().domain == ingress["ingressDomain"]


@pytest.mark.usefixtures("kubectl")
def test_of_kserve_only_inference_services_are_installed():
    objects = built("platform/kserve")

    assert {name for kind, name in objects if kind == "CustomResourceDefinition"} == {
        f"{plural}.serving.kserve.io"
        for plural in (
            "clusterservingruntimes",
            "clusterstoragecontainers",
            "inferencegraphs",
            "inferenceservices",
            "servingruntimes",
            "trainedmodels",
        )
    }
    assert {name for kind, name in objects if kind in ("Deployment", "DaemonSet")} == {"kserve-controller-manager"}
    assert {name for kind, name in objects if kind == "Certificate"} == {"serving-cert"}


@pytest.mark.usefixtures("kubectl")
def test_what_loads_models_may_run_in_a_restricted_namespace():
    loader = built("platform/kserve")["ClusterStorageContainer", "default"]["spec"]["container"]

    assert loader["image"].startswith("kserve/storage-initializer:"), "upstream's image stays"
    security = loader["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.usefixtures("kubectl")
def test_gateway_api_is_installed_once_and_of_the_standard_channel():
    def of_gateway_api(path):
        return {name: each for (_, name), each in built(path).items() if "gateway.networking." in name}

    ours, envoys = of_gateway_api("platform/gateway-api"), of_gateway_api("platform/envoy-gateway")

    assert "httproutes.gateway.networking.k8s.io" in ours
    channels = {
        each["metadata"].get("annotations", {}).get("gateway.networking.k8s.io/channel") for each in ours.values()
    }
    assert channels <= {"standard", None}
    assert envoys == {}
    assert ("CustomResourceDefinition", "envoyproxies.gateway.envoyproxy.io") in built("platform/envoy-gateway")


@pytest.mark.usefixtures("kubectl")
def test_kubeflow_looks_at_workflows_every_second_and_retries_steps_that_fail():
    objects = built("platform/kubeflow-pipelines")
    config = objects["ConfigMap", "workflow-controller-configmap"]["data"]
    environment = {each["name"] for each in container(objects, "Deployment", "workflow-controller")["env"]}

    assert {"name": "DEFAULT_REQUEUE_TIME", "value": "1s"} in container(objects, "Deployment", "workflow-controller")[
        "env"
    ]
    assert "LEADER_ELECTION_IDENTITY" in environment, "upstream's variables stay"
    retries = yaml.safe_load(config["workflowDefaults"])["spec"]["templateDefaults"]["retryStrategy"]
    assert retries["limit"] == "2"
    assert retries["retryPolicy"] == "Always"
    assert yaml.safe_load(config["executor"])["securityContext"]["runAsNonRoot"] is True


def is_retried(status, exit_code, message=""):
    """Argo's expression in Python's words: the status of an attempt, and its exit code, -1 where it has none."""
    config = built("platform/kubeflow-pipelines")["ConfigMap", "workflow-controller-configmap"]["data"]
    retries = yaml.safe_load(config["workflowDefaults"])["spec"]["templateDefaults"]["retryStrategy"]
    expression = re.sub(r"(\S+) contains (\S.*?\S)\)", r"\2 in \1)", retries["expression"])
    last = SimpleNamespace(status=status, exitCode=str(exit_code), message=message)
    return eval(expression, {"lastRetry": last, "asInt": int})


@pytest.mark.usefixtures("kubectl")
def test_pods_that_fail_or_are_lost_are_retried_and_the_graphs_that_hold_them_are_not():
    """A graph fails without an exit code. Retried, it would run all of its steps again, once for each level of it."""
    assert is_retried("Failed", 1)
    assert is_retried("Failed", 137)
    assert is_retried("Error", -1)
    assert not is_retried("Failed", -1)


@pytest.mark.usefixtures("kubectl")
def test_a_step_whose_error_would_come_again_is_not_retried():
    assert is_retried("Failed", 1, "main: Error (exit code 1): Unreachable: the object store does not answer")
    assert not is_retried("Failed", 1, f"main: Error (exit code 1): {FINAL}\nNotEnoughData: no label was known")


# -- kind --


def cpu(text):
    return int(text.removesuffix("m")) if text.endswith("m") else 1000 * int(text)


@pytest.mark.usefixtures("kubectl")
@pytest.mark.parametrize("part", ["kubeflow-pipelines", "kserve", "envoy-gateway", "metrics-server"])
def test_on_kind_every_part_asks_for_less_than_upstreams(part):
    def asked(path):
        workloads = [each for (kind, _), each in built(path).items() if kind == "Deployment"]
        containers = [c for each in workloads for c in each["spec"]["template"]["spec"]["containers"]]
        return sum(cpu(c["resources"]["requests"]["cpu"]) for c in containers if "resources" in c)

    assert 0 < asked(f"overlays/kind/{part}") <= asked(f"platform/{part}") / 2


@pytest.mark.usefixtures("kubectl")
def test_the_gateways_port_on_the_node_is_the_one_that_kind_and_minikube_map():
    service = built("overlays/kind/gateway")["EnvoyProxy", "evergrow"]["spec"]["provider"]["kubernetes"]["envoyService"]
    node_port = service["patch"]["value"]["spec"]["ports"][0]["nodePort"]
    mapping = yaml.safe_load((ROOT / "kind-config.yaml").read_text())["nodes"][0]["extraPortMappings"][0]
    clusters = {
        name: yaml.safe_load((MANIFESTS / f"clusters/{name}.yaml").read_text()) for name in ("kind", "minikube")
    }

    assert service["type"] == "NodePort"
    assert mapping["containerPort"] == node_port
    assert clusters["kind"]["gateway"] == f"http://localhost:{mapping['hostPort']}"
    assert f"{mapping['hostPort']}:{node_port}" in clusters["minikube"]["create"]
    assert clusters["minikube"]["gateway"] == clusters["kind"]["gateway"]


def test_the_kind_cluster_has_the_name_that_its_document_uses():
    config = yaml.safe_load((ROOT / "kind-config.yaml").read_text())
    document = yaml.safe_load((MANIFESTS / "clusters/kind.yaml").read_text())

    assert document["context"] == f"kind-{config['name']}"
    assert document["variables"]["KIND_CLUSTER_NAME"] == config["name"]
    assert document["delete"].endswith(f"--name {config['name']}")


def test_minikube_runs_the_kubernetes_version_that_kind_runs():
    version = versions.chosen()["kindest/node"].partition("@")[0]

    assert f"--kubernetes-version {version}" in (MANIFESTS / "clusters/minikube.yaml").read_text()


# -- a managed cluster --


@pytest.mark.usefixtures("kubectl")
def test_settings_of_a_managed_cluster_reach_what_they_are_for():
    def edited(copy):
        file = copy / "settings.env"
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"^(\w+)=.*$", r"\1=edited-\1", text, flags=re.M), encoding="utf-8")

    gateway, pipelines = built("overlays/managed/gateway", edited), built("overlays/managed/kubeflow-pipelines", edited)
    certificate = gateway["Certificate", "kserve-ingress-gateway"]["spec"]
    volumes = {name: each["spec"] for (kind, name), each in pipelines.items() if kind == "PersistentVolumeClaim"}

    assert certificate["dnsNames"] == ["edited-hostname"]
    assert certificate["issuerRef"]["name"] == "edited-issuer"
    assert {each["storageClassName"] for each in volumes.values()} == {"edited-storageClass"}
    assert volumes["mysql-pv-claim"]["resources"]["requests"]["storage"] == "edited-databaseSize"
    assert volumes["seaweedfs-pvc"]["resources"]["requests"]["storage"] == "edited-artifactsSize"
    assert not any(kind == "ConfigMap" and name.startswith("gateway-settings") for kind, name in gateway)


@pytest.mark.usefixtures("kubectl")
def test_on_a_managed_cluster_callers_come_through_a_load_balancer_with_tls():
    objects = built("overlays/managed/gateway")
    listeners = {each["name"]: each for each in objects["Gateway", "kserve-ingress-gateway"]["spec"]["listeners"]}
    secret = objects["Certificate", "kserve-ingress-gateway"]["spec"]["secretName"]
    proxies = objects["EnvoyProxy", "evergrow"]["spec"]["provider"]["kubernetes"]

    assert listeners["https"]["tls"]["certificateRefs"] == [{"name": secret}]
    assert proxies["envoyService"]["type"] == "LoadBalancer"
    assert proxies["envoyHpa"]["minReplicas"] >= 2
