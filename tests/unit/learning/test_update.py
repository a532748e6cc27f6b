"""Training that goes on: what is taken over, what is not, and who cannot."""

from datetime import timedelta

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evergrow.contracts import EVENT_TIMESTAMP, TrainingSet, digest
from evergrow.data import training_set as training_sets
from evergrow.errors import NotEnoughData, SpecError
from evergrow.evaluation.evaluate import evaluate
from evergrow.learning.bundle import Bundle, bundle_digest
from evergrow.learning.fit import fit, read_info
from evergrow.learning.identity import identify
from evergrow.learning.parts import split
from evergrow.learning.update import gone_on
from evergrow.spec.updates import PartialFit, Recalibrate, WarmStart
from tests.builders import document, rows, training_set


def drawn(seed, weights, n=2000):
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, 2)).astype(np.float32)
    return X, (random.random(n) < 1 / (1 + np.exp(-X @ np.array(weights)))).astype(np.int64)


OLD, NEW = drawn(0, (2.0, 0.0)), drawn(1, (0.0, 2.0))


def test_boosting_keeps_its_trees_and_adds_some():
    before = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(*OLD)
    after = gone_on(WarmStart(rounds=7), before, *NEW)
    assert (len(before.estimators_), len(after.estimators_)) == (10, 17)
    for old, kept in zip(before.estimators_[:, 0], after.estimators_[:10, 0], strict=True):
        np.testing.assert_array_equal(old.tree_.value, kept.tree_.value)
    assert after.score(*NEW) > before.score(*NEW) + 0.05


def test_the_estimator_that_is_gone_on_from_stays_as_it_was():
    before = make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)).fit(*OLD)
    coefficients = before[-1].coef_.copy()
    for update in (PartialFit(passes=5), WarmStart()):
        after = gone_on(update, before, *NEW)
        np.testing.assert_array_equal(before[-1].coef_, coefficients)
        assert not np.array_equal(after[-1].coef_, coefficients)


def test_a_partial_fit_of_naive_bayes_is_the_fit_on_all_rows():
    """Gaussian naive Bayes adds up moments, so that going on must come to the same."""
    before = GaussianNB(var_smoothing=0).fit(*OLD)
    after = gone_on(PartialFit(), before, *NEW)
    whole = GaussianNB(var_smoothing=0).fit(*(np.concatenate(parts) for parts in zip(OLD, NEW, strict=True)))
    np.testing.assert_allclose(after.theta_, whole.theta_, rtol=1e-6)
    np.testing.assert_allclose(after.var_, whole.var_, rtol=1e-5)


def test_of_a_pipeline_the_last_step_goes_on_by_what_the_others_have_learnt():
    before = make_pipeline(SimpleImputer(), StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)).fit(*OLD)
    after = gone_on(PartialFit(), before, NEW[0] + 100, NEW[1])
    np.testing.assert_array_equal(after[1].mean_, before[1].mean_)


def test_recalibrating_keeps_the_estimator_itself():
    before = LogisticRegression().fit(*OLD)
    assert gone_on(Recalibrate(), before, *NEW) is before


@pytest.mark.parametrize(
    ("update", "estimator", "message"),
    [
        (WarmStart(), HistGradientBoostingClassifier(max_iter=3), "warm-start .* found HistGradientBoostingClassifier"),
        (WarmStart(), GaussianNB(), "warm-start needs an estimator that may go on with other rows, found GaussianNB"),
        (PartialFit(), LogisticRegression(), "partial-fit needs .*`partial_fit`, found LogisticRegression"),
        (PartialFit(), make_pipeline(StandardScaler(), LogisticRegression()), "found LogisticRegression"),
    ],
)
def test_who_cannot_go_on_says_so_and_who_can(update, estimator, message):
    with pytest.raises(SpecError, match=f"spec.training.update: .*{message}" if message[:7] != "found L" else message):
        gone_on(update, estimator.fit(*OLD), *NEW)


# -- bundles --


def model(kind, **more):
    return document(
        estimator="tests.example_model.estimator:by_gradient",
        training={"update": {"kind": kind, **more}, "calibration": "sigmoid", "calibrationLength": "10d"},
        evaluation={"holdout": "20d"},
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Training sets as of two instants, a month apart."""
    folder, frame = tmp_path_factory.mktemp("sets"), rows(days=150)
    parts = {"holdout": timedelta(days=20), "calibration": timedelta(days=10)}
    first = frame[frame[EVENT_TIMESTAMP] < frame[EVENT_TIMESTAMP].max() - timedelta(days=30)]
    return (
        training_set(folder / "first", model=model("refit"), frame=first, **parts),
        training_set(folder / "second", model=model("refit"), frame=frame, **parts),
    )


def test_a_bundle_names_what_it_went_on_from_and_its_identity_depends_on_it(sets, tmp_path):
    first = fit(model("partial-fit"), sets[0], tmp_path / "1")
    second = fit(model("partial-fit"), sets[1], tmp_path / "2", tmp_path / "1")
    alone = fit(model("partial-fit"), sets[1], tmp_path / "3")
    assert (first.parent, second.parent, alone.parent) == ("", first.identity.digest, "")
    assert second.identity != alone.identity
    about = TrainingSet.model_validate_json((sets[1] / "training_set.json").read_text())
    assert identify(model("partial-fit"), about, first.identity.digest) == second.identity
    assert identify(model("partial-fit"), about) == alone.identity


def test_going_on_from_the_same_gives_the_same_bytes(sets, tmp_path):
    fit(model("partial-fit"), sets[0], tmp_path / "1")
    digests = set()
    for name in ("a", "b"):
        fit(model("partial-fit"), sets[1], tmp_path / name, tmp_path / "1")
        digests.add(bundle_digest(tmp_path / name))
    assert len(digests) == 1


def test_a_partial_fit_sees_only_rows_that_are_newer(sets, tmp_path):
    first = fit(model("partial-fit"), sets[0], tmp_path / "1")
    second = fit(model("partial-fit"), sets[1], tmp_path / "2", tmp_path / "1")
    assert second.rows < first.rows
    assert second.rows == pytest.approx(30 * 40, abs=5)
    assert second.trained_on[0] == first.trained_on[0]
    with pytest.raises(NotEnoughData, match="rows to fit on: needs at least 2 labelled rows, found 0"):
        fit(model("partial-fit"), sets[1], tmp_path / "3", tmp_path / "2")


def test_recalibrating_changes_how_scores_become_probabilities_and_nothing_else(sets, tmp_path):
    first = fit(model("recalibrate"), sets[0], tmp_path / "1")
    second = fit(model("recalibrate"), sets[1], tmp_path / "2", tmp_path / "1")
    assert second.calibration != first.calibration
    assert second.trained_on == first.trained_on
    assert (tmp_path / "1/model.skops").read_bytes() == (tmp_path / "2/model.skops").read_bytes()
    old, new = Bundle.load(tmp_path / "1"), Bundle.load(tmp_path / "2")
    X = old.columns(rows(days=20))
    order = np.argsort(old.predict(X), kind="stable")
    assert (np.diff(new.predict(X)[order]) >= -1e-9).all()


def test_a_model_of_other_features_is_no_ancestor(sets, tmp_path):
    fit(model("partial-fit"), sets[0], tmp_path / "1")
    text = (tmp_path / "1/bundle.json").read_text()
    (tmp_path / "1/bundle.json").write_text(text.replace('"name": "wind"', '"name": "breeze"'))
    assert fit(model("partial-fit"), sets[1], tmp_path / "2", tmp_path / "1").parent == ""


def test_a_refit_takes_nothing_over(sets, tmp_path):
    fit(model("refit"), sets[0], tmp_path / "1")
    with_one = fit(model("refit"), sets[1], tmp_path / "2", tmp_path / "1")
    without = fit(model("refit"), sets[1], tmp_path / "3")
    assert with_one == without
    assert with_one.parent == ""


# -- controls --


def test_a_control_is_no_part_of_what_a_model_is(sets):
    about = TrainingSet.model_validate_json((sets[1] / "training_set.json").read_text())
    plain, *controlled = (
        identify(model("partial-fit", **more), about, "parent")
        for more in ({}, {"control": {}}, {"control": {"tolerance": 0.5}})
    )
    assert controlled == [plain, plain]
    assert identify(model("partial-fit", passes=2), about, "parent") != plain


def test_a_document_without_a_control_has_the_identity_it_had_before_there_were_any(sets, monkeypatch):
    """By an oracle: what was digested then, which knew no such field."""
    about = TrainingSet.model_validate_json((sets[1] / "training_set.json").read_text())
    digested = []
    monkeypatch.setattr("evergrow.learning.identity.digest", lambda value: digested.append(value) or digest(value))
    identify(model("partial-fit"), about)
    identify(model("refit"), about)
    updates = [value["training"]["update"] for value in digested if "training" in value]
    assert updates == [{"kind": "partial-fit", "passes": 1}, {"kind": "refit"}]


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """Training sets as of before and long after one of the features turned round, the second's rows all new."""
    folder = tmp_path_factory.mktemp("turned")
    before, after = rows(days=80), rows(days=200, seed=1)
    after = after[after[EVENT_TIMESTAMP] >= after[EVENT_TIMESTAMP].min() + timedelta(days=80)]
    after = after.assign(delay=-after.delay)
    parts = {"holdout": timedelta(days=20), "calibration": timedelta(days=10)}
    return (
        training_set(folder / "before", model=model("refit"), frame=before, **parts),
        training_set(folder / "after", model=model("refit"), frame=after, **parts),
    )


def held_against_its_control(sets, tmp_path, update, **more):
    """The report of an update that goes on from the first set, on the second."""
    wanted = model(update, control={"tolerance": 0.02}, **more)
    fit(wanted, sets[0], tmp_path / "champion")
    went_on = fit(wanted, sets[1], tmp_path / "update", tmp_path / "champion")
    control = fit(wanted, sets[1], tmp_path / "control")
    assert (went_on.parent, control.parent) == (read_info(tmp_path / "champion").identity.digest, "")
    places = (sets[1], tmp_path / "update", tmp_path / "champion", "1", tmp_path / "report", tmp_path / "control")
    return evaluate(wanted, *places)


def outcomes(report):
    return {check.name: check.verdict.outcome for check in report.checks}


def test_an_estimator_that_is_kept_while_the_world_turns_beats_the_champion_and_is_rejected_by_its_control(
    turned, tmp_path
):
    report = held_against_its_control(turned, tmp_path, "recalibrate")
    assert (outcomes(report)["champion"], outcomes(report)["control"]) == ("pass", "fail")
    assert report.verdict.outcome == "fail"


def test_an_update_that_follows_the_world_passes_its_control(turned, tmp_path):
    report = held_against_its_control(turned, tmp_path, "partial-fit", passes=20)
    assert (outcomes(report)["champion"], outcomes(report)["control"]) == ("pass", "pass")
    assert report.verdict.outcome == "pass"


def test_the_report_says_what_the_update_and_its_control_lose_on_the_same_rows(turned, tmp_path):
    report = held_against_its_control(turned, tmp_path, "recalibrate")
    reason = next(check.verdict.reason for check in report.checks if check.name == "control")
    held_out = split(*training_sets.read(turned[1])).holdout
    losses = []
    for name in ("update", "control"):
        bundle = Bundle.load(tmp_path / name)
        p, y = bundle.predict(bundle.columns(held_out)), held_out.late.to_numpy()
        losses.append(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))
    assert reason.startswith("log_loss {:.4f} vs control {:.4f}, ".format(*losses))
    assert float(reason.partition("margin ")[2].partition(",")[0]) == pytest.approx(-0.02 * losses[1], rel=1e-4)


def test_without_a_control_there_is_no_such_check(turned, tmp_path):
    first = fit(model("recalibrate"), turned[0], tmp_path / "champion")
    fit(model("recalibrate"), turned[1], tmp_path / "update", tmp_path / "champion")
    places = (turned[1], tmp_path / "update", tmp_path / "champion", "1", tmp_path / "report")
    assert "control" not in outcomes(evaluate(model("recalibrate"), *places))
    assert first.parent == ""
