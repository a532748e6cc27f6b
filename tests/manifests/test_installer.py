"""The installer, with fake programs on PATH that note their calls."""

import http.server
import json
import sys
import threading

import pytest
import yaml

from evergrow.spec.environment import EnvironmentSpec
from manifests.installer import cluster as clusters
from manifests.installer import environment, platform
from manifests.installer.__main__ import main
from manifests.installer.errors import InstallError
from tests.manifests.fakes import Programs
from tests.manifests.upstream import ROOT

PROGRAMS = ("docker", "git", "helm", "kind", "kubectl", "minikube", "evergrow", "python")
ENVIRONMENT = EnvironmentSpec.model_validate(
    {"name": "dev", "execution": {"namespace": "evergrow-dev"}, "data": {"store": "s3://b/s", "mlflow": "http://m"}}
)
APPLIED = """\
apiVersion: v1
kind: Namespace
metadata: {name: part}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
---
apiVersion: example.com/v1
kind: Thing
metadata: {name: one, namespace: part}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller, namespace: part}
"""


class Served(http.server.BaseHTTPRequestHandler):
    """A Gateway with a model behind it, that notes how it is asked."""

    asked: list = []
    status = 200

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.asked.append((self.path, self.headers["host"], json.loads(body)))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b'{"predictions": [0.25], "flags": [[]]}')

    def log_message(self, *arguments):
        pass


@pytest.fixture
def gateway():
    Served.asked, Served.status = [], 200
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Served) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Everything that is needed, on a machine that is large enough, with a cluster that does not exist yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = Programs(folder)
    programs.add(*PROGRAMS)
    programs.answer("helm version", "v3.20.1")
    programs.answer("kind version", "kind v0.31.0 go1.25.0 linux/amd64")
    programs.answer("minikube version", "v1.37.0")
    programs.answer("kubectl version", "Client Version: v1.34.4\nKustomize Version: v5.7.1")
    programs.answer("docker info", "4 10450000000")
    programs.answer("kind get kubeconfig", "could not locate any control plane nodes", 1)
    programs.answer("kubectl kustomize", APPLIED)
    programs.answer("get configmap evergrow-environment", ENVIRONMENT.model_dump_json(by_alias=True))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(folder))
    return programs


@pytest.fixture
def kind(tmp_path, monkeypatch, gateway):
    """The documents of clusters, of which that of kind has our Gateway, and nothing that is waited for in vain."""
    folder = tmp_path / "clusters"
    folder.mkdir()
    for name in clusters.names():
        (folder / f"{name}.yaml").write_text((clusters.CLUSTERS / f"{name}.yaml").read_text())
    document = yaml.safe_load((folder / "kind.yaml").read_text())
    (folder / "kind.yaml").write_text(yaml.safe_dump({**document, "gateway": gateway}))
    monkeypatch.setattr(clusters, "CLUSTERS", folder)
    monkeypatch.setattr(platform, "ADMISSION_SECONDS", 0.0)
    monkeypatch.setattr(environment, "ANSWER_SECONDS", 0.0)
    return document


def exists(programs):
    programs.answer("kind get kubeconfig", "apiVersion: v1")


def after_checks(lines):
    """What is called once it is known that nothing is missing."""
    return lines[lines.index("kind get kubeconfig --name evergrow") :]


# -- order --


@pytest.mark.usefixtures("kind")
def test_up_makes_the_cluster_then_the_platform_the_images_the_charts_and_trains(programs, capfd):
    assert main(["up", "kind"]) == 0

    milestones = [
        "kind create cluster --config kind-config.yaml",
        "kubectl kustomize manifests/platform/cert-manager",
        "kubectl kustomize manifests/platform/gateway-api",
        "kubectl kustomize manifests/overlays/kind/envoy-gateway",
        "kubectl kustomize manifests/overlays/kind/kserve",
        "kubectl kustomize manifests/overlays/kind/gateway",
        "kubectl kustomize manifests/overlays/kind/metrics-server",
        "kubectl kustomize manifests/overlays/kind/kubeflow-pipelines",
        "python -m components.build --load kind",
        "helm upgrade --install evergrow-platform charts/evergrow-platform --namespace evergrow-platform",
        "helm upgrade --install evergrow charts/evergrow --namespace evergrow-dev",
        "evergrow submit training --file models/arrival_delay/model.yaml --as-of 2013-10-01 --env dev",
        "evergrow submit materialization --file models/arrival_delay/model.yaml --env dev",
        "kubectl --namespace evergrow-dev wait inferenceservices --selector=evergrow.dev/model=arrival-delay",
    ]
    lines = programs.lines()
    positions = [next(i for i, line in enumerate(lines) if line.startswith(part)) for part in milestones]
    assert positions == sorted(positions)


@pytest.mark.usefixtures("kind")
def test_up_ends_with_a_prediction_and_with_commands_to_look_around(programs, capfd):
    assert main(["up", "kind"]) == 0

    path, host, body = Served.asked[0]
    assert (path, host) == ("/v1/models/arrival-delay:predict", "arrival-delay.evergrow-dev.example.com")
    assert body == json.loads((ROOT / "manifests/serving/arrival-delay/request.json").read_text())
    said = capfd.readouterr().out
    assert '{"predictions": [0.25], "flags": [[]]}' in said
    after = said.partition("Look around:")[2]
    for command in (
        "kubectl config use-context kind-evergrow",
        "kubectl -n evergrow-dev get inferenceservices,httproutes",
        "kubectl -n kubeflow port-forward service/ml-pipeline-ui 8888:80",
        "kubectl -n evergrow-platform port-forward service/mlflow 5000",
        "kubectl -n evergrow-platform port-forward service/feast-ui 8889:8888",
        "curl -H 'Host: arrival-delay.evergrow-dev.example.com'",
    ):
        assert command in after


@pytest.mark.usefixtures("kind")
def test_every_step_says_its_number_and_what_it_waits_for(programs, capfd):
    assert main(["up", "kind"]) == 0

    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("[")]
    assert [line.partition("]")[0] for line in said] == [f"[{n}/16" for n in range(1, 17)]
    assert all("(until " in line for line in said)


@pytest.mark.usefixtures("kind")
def test_definitions_are_known_before_anything_of_theirs_is_applied(programs, capfd):
    assert main(["platform", "kind"]) == 1, "there is no cluster yet"
    exists(programs)
    assert main(["platform", "kind"]) == 0

    calls = programs.calls()
    begin = next(i for i, call in enumerate(calls) if call["line"].startswith("kubectl kustomize"))
    first, known, rest, runs = calls[begin + 1 : begin + 5]
    assert [each["kind"] for each in yaml.safe_load_all(first["text"])] == ["Namespace", "CustomResourceDefinition"]
    assert known["line"].startswith(
        "kubectl wait --for=condition=Established customresourcedefinition.apiextensions.k8s.io/things.example.com"
    )
    assert [each["kind"] for each in yaml.safe_load_all(rest["text"])] == ["Thing", "Deployment"]
    assert runs["line"].startswith("kubectl rollout status deployment.apps/controller --namespace part")


@pytest.mark.usefixtures("kind")
def test_install_takes_other_names_and_installs_no_platform(programs, gateway, capfd, monkeypatch):
    monkeypatch.setenv("CLUSTER_TOOLS", "/tools")
    programs.answer("get gateways kserve-ingress-gateway", gateway.removeprefix("http://"))
    arguments = ["--namespace", "team-dev", "--platform-namespace", "team-platform", "--as-of", "2013-07-01"]

    assert main(["install", "ci", *arguments]) == 0

    lines = programs.lines()
    assert not any("kustomize" in line or "components.build" in line or "create cluster" in line for line in lines)
    charts = [call for call in programs.calls() if call["line"].startswith("helm upgrade")]
    shared, ours = [json.loads(call["files"][1]) for call in charts]
    assert shared["consumers"] == ["team-dev"]
    assert ours["execution"]["namespace"] == "team-dev"
    assert ours["execution"]["network"]["platformNamespaces"] == ["team-platform"]
    assert ours["data"] == {
        "store": "s3://team-dev/state",
        "endpoint": "http://seaweedfs.team-platform:8333",
        "mlflow": "http://mlflow.team-platform:5000",
    }
    assert any("--as-of 2013-07-01 --env dev --namespace team-dev" in line for line in lines)


@pytest.mark.usefixtures("kind")
def test_where_kubeflow_runs_steps_another_namespace_is_refused(programs, capfd):
    assert main(["install", "kind", "--namespace", "team-dev"]) == 1
    assert "--namespace: must be evergrow-dev where Kubeflow runs pipelines, found team-dev" in capfd.readouterr().err
    assert programs.lines() == []


@pytest.mark.usefixtures("kind")
def test_after_an_interruption_it_says_how_to_go_on(programs, capfd, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(environment.Commands, "succeeds", interrupted)

    assert main(["up", "kind"]) == 130
    assert "interrupted; the same command goes on from here" in capfd.readouterr().err


@pytest.mark.usefixtures("kind")
def test_what_differs_between_clusters_reaches_the_charts(programs, gateway, capfd, monkeypatch):
    exists(programs)
    monkeypatch.setenv("CLUSTER_TOOLS", "/tools")
    programs.answer("get gateways kserve-ingress-gateway", gateway.removeprefix("http://"))

    assert main(["install", "kind"]) == 0
    assert main(["install", "ci"]) == 0

    values = [
        [json.loads(call["files"][1]) for call in programs.calls() if f"upgrade --install {chart} " in call["line"]]
        for chart in ("evergrow-platform", "evergrow")
    ]
    (shared_kind, shared_ci), (kind, ci) = values
    assert kind["execution"]["pipelines"] == {"runner": "kubeflow"}
    assert ci["execution"]["pipelines"] == {"runner": "pods"}
    assert (shared_kind["kubeflowNamespace"], shared_ci["kubeflowNamespace"]) == ("kubeflow", "")
    assert shared_kind["redis"] == {"bundled": {"storageClass": "standard"}}
    assert shared_ci["redis"] == {"bundled": {"storageClass": ""}}


@pytest.mark.usefixtures("kind")
def test_namespaces_admit_only_pods_without_privileges(programs, capfd):
    exists(programs)
    assert main(["install", "kind"]) == 0

    texts = [call["text"] for call in programs.calls() if call["text"]]
    made = [each["metadata"] for text in texts for each in yaml.safe_load_all(text) if each["kind"] == "Namespace"]
    assert [each["name"] for each in made] == ["evergrow-platform", "evergrow-dev"]
    assert {each["labels"]["pod-security.kubernetes.io/enforce"] for each in made} == {"restricted"}


@pytest.mark.usefixtures("kind")
def test_all_commands_act_on_the_chosen_cluster_and_not_on_the_current_one(programs, capfd):
    exists(programs)
    programs.answer("kubectl config view --raw --minify --flatten --context kind-evergrow", "chosen")
    for program in ("kubectl", "helm", "evergrow"):
        file = programs.folder / program
        text = file.read_text()
        noting = 'import os; line += " @" + os.environ.get("KUBECONFIG", "current")\n'
        file.write_text(text.replace("text = sys.stdin", f"{noting}text = sys.stdin"))

    assert main(["install", "kind"]) == 0

    acting = [line for line in programs.lines() if line.startswith(("kubectl", "helm", "evergrow"))]
    before, after = [line for line in acting if "@current" in line], [line for line in acting if "@current" not in line]
    assert all("version" in line or "config view" in line for line in before)
    assert len(after) >= 6


# -- again --


@pytest.mark.usefixtures("kind")
def test_a_second_run_makes_no_second_cluster_and_does_the_rest_alike(programs, capfd):
    assert main(["up", "kind"]) == 0
    first = len(programs.lines())
    exists(programs)
    assert main(["up", "kind"]) == 0

    def comparable(calls):
        lines = after_checks([call["line"] for call in calls])
        return [line.split(" --values /tmp")[0] for line in lines if "create cluster" not in line]

    calls = programs.calls()
    assert any("create cluster" in call["line"] for call in calls[:first])
    assert not any("create cluster" in call["line"] for call in calls[first:])
    assert comparable(calls[first:]) == comparable(calls[:first])


def test_everything_that_changes_the_cluster_can_be_done_twice(programs, kind, capfd):
    assert main(["up", "kind"]) == 0

    for line in programs.lines():
        if line.startswith("kubectl") and not any(
            word in line for word in ("wait", "rollout status", "get", "config view", "kustomize", "version")
        ):
            assert line.startswith("kubectl apply --server-side"), line
        if line.startswith("helm") and "version" not in line:
            assert line.startswith("helm upgrade --install"), line


# -- failures --


FAILURES = [
    ("cluster", "kind create cluster"),
    ("platform: platform/cert-manager", "kubectl kustomize manifests/platform/cert-manager"),
    ("platform: overlays/kind/kserve", "kubectl kustomize manifests/overlays/kind/kserve"),
    ("platform: overlays/kind/kubeflow-pipelines", "kubectl kustomize manifests/overlays/kind/kubeflow-pipelines"),
    ("platform: platform/cert-manager", "kubectl apply"),
    ("platform: platform/cert-manager", "kubectl rollout status"),
    ("images", "python -m components.build"),
    ("chart evergrow-platform", "helm upgrade --install evergrow-platform"),
    ("chart evergrow", "helm upgrade --install evergrow charts"),
    ("training", "evergrow submit training"),
    ("materialization", "evergrow submit materialization"),
    ("serving", "wait inferenceservices"),
]


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize(("step", "command"), FAILURES, ids=[command for _, command in FAILURES])
def test_a_step_that_fails_is_named_with_what_to_do_and_none_after_it_is_begun(programs, capfd, step, command):
    programs.answer(command, "it does not work", 7)

    assert main(["up", "kind"]) == 1

    said = capfd.readouterr().err
    assert f", {step}: " in said
    assert "it does not work" in said
    assert "hint: then run the same command again: what is done is kept" in said
    assert said.count("hint: ") >= 2
    assert command in programs.lines()[-1]


@pytest.mark.usefixtures("kind")
def test_a_model_that_does_not_answer_is_an_error_with_its_answer(programs, capfd):
    exists(programs)
    Served.status = 503

    assert main(["install", "kind"]) == 1

    said = capfd.readouterr().err
    assert "prediction: arrival-delay.evergrow-dev.example.com at http://127.0.0.1" in said
    assert "answers 503" in said


def test_what_a_webhook_refuses_that_is_not_up_yet_is_applied_again(programs, kind, capfd, monkeypatch):
    exists(programs)
    monkeypatch.setattr(platform, "ADMISSION_SECONDS", 60.0)
    monkeypatch.setattr(platform, "PAUSE_SECONDS", 0.0)
    file = programs.folder / "kubectl"
    once = """\
refused = here / "refused"
if "apply" in line and not refused.exists():
    refused.touch()
    sys.exit("no endpoints available for service")
"""
    file.write_text(file.read_text().replace("for part, code", f"{once}for part, code"))

    assert main(["install", "kind"]) == 0
    assert "no endpoints" in capfd.readouterr().err


@pytest.mark.usefixtures("kind")
def test_a_command_that_does_not_end_is_stopped(programs):
    file = programs.folder / "kind"
    file.write_text(f"#!/bin/sh\nexec {'/bin/sleep'} 60\n")
    commands = environment.Commands()

    with pytest.raises(InstallError, match=r"`kind create cluster` did not end within 0 s"):
        commands.run("kind create cluster", 0.2)


# -- what is missing --


@pytest.mark.usefixtures("kind")
def test_all_that_is_missing_is_told_at_once_with_where_to_get_it(programs, capfd):
    programs.remove("kind")
    programs.remove("git")
    programs.answer("helm version", "v3.12.0")
    programs.answer("docker info", "2 8000000000")

    assert main(["up", "kind"]) == 1

    said = capfd.readouterr().err
    assert "5 missing, nothing was begun" in said
    assert "kind: is not installed; get it from https://kind.sigs.k8s.io" in said
    assert "git: is not installed; get it from https://git-scm.com" in said
    assert "helm: must be 3.18 or newer, found v3.12; get it from https://helm.sh" in said
    assert "CPUs: Docker must have 4, found 2" in said
    assert "memory: Docker must have 10 GB, found 8.0" in said
    assert not any("create" in line or "apply" in line for line in programs.lines())


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize(("answer", "code"), [("Cannot connect to the Docker daemon", 1), ("0 0 errors", 0)])
def test_docker_without_its_engine_is_told_how_to_start(programs, capfd, answer, code):
    programs.answer("docker info", answer, code)

    assert main(["up", "kind"]) == 1
    said = capfd.readouterr().err
    assert "1 missing" in said
    assert "start Docker Desktop, or `sudo systemctl start docker`" in said


@pytest.mark.usefixtures("kind")
def test_a_machine_that_is_just_large_enough_will_do(programs, capfd):
    programs.answer("docker info", "4 10000000000")

    assert main(["up", "kind"]) == 0


# -- clusters --


def test_ci_says_which_variable_it_needs(programs, capfd, monkeypatch):
    monkeypatch.delenv("CLUSTER_TOOLS", raising=False)

    assert main(["platform", "ci"]) == 1
    assert "manifests/clusters/ci.yaml: the environment variable CLUSTER_TOOLS must be set" in capfd.readouterr().err


def test_ci_gets_its_platform_from_its_own_tools(programs, capfd, monkeypatch, tmp_path):
    tools = Programs(tmp_path)
    tools.add("addon", "image")
    monkeypatch.setenv("CLUSTER_TOOLS", str(tmp_path))

    assert main(["platform", "ci"]) == 0

    assert [line.split()[0] for line in tools.lines()] == ["addon", "image"]
    applied = [yaml.safe_load(call["text"]) for call in programs.calls() if call["text"]]
    assert [each["kind"] for each in applied] == ["ClusterStorageContainer"]


def test_images_on_ci_are_built_by_its_own_tool(monkeypatch):
    assert clusters.load("ci", {"CLUSTER_TOOLS": "/tools"}).variables == {"EVERGROW_BUILD_COMMAND": "/tools/image"}


def test_there_is_no_machine_path_in_any_clusters_document():
    for file in clusters.CLUSTERS.glob("*.yaml"):
        words = file.read_text(encoding="utf-8").split()
        assert not [word for word in words if word.startswith("/") and word != "/readyz"], file.name


@pytest.mark.parametrize("name", clusters.names())
def test_every_part_of_a_platform_is_there(name):
    for part in clusters.load(name, {"CLUSTER_TOOLS": "/tools"}).platform:
        if isinstance(part, clusters.Apply):
            path = ROOT / part.apply
            assert (path / "kustomization.yaml").exists() if path.is_dir() else path.exists(), part.apply


def test_a_misspelt_key_of_a_cluster_fails_with_its_path():
    with pytest.raises(InstallError, match=r"here: docker\.cpu: Extra inputs are not permitted"):
        clusters.read(
            {
                "tools": [],
                "docker": {"cpus": 4, "memoryGb": 10, "cpu": 4},
                "exists": "true",
                "platform": [],
                "runner": "pods",
            },
            "here",
        )


def test_down_deletes_the_cluster_if_there_is_one_and_refuses_what_is_not_ours(programs, capfd, monkeypatch):
    assert main(["down", "kind"]) == 0
    assert not any("delete" in line for line in programs.lines())
    exists(programs)
    assert main(["down", "kind"]) == 0
    assert "kind delete cluster --name evergrow" in programs.lines()
    assert main(["down", "managed"]) == 1
    assert "not ours to delete" in capfd.readouterr().err


def test_the_address_of_the_gateway_is_asked_for_where_the_document_names_none(programs, monkeypatch):
    document = {"tools": [], "exists": "true", "platform": [], "runner": "pods"}
    commands = environment.Commands()
    programs.answer("get gateways kserve-ingress-gateway", "10.1.2.3")

    assert environment.gateway_url(clusters.read(document, "here"), commands) == "http://10.1.2.3"

    programs.answer("get gateways kserve-ingress-gateway", "")
    with pytest.raises(InstallError, match="Gateway kserve/kserve-ingress-gateway has no address"):
        environment.gateway_url(clusters.read(document, "here"), commands)


def test_text_is_applied_as_it_was_written():
    # Read and written again, 1e3 and the digits of a version would be something else.
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: '1e3', b: \"1.10\"}\n"
    documents = list(platform.read(f"---\n{text}---\n{text}---\n"))

    assert [each.text.strip() for each in documents] == [text.strip()] * 2


def test_names_of_objects_are_such_as_kubectl_takes():
    named = [each.named() for each in platform.read(APPLIED)]

    assert named[0] == ["namespace/part"]
    assert named[3] == ["deployment.apps/controller", "--namespace", "part"]
