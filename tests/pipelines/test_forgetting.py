"""The training pipeline where rows of earlier periods are set aside: what has forgotten them is not promoted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergrow.contracts import EvaluationReport
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.learning.bundle import Bundle
from tests.pipelines.conftest import DOCUMENT, FIRST, World, new_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REFERENCES = {"share": 0.25, "period": "20d"}


def document(place: Path, estimator: str, references: dict[str, Any] | None = REFERENCES) -> Path:
    """The toy model's, behind a gate that lets pass what has not forgotten."""
    text = yaml.safe_load(DOCUMENT.read_text())
    text["spec"]["training"]["estimator"]["entrypoint"] = f"tests.toy_model.estimator:{estimator}"
    text["spec"]["evaluation"] |= {"references": references}
    text["spec"]["evaluation"]["gate"] |= {"margin": -1.0}
    path = place / f"{estimator}.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def report_of(run: str) -> EvaluationReport:
    (folder,) = Path(run).glob("artifacts/*/evaluate/report")
    return EvaluationReport.model_validate_json((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The toy model trained as of the first of March, with rows set aside."""
    place = tmp_path_factory.mktemp("guarded")
    world = new_world(place / "home")
    told = world.run("training", FIRST, file=document(place, "build"))
    assert told.code == 0, told.err
    assert told.value["verdict"]["outcome"] == "pass", told.value["verdict"]
    return world


def test_a_challenger_that_knows_earlier_periods_no_more_is_rejected_for_that_alone(
    guarded: World, tmp_path: Path
) -> None:
    told = guarded.run("training", "2024-03-20", file=document(tmp_path, "blind"))
    assert told.code == 0, told.err
    report = report_of(told.value["run"])
    assert [check.name for check in report.checks if check.verdict.outcome != "pass"] == ["forgetting"]
    assert report.verdict.outcome == "fail"
    assert report.backward_transfer is not None
    assert report.backward_transfer < -0.05
    champion = MlflowRegistry(guarded.environment).resolve("toy-demand", "champion")
    assert champion is not None
    assert champion.version == 1


def test_one_that_still_knows_them_is_promoted_and_its_transfer_is_logged(guarded: World, tmp_path: Path) -> None:
    told = guarded.run("training", "2024-03-25", file=document(tmp_path, "build"))
    assert told.code == 0, told.err
    report = report_of(told.value["run"])
    assert [check.verdict.outcome for check in report.checks if check.name == "forgetting"] == ["pass"]
    assert len(report.transfers) == 3
    (output,) = Path(told.value["run"]).glob("artifacts/*/evaluate/executor_output.json")
    shown = json.loads(output.read_text())["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert shown["backward_transfer"] == report.backward_transfer
    registry = MlflowRegistry(guarded.environment)
    champion = registry.resolve("toy-demand", "champion")
    assert champion is not None
    assert champion.version > 1
    bundle = registry.fetch(champion, tmp_path / "bundle")
    assert Bundle.load(bundle).info.set_aside is not None
    logged = registry._client.get_run(champion.run_id).data.metrics  # what people see in MLflow
    assert logged["backward_transfer"] == pytest.approx(report.backward_transfer)
