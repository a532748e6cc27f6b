import json
import math
import shutil

import numpy as np
import pytest
from sklearn import metrics

from evergrow.contracts import EvaluationReport
from evergrow.data import training_set as training_sets
from evergrow.errors import DataError, NotEnoughData
from evergrow.evaluation.evaluate import evaluate, median_latency
from evergrow.learning.bundle import Bundle, bundle_digest
from evergrow.learning.fit import fit
from evergrow.learning.parts import split
from tests.builders import document, rows, training_set

ESTIMATORS = "tests.example_model.estimator"
GOOD = document(evaluation={"slices": ["origin", "wind"]})
POOR = document(training={"estimator": {"entrypoint": f"{ESTIMATORS}:boosted", "parameters": {"max_iter": 1}}})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A training set with a good and a poor model fitted on it."""
    folder = tmp_path_factory.mktemp("world")
    training = training_set(folder / "training_set", model=GOOD)
    for name, model in (("good", GOOD), ("poor", POOR)):
        fit(model, training, folder / name)
    return folder


def judged(world, tmp_path, challenger="good", champion=None, model=GOOD):
    champion = world / champion if champion else None
    return evaluate(model, world / "training_set", world / challenger, champion, "7", tmp_path / "report")


def outcome(report, check="champion"):
    return next(c.verdict.outcome for c in report.checks if c.name == check)


def test_the_better_of_two_models_replaces_the_worse_and_not_the_other_way_round(world, tmp_path):
    up, down = judged(world, tmp_path, "good", "poor"), judged(world, tmp_path, "poor", "good")
    assert (up.verdict.outcome, down.verdict.outcome) == ("pass", "fail")
    numbers = {m.name: m.value for m in up.metrics}, {m.name: m.value for m in up.champion_metrics}
    swapped = {m.name: m.value for m in down.champion_metrics}, {m.name: m.value for m in down.metrics}
    assert numbers == swapped


def test_a_model_against_itself_is_inconclusive(world, tmp_path):
    assert judged(world, tmp_path, "good", "good").verdict.outcome == "inconclusive"


def test_without_a_champion_the_prior_takes_its_place(world, tmp_path):
    report = judged(world, tmp_path)
    prior = Bundle.load(world / "good").info.prior
    about, frame = training_sets.read(world / "training_set")
    holdout = split(about, frame).holdout
    assert (report.champion, report.verdict.outcome) == ("prior", "pass")
    loss = {m.name: m.value for m in report.champion_metrics}["log_loss"]
    assert loss == pytest.approx(metrics.log_loss(holdout.late, np.full(len(holdout), prior)))
    assert prior == pytest.approx(split(about, frame, calibrates=False).fit.late.mean())


def test_a_model_that_learnt_nothing_does_not_beat_the_prior(world, tmp_path):
    model = document(estimator=f"{ESTIMATORS}:blind")
    fit(model, world / "training_set", tmp_path / "blind")
    report = evaluate(model, world / "training_set", tmp_path / "blind", None, "", tmp_path / "report")
    assert report.verdict.outcome == "inconclusive"


def test_metrics_are_those_of_the_held_out_rows_alone(world, tmp_path):
    report = judged(world, tmp_path)
    about, frame = training_sets.read(world / "training_set")
    holdout = split(about, frame).holdout
    bundle = Bundle.load(world / "good")
    scores = bundle.predict(bundle.columns(holdout))
    found = {m.name: m.value for m in report.metrics}
    assert report.rows == len(holdout)
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(holdout.late, scores))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(holdout.late, scores))


def test_rows_in_any_order_give_the_same_verdict(world, tmp_path):
    shuffled = tmp_path / "shuffled"
    shutil.copytree(world / "training_set", shuffled)
    frame = rows().sample(frac=1, random_state=0)
    frame.to_parquet(shuffled / "rows.parquet")
    report = evaluate(GOOD, shuffled, world / "good", world / "poor", "7", tmp_path / "report")
    expected = judged(world, tmp_path, "good", "poor").checks[0].verdict
    assert report.checks[0].verdict.outcome == expected.outcome
    assert report.checks[0].verdict.reason == expected.reason


@pytest.mark.parametrize(
    ("gate", "check", "expected"),
    [
        ({"floors": [{"metric": "roc_auc", "atLeast": 0.55}]}, "floor roc_auc", "pass"),
        ({"floors": [{"metric": "roc_auc", "atLeast": 0.95}]}, "floor roc_auc", "fail"),
        ({"floors": [{"metric": "brier", "atMost": 0.1}]}, "floor brier", "fail"),
        ({"limits": {"latencyMs": 1e-6}}, "latency", "fail"),
        ({"limits": {"sizeMb": 1e-6}}, "size", "fail"),
        ({"limits": {"sizeMb": 10}}, "size", "pass"),
        ({"margin": 0.5}, "champion", "fail"),
    ],
)
def test_each_check_of_the_gate_decides_the_whole(world, tmp_path, gate, check, expected):
    report = judged(world, tmp_path, champion="poor", model=document(gate=gate))
    assert outcome(report, check) == expected
    assert report.verdict.outcome == expected


def test_few_rows_are_inconclusive_and_none_are_an_error(world, tmp_path):
    few = document(evaluation={"minimumRows": 5000})
    assert judged(world, tmp_path, champion="poor", model=few).verdict.outcome == "inconclusive"
    empty = tmp_path / "empty"
    about, frame = training_sets.read(world / "training_set")
    shutil.copytree(world / "training_set", empty)
    frame[frame.event_timestamp < about.holdout_from].to_parquet(empty / "rows.parquet")
    with pytest.raises(NotEnoughData, match="holdout: no row was asked for on or after 2024-03-30"):
        evaluate(GOOD, empty, world / "good", None, "", tmp_path / "report")


def test_a_champion_whose_features_are_gone_is_an_error_that_names_them(world, tmp_path):
    other = tmp_path / "champion"
    shutil.copytree(world / "poor", other)
    info = json.loads((other / "bundle.json").read_text())
    info["features"][0]["name"] = "gusts"
    (other / "bundle.json").write_text(json.dumps(info))
    report = evaluate(GOOD, world / "training_set", world / "good", other, "7", tmp_path / "report")
    assert report.verdict.outcome == "error"
    assert "the champion takes gusts, which the training set lacks" in report.verdict.reason
    assert report.champion_metrics == ()


def test_a_champion_that_answers_nonsense_is_an_error_and_never_a_pass(world, tmp_path):
    broken = tmp_path / "champion"
    shutil.copytree(world / "poor", broken)
    info = json.loads((broken / "bundle.json").read_text())
    info["calibration"] = {"kind": "sigmoid", "slope": math.nan, "intercept": 0.0}
    (broken / "bundle.json").write_text(json.dumps(info))
    report = evaluate(GOOD, world / "training_set", world / "good", broken, "7", tmp_path / "report")
    assert report.verdict.outcome == "error"


def test_a_champion_that_has_seen_held_out_rows_is_told_of(world, tmp_path):
    later = tmp_path / "later"
    training = training_set(tmp_path / "later_set", model=GOOD, frame=rows(days=150))
    fit(GOOD, training, later)
    report = evaluate(GOOD, world / "training_set", world / "good", later, "8", tmp_path / "report")
    assert (
        "was fitted on rows up to 2024-04-29, within this holdout: this favours it" in report.checks[0].verdict.reason
    )
    assert "favours" not in judged(world, tmp_path, champion="poor").checks[0].verdict.reason


def test_the_report_reads_back_and_holds_finite_numbers_only(world, tmp_path):
    report = judged(world, tmp_path, champion="poor")
    text = (tmp_path / "report/report.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert EvaluationReport.model_validate_json(text) == report
    assert report.model_digest == bundle_digest(world / "good")
    assert report.primary == report.metrics[0].name == "log_loss"


def test_slices_months_and_what_was_left_out_are_reported(world, tmp_path):
    report = judged(world, tmp_path)
    assert {s.column for s in report.slices} == {"origin", "wind"}
    assert [s.value for s in report.months] == ["2024-04"]
    assert {(s["column"], s["value"]) for s in report.curves["skipped"]} >= {("origin", "missing")}


def test_a_slice_column_that_does_not_exist_is_an_error(world, tmp_path):
    with pytest.raises(DataError, match="no column 'airline'"):
        judged(world, tmp_path, model=document(evaluation={"slices": ["airline"]}))


def test_importance_finds_the_features_that_matter(world, tmp_path):
    importance = judged(world, tmp_path).curves["importance"]
    assert set(importance) == {"wind", "delay", "origin"}
    assert min(importance["wind"], importance["delay"]) > 0.01


def test_a_regression_is_judged_by_its_own_metrics(tmp_path):
    model = document(
        task="regression",
        estimator=f"{ESTIMATORS}:boosted_regressor",
        evaluation={"metrics": ["mae", "rmse", "r2", "poisson_deviance"]},
        gate={"metric": "squared_error"},
    )
    training = training_set(tmp_path / "set", model=model)
    fit(model, training, tmp_path / "bundle")
    report = evaluate(model, training, tmp_path / "bundle", None, "", tmp_path / "report")
    assert [m.name for m in report.metrics] == ["squared_error", "mae", "rmse", "r2", "poisson_deviance"]
    assert report.verdict.outcome == "pass"
    assert set(report.curves) == {"residuals", "importance", "skipped"}


def test_latency_is_the_median_of_single_rows_in_milliseconds(world):
    ticks = iter(np.cumsum(np.tile([0.5, 0.002], 1000)))
    holdout = rows(days=3)
    assert median_latency(Bundle.load(world / "good"), holdout, clock=lambda: next(ticks)) == pytest.approx(2.0)
