"""What Kubeflow is given for an environment: everything that its document says of steps, and no secret."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec, PlatformSpec

from evergrow.integrations.kubeflow_compile import at_scheduled_time, step_of, tasks
from evergrow.spec.environment import EnvironmentSpec
from pipelines.compile import PIPELINES, for_environment

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "a" * 64
IMAGE = f"registry.example.com/evergrow/steps-python:1.4.0@{DIGEST}"

DOCUMENT = {
    "name": "dev",
    "execution": {
        "namespace": "evergrow-dev",
        "pipelines": {
            "steps": {"resources": {"cpu": "250m"}, "retries": 2, "backOff": "10s", "timeout": "2h"},
            "stepOverrides": {
                "train": {
                    "resources": {"memory": "4Gi", "memoryLimit": "8Gi"},
                    "retries": 0,
                    "timeout": "6h",
                    "nodeSelector": {"pool": "training"},
                    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                    "labels": {"team": "flights"},
                },
                "score": {"retries": 3, "backOff": "1m", "timeout": "30m"},
                "deploy": {"resources": {"cpu": "20m"}, "retries": 1},
            },
        },
    },
    "code": {"images": {"steps": IMAGE, "pullPolicy": "Always", "pullSecrets": ["registry-login"]}},
    "data": {
        "store": "s3://evergrow-dev/state",
        "mlflow": "http://mlflow.evergrow-platform:5000",
        "secrets": {"credentials": "evergrow-credentials"},
    },
}
ENVIRONMENT = EnvironmentSpec.model_validate(DOCUMENT)


def compiled(pipeline="training", environment=ENVIRONMENT):
    return for_environment(pipeline, environment, "delays")


def executors(of):
    return of.ir["deploymentSpec"]["executors"]


def options(of, step):
    """What the second document says of a step."""
    _, platform = yaml.safe_load_all(of.to_yaml())
    return platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{step}"]


def task(of, name):
    parts = (of.ir["root"], *of.ir["components"].values())
    return next(part["dag"]["tasks"][name] for part in parts if name in part.get("dag", {}).get("tasks", {}))


@pytest.fixture(params=sorted(PIPELINES))
def any_pipeline(request):
    return compiled(request.param)


def test_both_documents_are_what_kubeflow_reads(any_pipeline):
    ir, platform = yaml.safe_load_all(any_pipeline.to_yaml())
    spec = json_format.ParseDict(ir, PipelineSpec())
    json_format.ParseDict(json_format.MessageToDict(spec.deployment_spec), PipelineDeploymentConfig())
    json_format.ParseDict(platform, PlatformSpec())
    for option in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        json_format.ParseDict(option, KubernetesExecutorConfig())


def test_every_step_has_options_and_the_environments_image_also_those_of_branches_and_loops(any_pipeline):
    of_steps = any_pipeline.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(of_steps) == set(executors(any_pipeline))
    assert {e["container"]["image"] for e in executors(any_pipeline).values()} == {IMAGE}


def test_pipelines_do_have_steps_within_a_branch_and_within_a_loop():
    assert "deploy" not in compiled("training").ir["root"]["dag"]["tasks"]
    assert "score" not in compiled("batch_scoring").ir["root"]["dag"]["tasks"]


def test_the_environment_knows_every_step_and_no_other():
    from typing import get_args

    from evergrow.spec.environment import StepName

    steps = {step_of(executor) for name in PIPELINES for executor in executors(compiled(name))}
    assert steps == set(get_args(StepName))


def test_a_step_asks_for_what_its_override_says_and_for_the_rest_like_all_steps():
    train = executors(compiled())["exec-train"]["container"]["resources"]
    assert train == {
        "resourceCpuRequest": "250m",
        "resourceCpuLimit": "2",
        "resourceMemoryRequest": "4Gi",
        "resourceMemoryLimit": "8Gi",
    }
    assert executors(compiled())["exec-evaluate"]["container"]["resources"]["resourceMemoryLimit"] == "2Gi"
    assert executors(compiled())["exec-deploy"]["container"]["resources"]["resourceCpuRequest"] == "20m"


def test_a_step_is_tried_again_as_often_and_as_late_as_the_environment_says():
    assert task(compiled(), "ingest")["retryPolicy"] == {
        "maxRetryCount": 2,
        "backoffDuration": "10s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": f"{3 * 7200 + 10 + 20}s",
    }
    assert task(compiled(), "deploy")["retryPolicy"]["maxRetryCount"] == 1
    assert task(compiled("batch_scoring"), "score")["retryPolicy"] == {
        "maxRetryCount": 3,
        "backoffDuration": "60s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": f"{4 * 1800 + 60 + 120 + 240}s",
    }


def test_a_step_without_retries_says_so_for_else_it_gets_those_of_kubeflows_installation():
    policy = task(compiled(), "train")["retryPolicy"]
    assert policy["maxRetryCount"] == 0

    pipeline_spec = json_format.ParseDict(compiled().ir, PipelineSpec())
    assert pipeline_spec.root.dag.tasks["train"].HasField("retry_policy"), "KFP sees it although all retries are none"


def test_a_loop_or_a_branch_itself_is_not_tried_again():
    assert "retryPolicy" not in task(compiled("batch_scoring"), "for-loop-1")
    assert "retryPolicy" not in task(compiled(), "condition-1")


def test_the_platform_options_are_those_of_the_environment():
    train, score = options(compiled(), "train"), options(compiled("batch_scoring"), "score")
    assert (train["activeDeadlineSeconds"], score["activeDeadlineSeconds"]) == ("21600", "1800")
    assert train["nodeSelector"] == {"labels": {"pool": "training"}}
    assert train["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "nodeSelector" not in score
    assert "tolerations" not in score
    assert train["imagePullPolicy"] == "Always"
    assert [s["secretName"] for s in train["imagePullSecret"]] == ["registry-login"]
    assert train["securityContext"] == {"runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": True}


def test_pods_say_which_model_pipeline_environment_and_step_they_are_of():
    labels = options(compiled(), "build-training-set")["podMetadata"]["labels"]
    assert labels == {
        "evergrow.dev/model": "delays",
        "evergrow.dev/pipeline": "training",
        "evergrow.dev/environment": "dev",
        "evergrow.dev/step": "build_training_set",
    }
    assert options(compiled(), "train")["podMetadata"]["labels"]["team"] == "flights"


def test_only_the_state_and_temporary_files_are_written_and_only_so_much():
    mounts = {m["mountPath"]: m["sizeLimit"] for m in options(compiled(), "ingest")["emptyDirMounts"]}
    assert mounts == {"/home/evergrow/state": "20Gi", "/tmp": "5Gi"}


def test_variables_come_from_the_environments_configuration_and_secret_by_reference():
    ingest = options(compiled(), "ingest")
    of_map = {k["envVar"]: m["optional"] for m in ingest["configMapAsEnv"] for k in m["keyToEnv"]}
    of_secret = {k["envVar"]: s["optional"] for s in ingest["secretAsEnv"] for k in s["keyToEnv"]}
    assert of_map["EVERGROW_STORE"] is False
    assert of_map["AWS_ENDPOINT_URL"] is True
    assert of_secret["FEAST_REDIS"] is False
    assert of_secret["MLFLOW_TRACKING_PASSWORD"] is True
    assert ingest["fieldPathAsEnv"] == [{"name": "EVERGROW_NAMESPACE", "fieldPath": "metadata.namespace"}]


def test_the_variables_are_those_that_the_chart_leaves():
    template = (ROOT / "charts/evergrow/templates/environment.yaml").read_text(encoding="utf-8")
    left = set(re.findall(r"^  ([A-Z_]+):", template, re.MULTILINE))
    ingest = options(compiled(), "ingest")
    assert {k["configMapKey"] for m in ingest["configMapAsEnv"] for k in m["keyToEnv"]} == left


@pytest.mark.parametrize(
    ("kubeflow_namespace", "names"),
    [
        ("kubeflow", {"evergrow-environment-dev", "evergrow-credentials-dev"}),
        ("evergrow-dev", {"evergrow-environment", "evergrow-credentials"}),
    ],
)
def test_what_is_referred_to_is_where_the_pods_are(kubeflow_namespace, names):
    document = {**DOCUMENT, "execution": {**DOCUMENT["execution"]}}
    document["execution"]["pipelines"] = {"kubeflow": {"namespace": kubeflow_namespace}}
    ingest = options(compiled(environment=EnvironmentSpec.model_validate(document)), "ingest")
    assert {m["configMapName"] for m in ingest["configMapAsEnv"]} | {
        s["secretName"] for s in ingest["secretAsEnv"]
    } == names


def test_no_value_of_a_secret_and_no_variable_of_this_machine_is_compiled_in(any_pipeline, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("FEAST_REDIS", "redis:6379,password=hush-hush")
    text = any_pipeline.to_yaml() + for_environment("training", ENVIRONMENT, "delays").to_yaml()
    assert "hush-hush" not in text
    assert {v["name"] for e in executors(any_pipeline).values() for v in e["container"]["env"]} == {"EVERGROW_ACTOR"}


def test_caching_is_off(any_pipeline):
    assert all(t["cachingOptions"] == {} for t in tasks(any_pipeline.ir))


def test_document_and_instant_are_arguments_of_the_run(any_pipeline):
    more = {"policies", "shares"} if any_pipeline.ir["pipelineInfo"]["name"] == "backtest" else set()
    assert set(any_pipeline.ir["root"]["inputDefinitions"]["parameters"]) == {"spec", "as_of"} | more


def test_compiling_leaves_the_pipeline_as_it_is():
    before = PIPELINES["training"].pipeline_spec.SerializeToString(deterministic=True)
    compiled()
    assert PIPELINES["training"].pipeline_spec.SerializeToString(deterministic=True) == before


# -- recurring runs ----------------------------------------------------------------------------------------------------


def test_a_scheduled_pipeline_takes_the_time_it_is_due_wherever_it_took_the_argument(any_pipeline):
    scheduled = at_scheduled_time(any_pipeline)
    arguments = set(any_pipeline.ir["root"]["inputDefinitions"]["parameters"])
    assert set(scheduled.ir["root"]["inputDefinitions"]["parameters"]) == arguments - {"as_of"}
    before = [t for t in _parameters(any_pipeline.ir["root"]) if t == {"componentInputParameter": "as_of"}]
    due = {"runtimeValue": {"constant": "{{$.pipeline_job_schedule_time_utc}}"}}
    assert before
    assert _parameters(scheduled.ir["root"]).count(due) == len(before)
    json_format.ParseDict(scheduled.ir, PipelineSpec())


def test_the_audit_record_will_say_whether_somebody_submitted_the_run():
    def actors(of):
        return {v["value"] for e in executors(of).values() for v in e["container"]["env"]}

    assert actors(compiled()) == {"pipeline"}
    assert actors(at_scheduled_time(compiled())) == {"schedule"}


def test_scheduling_leaves_the_compiled_pipeline_as_it_is():
    once = compiled()
    text = once.to_yaml()
    assert at_scheduled_time(once).to_yaml() != text
    assert once.to_yaml() == text


def _parameters(root):
    return [p for t in root["dag"]["tasks"].values() for p in t.get("inputs", {}).get("parameters", {}).values()]


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_writes_what_would_be_submitted(tmp_path):
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(DOCUMENT))
    command = [sys.executable, "-m", "pipelines.compile", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--environment", str(values), "--model", "delays"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {Path(line).stem for line in done.stdout.split()} == set(PIPELINES)
    assert (tmp_path / "out/training.yaml").read_text() == compiled().to_yaml()
