"""What the MLflow registry leaves in MLflow, for people who look there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evergrow.environment import Environment
from evergrow.errors import RegistryError
from evergrow.integrations.mlflow import MlflowRegistry
from tests.unit.integrations.builders import identity, make_bundle, make_evaluation, make_report


def test_a_version_carries_metrics_parameters_data_card_and_signature(
    mlflow_registry: MlflowRegistry, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    trials = [{"number": 0, "parameters": {"rate": 0.1}, "loss": 2.5}, {"number": 1, "parameters": {}, "loss": None}]
    (bundle / "search.json").write_text(json.dumps(trials))
    report = make_report(bundle)
    document = {"spec": {"training": {"seed": 7, "estimator": {"parameters": {"depth": 3}}}}}
    version = mlflow_registry.register(
        bundle, report, make_evaluation(tmp_path / "evaluation", report), document, card="# Bikes\n"
    )

    client = mlflow_registry._client
    run = client.get_run(version.run_id)
    assert run.data.metrics["mae"] == 2.0
    assert run.data.metrics["champion/mae"] == 3.0
    assert run.data.params["training.estimator.parameters.depth"] == "3"
    assert run.data.params["training.seed"] == "7"
    assert run.data.tags["identity.data"] == "d" * 64
    assert [d.dataset.digest for d in run.inputs.dataset_inputs] == ["d" * 36]
    assert run.info.status == "FINISHED"
    assert {f.path for f in client.list_artifacts(version.run_id)} == {"card.md", "evaluation"}
    nested = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{version.run_id}'")
    assert sorted((t.info.run_name, t.info.status, t.data.metrics.get("loss")) for t in nested) == [
        ("trial-0", "FINISHED", 2.5),
        ("trial-1", "FAILED", None),
    ]
    registered = client.get_model_version("bikes", "1")
    assert registered.description == "# Bikes\n"
    assert registered.tags["identity"] == identity().digest
    model = json.loads(_mlmodel(mlflow_registry.environment.home))
    assert model["flavors"]["python_function"]["loader_module"] == "evergrow.learning.bundle"
    assert [c["name"] for c in json.loads(model["signature"]["inputs"])] == ["hour", "weather"]


def _mlmodel(home: Path) -> str:
    import yaml

    (file,) = home.rglob("MLmodel")
    return json.dumps(yaml.safe_load(file.read_text()), default=str)


def test_asking_before_anything_was_registered_makes_no_database(tmp_path: Path) -> None:
    registry = MlflowRegistry(Environment.read({"EVERGROW_HOME": str(tmp_path / "home")}))
    assert registry.versions() == []
    assert not (tmp_path / "home").exists()


def test_what_mlflow_raises_comes_out_as_a_registry_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = Environment.read({"EVERGROW_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    with pytest.raises(RegistryError, match="MLflow: ") as caught:
        MlflowRegistry(nowhere).versions("bikes")
    assert "MLFLOW_TRACKING_URI" in caught.value.hint
