"""Serving without the chart: the same objects as the chart and the deploy step make, and one file to edit."""

import json
import re
from types import SimpleNamespace

import pytest

from evergrow.contracts import Route
from evergrow.integrations.gateway import http_route
from evergrow.integrations.kserve import inference_service
from evergrow.spec import load
from evergrow.spec.environment import EnvironmentSpec
from tests.charts.rendering import CHARTS, render
from tests.manifests.upstream import MANIFESTS, ROOT, build, excerpt, key

pytestmark = pytest.mark.usefixtures("kubectl")
MODEL = load(ROOT / "models/arrival_delay/model.yaml")
PLACE = EnvironmentSpec.model_validate(
    {
        "name": "dev",
        "execution": {"namespace": "evergrow-dev", "serving": {"autoscaling": {"maxReplicas": 2}}},
        "data": {"store": "s3://evergrow-dev/state", "mlflow": "http://mlflow:5000"},
    }
)


def built(path, change=lambda copy: None):
    return {key(each): each for each in build(MANIFESTS / path, excerpt, change)}


def edited(**values):
    """model.env with other values."""

    def change(copy):
        file = copy / "model.env"
        text = file.read_text(encoding="utf-8")
        for name, value in values.items():
            text, found = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.M)
            assert found == 1
        file.write_text(text, encoding="utf-8")

    return change


def charts():
    objects = render("evergrow", [CHARTS / "evergrow/values-dev.yaml"], namespace="evergrow-dev")
    return {key(each): each for each in objects}


def without_release(spec):
    """Without the labels that say which release of the chart an object is of."""
    labels = {
        k: v for k, v in spec["labels"].items() if k not in ("app.kubernetes.io/instance", "evergrow.dev/environment")
    }
    return {**spec, "labels": labels}


def without_log(spec):
    """A runtime that records nothing: it has no object store to ship to."""
    server, shipper = spec["containers"]
    assert shipper["name"] == "shipper"
    env = [each for each in server["env"] if each["name"] != "EVERGROW_HASH_KEY"]
    args = [each for each in server["args"] if not each.startswith("--log-dir=")]
    mounts = [each for each in server["volumeMounts"] if each["name"] != "predictions"]
    volumes = [each for each in spec["volumes"] if each["name"] != "predictions"]
    return {**spec, "containers": [{**server, "args": args, "env": env, "volumeMounts": mounts}], "volumes": volumes}


def test_the_runtime_is_the_charts_but_for_the_prediction_log():
    ours = built("serving/runtime")["ServingRuntime", "evergrow-server"]["spec"]
    theirs = charts()["ServingRuntime", "evergrow-server"]["spec"]

    assert ours == without_log(without_release(theirs))


def test_the_service_account_is_the_charts():
    ours = built("serving/runtime")["ServiceAccount", "evergrow-serving"]
    theirs = charts()["ServiceAccount", "evergrow-serving"]

    assert {**ours, "metadata": None} == {**theirs, "metadata": None}
    assert ours["metadata"]["namespace"] == theirs["metadata"]["namespace"]


def deployed():
    """What the deploy step makes of version 1."""
    version = SimpleNamespace(version=1, identity="i", model_digest="d")
    return inference_service(PLACE, MODEL, version, "1", "s3://evergrow-dev/state/serving/arrival-delay/versions/1")


def without_what_is_empty(spec):
    """Without keys whose values say nothing."""
    return {key: value for key, value in spec.items() if value not in ([], {}, None)}


def test_the_inference_service_is_the_deploy_steps():
    ours, theirs = built("serving/arrival-delay")["InferenceService", "arrival-delay-v1"], deployed()

    assert ours["metadata"]["name"] == theirs["metadata"]["name"]
    assert ours["metadata"]["labels"] == theirs["metadata"]["labels"]
    predictor = without_what_is_empty(theirs["spec"]["predictor"])
    # Resources are the runtime's, which are the chart's.
    predictor["model"] = {key: value for key, value in predictor["model"].items() if key != "resources"}
    assert ours["spec"]["predictor"] == predictor


def test_the_route_is_the_deploy_steps():
    ours, theirs = (
        built("serving/arrival-delay")["HTTPRoute", "arrival-delay"],
        http_route(PLACE, Route(model=MODEL.name, weights={1: 100}, warm=(1,)), {1: "arrival-delay-v1"}),
    )

    assert ours["spec"] == theirs["spec"]
    assert ours["metadata"]["labels"] == theirs["metadata"]["labels"]


def test_only_two_objects_are_sent_to_the_cluster():
    assert set(built("serving/arrival-delay")) == {
        ("InferenceService", "arrival-delay-v1"),
        ("HTTPRoute", "arrival-delay"),
    }


@pytest.mark.parametrize("model", ["delays", "my-vae-voting"])
def test_another_version_of_another_model_takes_one_file(model):
    change = edited(model=model, version="12", storageUri="s3://b/x/12", host=f"{model}.b.example.org")

    objects = built("serving/arrival-delay", change)

    service, path = objects["InferenceService", f"{model}-v12"], objects["HTTPRoute", model]
    assert service["metadata"]["labels"]["evergrow.dev/model"] == model
    assert service["metadata"]["labels"]["evergrow.dev/version"] == "12"
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://b/x/12"
    assert path["metadata"]["labels"]["evergrow.dev/model"] == model
    assert path["spec"]["hostnames"] == [f"{model}.b.example.org"]
    assert path["spec"]["rules"][0]["backendRefs"][0]["name"] == f"{model}-v12-predictor"
    assert not re.search(r"\b[A-Z_]{4,}\b", json.dumps([service, path])), "a place is not filled in"


def test_a_version_can_be_applied_before_the_route_to_it():
    # With `kubectl apply -k ... --selector evergrow.dev/version`.
    objects = built("serving/arrival-delay")

    assert "evergrow.dev/version" in objects["InferenceService", "arrival-delay-v1"]["metadata"]["labels"]
    assert "evergrow.dev/version" not in objects["HTTPRoute", "arrival-delay"]["metadata"]["labels"]
