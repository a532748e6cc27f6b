"""What a backtest selects, fits and judges is what the pipeline would have, as of the same instant."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from evergrow.backtest.past import microseconds
from evergrow.backtest.tasks import Account, Cut, Fit, Fitted, Judge, Select, Serve, opened_cut, scores
from evergrow.backtest.work import perform
from evergrow.contracts import EVENT_TIMESTAMP, Verdict
from evergrow.data import training_set
from evergrow.data.references import judged
from evergrow.data.references import microseconds as microseconds_of
from evergrow.data.training_set import build
from evergrow.errors import SpecError
from evergrow.evaluation.evaluate import evaluate
from evergrow.learning.bundle import Bundle
from evergrow.learning.fit import fit
from evergrow.learning.losses import row_losses
from evergrow.learning.parts import split
from evergrow.spec.model import References
from tests.builders import FEATURES, START, rows
from tests.unit.backtest.places import delays, small_document

NAMES = [f.name for f in FEATURES]
WINDOWS = [
    {"kind": "all"},
    {"kind": "sliding", "length": "20d"},
    {"kind": "decay", "halfLife": "15d"},
    {"kind": "reservoir", "recent": "10d", "rows": 300},
    {"kind": "hard", "recent": "20d", "share": 0.5},
    {"kind": "dynamic", "least": "14d"},
]


RULE = {"share": 0.3, "period": "9d", "periods": 4, "slices": ["origin", "wind"], "tolerance": 0.01}
REFERENCES = {**RULE, "minimumRows": 25}


class Joined:
    """A feature store that has the builders' features of each flight."""

    def __init__(self, frame):
        self.frame = frame

    def history(self, service, entities):
        return entities.merge(self.frame[["flight", *NAMES]], on="flight", how="left", validate="one_to_one")

    def digest(self, service):
        return service


@pytest.fixture(scope="module")
def frame():
    """Delays, some of whose labels come late, and some never."""
    found = rows(days=90)
    random = np.random.default_rng(1)
    found["known_at"] += pd.to_timedelta(random.integers(0, 4, len(found)), "D")
    found.loc[random.random(len(found)) < 0.05, "known_at"] = pd.NaT
    return found.assign(late=found.late.astype(float).where(found.known_at.notna()))


@pytest.fixture(scope="module")
def folder(frame, tmp_path_factory):
    found = tmp_path_factory.mktemp("backtest")
    delays(found, frame)
    return found


def as_live(model, frame, now, out):
    """The parts of the training set that the pipeline builds as of an instant."""
    examples = frame.drop(columns=["minutes", *NAMES])
    about = build(model, examples, Joined(frame), now, "source", out)
    return split(about, training_set.read(out)[1], calibrates=model.spec.training.calibrates)


def selected(model, now):
    spec = model.spec
    evaluation = spec.evaluation
    return Select.of(
        spec.training, spec.task, evaluation.gate.metric, evaluation.holdout, microseconds(now), evaluation.references
    )


def done(folder, work, result):
    return result.model_validate_json(perform(folder, work).result)


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: w["kind"])
@pytest.mark.parametrize("calibration", ["none", "sigmoid"])
@pytest.mark.parametrize("days", [45, 71.3])
def test_a_cut_has_the_rows_of_the_training_set_as_of_the_same_instant(
    folder, frame, tmp_path, window, calibration, days
):
    model = small_document(training={"window": window, "calibration": calibration})
    now = START + timedelta(days=days)
    cut = opened_cut(folder, done(folder, selected(model, now), Cut).rows)
    parts = as_live(model, frame, now, tmp_path)
    ordered = frame.sort_values([EVENT_TIMESTAMP, "flight"], ignore_index=True)
    for name, part in (("fit", parts.fit), ("calibration", parts.calibration), ("holdout", parts.holdout)):
        np.testing.assert_array_equal(ordered.flight.to_numpy()[cut[name]], part.flight)
        np.testing.assert_array_equal(cut[f"{name}_y"], part.late)


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: w["kind"])
@pytest.mark.parametrize("calibration", ["none", "sigmoid"])
def test_a_cut_has_the_rows_that_the_training_set_has_where_some_are_set_aside(
    folder, frame, tmp_path, window, calibration
):
    training = {"window": window, "calibration": calibration}
    model = small_document(training=training, evaluation={"references": REFERENCES})
    now = START + timedelta(days=81.3)
    cut = opened_cut(folder, done(folder, selected(model, now), Cut).rows)
    parts = as_live(model, frame, now, tmp_path)
    ordered = frame.sort_values([EVENT_TIMESTAMP, "flight"], ignore_index=True)
    asked = microseconds_of(parts.set_aside[EVENT_TIMESTAMP])
    apart = parts.set_aside[judged(asked, training_set.read(tmp_path)[0].holdout_from, References(**RULE))]
    found = {"fit": parts.fit, "calibration": parts.calibration, "holdout": parts.holdout, "references": apart}
    for name, part in found.items():
        np.testing.assert_array_equal(ordered.flight.to_numpy()[cut[name]], part.flight)
        np.testing.assert_array_equal(cut[f"{name}_y"], part.late)
    assert 300 < len(apart) < 600


def test_without_references_a_cut_is_what_it_was_before_there_were_any(folder):
    asked = selected(small_document(), START + timedelta(days=60))
    assert set(opened_cut(folder, done(folder, asked, Cut).rows)) == {
        f"{name}{of}" for name in ("fit", "calibration", "holdout") for of in ("", "_y")
    }


def test_a_slice_of_references_that_is_no_feature_is_named(folder):
    model = small_document(evaluation={"references": REFERENCES | {"slices": ["origin", "flight"]}})
    with pytest.raises(SpecError, match=r"references.slices\[1\]: a backtest has the model's features only, found"):
        perform(folder, selected(model, START + timedelta(days=60)))


@pytest.mark.parametrize("estimator", ["logistic", "boosted_on_categories"])
@pytest.mark.parametrize("more", [{}, {"selection": {"keep": 1}}], ids=["all features", "one of them"])
def test_a_model_scores_as_the_bundle_that_the_pipeline_fits(folder, frame, tmp_path, estimator, more):
    training = {"calibration": "sigmoid", **more}
    model = small_document(estimator=f"tests.example_model.estimator:{estimator}", training=training)
    now = START + timedelta(days=60)
    as_live(model, frame, now, tmp_path / "set")
    fit(model, tmp_path / "set", tmp_path / "bundle")
    bundle = Bundle.load(tmp_path / "bundle")
    cut = done(folder, selected(model, now), Cut)
    key = done(folder, Fit.of(cut, model.spec.training, model.spec.task, "log_loss"), Fitted).model
    ordered = frame.sort_values([EVENT_TIMESTAMP, "flight"], ignore_index=True)
    found = scores(folder, key, slice(None))
    np.testing.assert_allclose(found, bundle.predict(bundle.columns(ordered)), atol=2e-6)
    assert len(bundle.info.left_out) == (2 if more else 0)


@pytest.mark.parametrize(("old", "new", "margin"), [("blind", "logistic", 0.0), ("logistic", "blind", 0.0)])
def test_the_gate_says_what_the_evaluation_says(folder, frame, tmp_path, old, new, margin):
    now = START + timedelta(days=70)
    keys, bundles, model = {}, {}, None
    for name in (old, new):
        gate = {"margin": margin, "floors": [{"metric": "roc_auc", "atLeast": 0.3}]}
        model = small_document(estimator=f"tests.example_model.estimator:{name}", gate=gate)
        as_live(model, frame, now, tmp_path / "set")
        bundles[name] = tmp_path / name
        fit(model, tmp_path / "set", bundles[name])
        cut = done(folder, selected(model, now), Cut)
        keys[name] = done(folder, Fit.of(cut, model.spec.training, model.spec.task, ""), Fitted).model
    report = evaluate(model, tmp_path / "set", bundles[new], bundles[old], "1", tmp_path / "report")
    judged = [check for check in report.checks if check.name not in ("latency", "size")]
    judge = Judge(
        rows=cut.rows, challenger=keys[new], champion=keys[old], prior=0.0, gate=model.spec.evaluation.gate,
        task=model.spec.task, minimum_rows=50,
    )  # fmt: skip
    verdict = done(folder, judge, Verdict)
    assert verdict == Verdict.worst(check.verdict for check in judged)
    assert verdict.outcome == ("pass" if old == "blind" else "fail")


@pytest.mark.parametrize(("old", "new"), [("blind", "logistic"), ("logistic", "blind")])
def test_the_gate_says_of_rows_set_aside_what_the_evaluation_says(folder, frame, tmp_path, old, new):
    now = START + timedelta(days=81.3)
    keys, models = {}, {}
    for name in (old, new):
        models[name] = small_document(
            estimator=f"tests.example_model.estimator:{name}", gate={"margin": -1.0},
            evaluation={"references": REFERENCES | {"period": "20d", "alpha": 0.4}},
        )  # fmt: skip
        as_live(models[name], frame, now, tmp_path / "set")
        fit(models[name], tmp_path / "set", tmp_path / name)
        cut = done(folder, selected(models[name], now), Cut)
        keys[name] = done(folder, Fit.of(cut, models[name].spec.training, models[name].spec.task, ""), Fitted).model
    report = evaluate(models[new], tmp_path / "set", tmp_path / new, tmp_path / old, "1", tmp_path / "report")
    said = [check.verdict for check in report.checks if check.name not in ("latency", "size")]
    evaluation = models[new].spec.evaluation
    judge = Judge(
        rows=cut.rows, challenger=keys[new], champion=keys[old], prior=0.0, gate=evaluation.gate,
        task=models[new].spec.task, minimum_rows=50, references=evaluation.references,
    )  # fmt: skip
    verdict = done(folder, judge, Verdict)
    assert verdict == Verdict.worst(said)
    assert verdict.outcome == ("pass" if old == "blind" else "fail")
    assert verdict.reason.count("backward transfer") == 1
    assert len(report.transfers) > 15
    alone = judge.model_copy(update={"champion": "", "prior": 0.3})
    assert "backward transfer" not in done(folder, alone, Verdict).reason


def test_without_a_champion_the_prior_takes_its_place(folder, frame):
    now = START + timedelta(days=70)
    for name, outcome in (("logistic", "pass"), ("blind", "inconclusive")):
        model = small_document(estimator=f"tests.example_model.estimator:{name}")
        cut = done(folder, selected(model, now), Cut)
        fitted = done(folder, Fit.of(cut, model.spec.training, model.spec.task, ""), Fitted)
        judge = Judge(
            rows=cut.rows, challenger=fitted.model, champion="", prior=fitted.prior, gate=model.spec.evaluation.gate,
            task=model.spec.task, minimum_rows=50,
        )  # fmt: skip
        assert done(folder, judge, Verdict).outcome == outcome


def test_too_little_is_a_fault_and_no_crash(folder):
    for days, told in ((-1, "no row has a label yet"), (12, "labelled rows do not span more than")):
        cut = done(folder, selected(small_document(), START + timedelta(days=days)), Cut)
        assert told in cut.fault
        assert cut.rows == ""


def test_windows_that_choose_the_same_rows_are_one_training(folder):
    now = START + timedelta(days=60)
    keys = set()
    for window in ({"kind": "all"}, {"kind": "sliding", "length": "400d"}, {"kind": "sliding", "length": "20d"}):
        model = small_document(training={"window": window})
        cut = done(folder, selected(model, now), Cut)
        keys.add(Fit.of(cut, model.spec.training, model.spec.task, "log_loss").key)
    assert len(keys) == 2


def test_a_model_answers_for_each_day_by_the_labels_that_ever_came(folder, frame):
    now = START + timedelta(days=60)
    model = small_document()
    cut = done(folder, selected(model, now), Cut)
    key = done(folder, Fit.of(cut, model.spec.training, model.spec.task, ""), Fitted).model
    since, until = START + timedelta(days=61, hours=5), START + timedelta(days=64)
    serve = Serve(
        model=key, cut=microseconds(now), since=microseconds(since), until=microseconds(until), metric="log_loss",
        worth=None,
    )  # fmt: skip
    found = done(folder, serve, Account)
    ordered = frame.sort_values([EVENT_TIMESTAMP, "flight"], ignore_index=True)
    score = scores(folder, key, slice(None))
    mine = ordered.assign(loss=row_losses("log_loss", ordered.late.to_numpy(), score))
    mine = mine[(mine.event_timestamp >= since) & (mine.event_timestamp < until) & mine.late.notna()]
    by_day = mine.groupby(mine.event_timestamp.dt.floor("D")).loss.agg(["size", "sum"])
    assert [day.rows for day in found.days] == by_day["size"].tolist()
    np.testing.assert_allclose([day.loss for day in found.days], by_day["sum"])
    age = (mine.event_timestamp - pd.Timestamp(now)).dt.total_seconds().sum() / 86_400
    assert sum(day.age for day in found.days) == pytest.approx(age)


UPDATES = [
    ({"kind": "recalibrate"}, "logistic"),
    ({"kind": "warm-start"}, "logistic"),
    ({"kind": "warm-start", "rounds": 5}, "boosted_in_rounds"),
    ({"kind": "partial-fit", "passes": 3}, "by_gradient"),
]


@pytest.mark.parametrize(
    ("update", "estimator"), UPDATES, ids=lambda one: one["kind"] if isinstance(one, dict) else one
)
def test_an_update_goes_on_as_the_pipelines_does(folder, frame, tmp_path, update, estimator):
    model = small_document(
        estimator=f"tests.example_model.estimator:{estimator}", training={"calibration": "sigmoid", "update": update}
    )
    ancestor, champion = None, ""
    for days in (50, 64, 78):
        now = START + timedelta(days=days)
        as_live(model, frame, now, tmp_path / "set")
        fit(model, tmp_path / "set", tmp_path / str(days), ancestor)
        ancestor = tmp_path / str(days)
        cut = done(folder, selected(model, now), Cut)
        champion = done(folder, Fit.of(cut, model.spec.training, model.spec.task, "", champion), Fitted).model
    bundle = Bundle.load(ancestor)
    assert bundle.info.parent == Bundle.load(tmp_path / "64").info.identity.digest
    ordered = frame.sort_values([EVENT_TIMESTAMP, "flight"], ignore_index=True)
    found = scores(folder, champion, slice(None))
    np.testing.assert_allclose(found, bundle.predict(bundle.columns(ordered)), atol=2e-6)


@pytest.mark.parametrize(("turned", "outcome"), [(True, "fail"), (False, "pass")])
def test_an_update_is_held_against_its_control_as_the_pipelines_is(frame, tmp_path, turned, outcome):
    """The estimator is kept while a feature turns round, or does not; what is fitted anew knows."""
    since = START + timedelta(days=45)
    delay = frame.delay.where((frame.event_timestamp < since) | (not turned), -frame.delay)
    frame, window = frame.assign(delay=delay), {"kind": "sliding", "length": "20d"}
    training = {"calibration": "sigmoid", "window": window, "update": {"kind": "recalibrate", "control": {}}}
    model = small_document(training=training, gate={"margin": -0.5})
    folder, keys = tmp_path / "backtest", {"champion": ""}
    delays(folder, frame)
    for name, days in (("champion", 45), ("update", 85)):
        now = START + timedelta(days=days)
        as_live(model, frame, now, tmp_path / "set")
        fit(model, tmp_path / "set", tmp_path / name, tmp_path / "champion" if name == "update" else None)
        cut = done(folder, selected(model, now), Cut)
        fitted = done(folder, Fit.of(cut, model.spec.training, model.spec.task, "", keys["champion"]), Fitted)
        keys[name] = fitted.model
    fit(model, tmp_path / "set", tmp_path / "control")
    control = done(folder, Fit.of(cut, model.spec.training, model.spec.task, ""), Fitted).model
    places = (tmp_path / "set", tmp_path / "update", tmp_path / "champion", "1", tmp_path / "report")
    report = evaluate(model, *places, tmp_path / "control")
    judge = Judge(
        rows=cut.rows, challenger=keys["update"], champion=keys["champion"], prior=0.0, control=control,
        tolerance=0.02, gate=model.spec.evaluation.gate, task=model.spec.task, minimum_rows=50,
    )  # fmt: skip
    verdict = done(folder, judge, Verdict)
    judged = [check for check in report.checks if check.name not in ("latency", "size")]
    assert [check.verdict.outcome for check in judged] == ["pass", outcome]
    # What the two fit differs in the seventh digit.
    worst = Verdict.worst(check.verdict for check in judged)
    assert (verdict.outcome, verdict.reason[:40]) == (worst.outcome, worst.reason[:40])


def test_a_control_is_the_training_of_a_policy_that_refits_and_a_control_makes_no_other_update():
    cut = Cut(rows="rows", fit=10)
    kinds = ({"kind": "refit"}, {"kind": "partial-fit"}, {"kind": "partial-fit", "control": {}})
    trainings = [small_document(training={"update": kind}).spec.training for kind in kinds]
    alone = {Fit.of(cut, one, "binary-classification", "log_loss").key for one in trainings}
    refit, *went_on = (Fit.of(cut, one, "binary-classification", "log_loss", "before").key for one in trainings)
    assert alone == {refit}
    assert len(set(went_on)) == 1
    assert refit not in went_on
