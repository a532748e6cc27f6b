"""The training pipeline, whole, on a small model: what it leaves, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evergrow.audit import AuditLog
from evergrow.contracts import EvaluationReport
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.integrations.serving import served
from evergrow.learning.fit import read_info
from tests.pipelines.conftest import DOCUMENT, FIRST, World, new_world

pytestmark = pytest.mark.slow


def test_a_model_that_beats_the_prior_becomes_the_champion_and_is_served(world: World) -> None:
    version = MlflowRegistry(world.environment).resolve("toy-demand", "champion")
    assert version is not None
    about = served(world.environment.serving("toy-demand"))
    assert about is not None
    assert (about["version"], about["model_digest"]) == (version.version, version.model_digest)
    first = AuditLog(world.environment.audit).records()[0]
    assert (first.version, first.replaced) == (1, None)


def test_the_run_leaves_its_report_where_it_is_found(world: World) -> None:
    told = world.evergrow("report", "toy-demand")
    assert told.code == 0
    page = Path(told.out.strip())
    assert page.read_text().lstrip().startswith("<!")
    assert (page.parent / "exploration.html").exists()


def test_kubeflow_is_given_metrics_and_a_roc_curve(world: World) -> None:
    (output,) = world.environment.home.glob("runs/training/*/artifacts/*/evaluate/executor_output.json")
    artifacts = json.loads(output.read_text())["artifacts"]
    metrics = artifacts["metrics"]["artifacts"][0]["metadata"]
    assert 0.5 < metrics["roc_auc"] <= 1
    assert artifacts["classification"]["artifacts"][0]["metadata"]["confidenceMetrics"]


def test_the_same_identity_is_neither_trained_nor_judged_nor_registered_again(world: World) -> None:
    before = MlflowRegistry(world.environment).versions("toy-demand")
    told = world.run("training", FIRST, "--again")
    assert told.code == 0, told.err
    assert "fetched, not trained again" in told.err
    assert "was judged against prior before" in told.err
    assert MlflowRegistry(world.environment).versions("toy-demand") == before
    assert len(AuditLog(world.environment.audit).records()) == 1


def test_a_run_that_would_read_and_make_the_same_is_not_run_again(world: World) -> None:
    first = world.run("training", FIRST)
    assert (first.code, "done already" in first.err) == (0, True)
    (page,) = world.environment.home.glob("reports/toy-demand/*/report.html")
    page.unlink()
    again = world.run("training", FIRST)
    assert (again.code, "done already" in again.err) == (0, False)
    assert page.exists()
    ran = {"run", "seconds", "cpu_seconds"}
    assert {k: v for k, v in again.value.items() if k not in ran} == {
        k: v for k, v in first.value.items() if k not in ran
    }


def test_a_worse_challenger_leaves_the_champion_serving(world: World, tmp_path: Path) -> None:
    worse = tmp_path / "model.yaml"
    worse.write_text(DOCUMENT.read_text().replace("estimator:build", "estimator:blind"))
    champion = MlflowRegistry(world.environment).resolve("toy-demand", "champion")
    told = world.run("training", "2024-04-01", "--require-pass", file=worse)
    assert told.code == 10, told.err  # 0 without --require-pass, as the next test sees
    assert told.value["verdict"]["outcome"] == "fail"
    assert told.value["serving"] is None
    assert MlflowRegistry(world.environment).resolve("toy-demand", "champion") == champion
    about = served(world.environment.serving("toy-demand"))
    assert about is not None
    assert champion is not None
    assert about["version"] == champion.version


def test_champion_and_challenger_are_judged_on_the_same_rows(world: World) -> None:
    told = world.run("training", "2024-04-02")
    assert told.code == 0, told.err
    assert told.value["verdict"]["outcome"] != "pass"
    (folder,) = Path(told.value["run"]).glob("artifacts/*/evaluate/report")
    report = EvaluationReport.model_validate_json((folder / "report.json").read_text())
    assert report.champion == "1"
    assert {m.rows for m in report.metrics} == {m.rows for m in report.champion_metrics} == {report.rows}
    assert [m.value for m in report.metrics] != [m.value for m in report.champion_metrics]


def test_a_source_that_cannot_be_read_is_told_in_its_own_words_with_its_exit_code(tmp_path: Path) -> None:
    world = new_world(tmp_path / "home")
    told = world.run("training", "2023-01-01")
    assert told.code == 3
    assert told.err.count("error: step ") == 1
    assert "the whole log: " in told.err
    assert "Traceback" not in told.err


def updated(tmp_path: Path, estimator: str) -> Path:
    """The toy model, gone on with by partial fits and held against a control."""
    path = tmp_path / "model.yaml"
    text = DOCUMENT.read_text().replace("tests.toy_model.estimator:build", f"tests.example_model.estimator:{estimator}")
    path.write_text(text.replace("  training:\n", "  training:\n    update: {kind: partial-fit, control: {}}\n"))
    return path


@pytest.mark.parametrize(("estimator", "outcome"), [("by_gradient", "pass"), ("straying", "fail")])
def test_an_update_is_held_against_a_refit_that_nobody_registers_or_serves(
    tmp_path: Path, estimator: str, outcome: str
) -> None:
    world, file = new_world(tmp_path / "home"), updated(tmp_path, estimator)
    first = world.run("training", FIRST, file=file)
    assert first.code == 0, first.err
    assert first.value["verdict"]["outcome"] == "pass"
    second = world.run("training", "2024-04-01", file=file)
    assert second.code == 0, second.err
    (without,), (held,) = (list(Path(told.value["run"]).glob("artifacts/*")) for told in (first, second))
    assert not (without / "train/rivals/control").exists()
    control, went_on = read_info(held / "train/rivals/control"), read_info(held / "train/model")
    assert (control.parent, went_on.parent) == ("", read_info(without / "train/model").identity.digest)
    assert (control.as_of, control.trained_on[1]) == (went_on.as_of, went_on.trained_on[1])
    report = EvaluationReport.model_validate_json((held / "evaluate/report/report.json").read_text())
    (verdict,) = (check.verdict for check in report.checks if check.name == "control")
    assert (verdict.outcome, "vs control" in verdict.reason) == (outcome, True)
    assert (outcome == "fail") <= (second.value["verdict"]["outcome"] == "fail")
    versions = MlflowRegistry(world.environment).versions("toy-demand")
    assert {one.identity for one in versions} == {
        read_info(run / "train/model").identity.digest for run in (without, held)
    }
