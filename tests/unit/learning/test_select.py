"""Which features a model is fitted on: held against what is known of the world, and against every other choice."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge

from evergrow.data import training_set as training_sets
from evergrow.errors import SpecError
from evergrow.evaluation.card import model_card
from evergrow.evaluation.evaluate import evaluate
from evergrow.importing import load_object
from evergrow.learning.bundle import Bundle
from evergrow.learning.fit import fit
from evergrow.learning.identity import identify
from evergrow.learning.losses import row_losses
from evergrow.learning.parts import split
from evergrow.learning.select import left_out
from evergrow.spec.model import Selection
from tests.builders import document, rows, training_set


def world(seed, weights, rows=3000):
    """Rows whose label goes by these weights, and as many that are held out."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(2 * rows, len(weights))).astype(np.float32)
    y = (random.random(2 * rows) < 1 / (1 + np.exp(-X @ np.array(weights)))).astype(np.float64)
    return (X[:rows], y[:rows]), (X[rows:], y[rows:])


def kept(keep, fitting, held, metric="log_loss", estimator=LogisticRegression):
    def fitted(X):
        return estimator().fit(X, fitting[1])

    gone = left_out(Selection(keep=keep), 0, metric, fitted, fitting[0], held)
    assert len(gone) == max(0, fitting[0].shape[1] - keep)
    return sorted(set(range(fitting[0].shape[1])) - set(gone))


def loss(columns, fitting, held):
    """Mean on the held rows of what is fitted on these columns alone."""
    columns = list(columns)
    estimator = LogisticRegression().fit(fitting[0][:, columns], fitting[1])
    return row_losses("log_loss", held[1], estimator.predict_proba(held[0][:, columns])[:, 1]).mean()


@pytest.mark.parametrize("seed", range(3))
def test_the_features_that_the_label_goes_by_are_kept_of_many_that_it_does_not(seed):
    places = np.random.default_rng(seed).choice(20, 4, replace=False)
    weights = np.zeros(20)
    weights[places] = [1.5, -1.0, 0.8, -0.6]
    assert kept(4, *world(seed, weights)) == sorted(places)


def test_as_many_as_there_are_is_all_of_them():
    for keep in (3, 4, 100):
        assert kept(keep, *world(0, [1.0, 0.0, 0.0])) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_of_independent_features_no_other_choice_of_as_many_is_better(seed, keep):
    fitting, held = world(seed, [0.9, 0.6, -0.4, 0.25, 0.0])
    best = min(combinations(range(5), keep), key=lambda columns: loss(columns, fitting, held))
    assert tuple(kept(keep, fitting, held)) == best


def test_of_two_features_that_say_the_same_one_is_kept_though_neither_seems_worth_much():
    (X, y), (Z, z) = world(0, [0.9, 0.55, 0.5])
    fitting, held = ((np.column_stack([A, A[:, :1]]), b) for A, b in ((X, y), (Z, z)))
    whole = LogisticRegression().fit(*fitting)
    worth = permutation_importance(whole, *held, scoring="neg_log_loss", n_repeats=5, random_state=0).importances_mean
    assert set(np.argsort(worth)[:2]) == {0, 3}  # by one look both would go
    chosen = kept(2, fitting, held)
    assert len({0, 3} & set(chosen)) == 1
    assert loss(chosen, fitting, held) < loss([1, 2], fitting, held) - 0.02


def test_what_a_feature_was_worth_is_what_scikit_learn_says_of_it():
    fitting, held = world(1, [1.0, 0.7, 0.1])
    gone = left_out(Selection(keep=2, repeats=4), 5, "log_loss", lambda X: LogisticRegression().fit(X, fitting[1]),
                    fitting[0], held)  # fmt: skip
    theirs = permutation_importance(
        LogisticRegression().fit(*fitting), *held, scoring="neg_log_loss", n_repeats=4, random_state=5
    )
    assert gone == {2: pytest.approx(theirs.importances_mean[2], abs=1e-6)}


def test_a_loss_that_is_not_finite_is_told():
    fitting, held = world(0, [1.0, 0.0])
    with pytest.raises(SpecError, match=r"training\.selection: the mean poisson_deviance .* is not finite"):
        kept(1, (fitting[0], -fitting[1]), (held[0], -held[1]), "poisson_deviance", Ridge)


SELECTED = {"selection": {"keep": 2}}


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A bundle that was fitted on delay and wind, and not on the origin."""
    folder = tmp_path_factory.mktemp("selected")
    model = document(training=SELECTED)
    fit(model, training_set(folder / "training_set", model=model), folder / "bundle")
    return Bundle.load(folder / "bundle")


def test_a_bundle_says_what_was_left_out_and_answers_the_same_by_onnx(selected):
    assert list(selected.info.left_out) == ["origin"]
    assert 0 < selected.info.left_out["origin"] < 0.1
    assert [f.name for f in selected.info.features] == ["wind", "delay", "origin"]
    assert selected.info.backend == "onnx"
    assert selected.check() == 0.0


def test_who_selects_nothing_leaves_nothing_out_and_a_bundle_does_not_speak_of_it(tmp_path):
    fit(document(), training_set(tmp_path / "training_set"), tmp_path / "bundle")
    assert Bundle.load(tmp_path / "bundle").info.left_out == {}
    assert "left_out" not in (tmp_path / "bundle/bundle.json").read_text()


VALUES = st.none() | st.floats(-1e6, 1e6)


@settings(max_examples=30)
@given(wind=VALUES, delay=VALUES, origin=st.none() | st.sampled_from(["EWR", "JFK", "LGA"]) | st.text(max_size=3))
def test_whatever_a_feature_holds_that_was_left_out_changes_no_score(selected, wind, delay, origin):
    asked = [{"wind": wind, "delay": delay, "origin": one} for one in (origin, None)]
    first, second = selected.predict(selected.vector(asked))
    assert first == second


def test_a_feature_that_was_kept_changes_scores_and_one_left_out_explains_nothing(selected):
    asked = [{"wind": 10.0, "delay": delay, "origin": "LGA"} for delay in (-20.0, 40.0)]
    X = selected.vector(asked)
    low, high = selected.predict(X)
    assert high > low + 0.2
    explained = selected.explain(X)
    assert (explained[:, 2] == 0).all()
    assert (explained[:, 1] != 0).all()


def test_a_bundle_scores_as_the_estimator_fitted_by_hand_on_the_features_that_were_kept(tmp_path):
    model = document(estimator="tests.example_model.estimator:logistic", training=SELECTED)
    folder = training_set(tmp_path / "training_set", model=model)
    fit(model, folder, tmp_path / "bundle")
    bundle = Bundle.load(tmp_path / "bundle")
    cut = split(*training_sets.read(folder))
    estimator = load_object("tests.example_model.estimator:logistic")()
    estimator.fit(cut.fit[["wind", "delay"]].to_numpy(np.float32), cut.fit.late)
    expected = estimator.predict_proba(cut.holdout[["wind", "delay"]].to_numpy(np.float32))[:, 1]
    # Another column, of zeros, is another last step of the solver, which works in single precision.
    np.testing.assert_allclose(bundle.predict(bundle.columns(cut.holdout)), expected, atol=1e-3)


def test_an_update_keeps_what_was_left_out_of_its_ancestor_whatever_its_document_selects(tmp_path):
    estimator = "tests.example_model.estimator:by_gradient"
    ancestor = document(estimator=estimator, training=SELECTED)
    update = document(estimator=estimator, training={"update": {"kind": "partial-fit"}, "selection": {"keep": 1}})
    folder = training_set(tmp_path / "training_set", model=ancestor)
    early = training_set(tmp_path / "early", model=ancestor, frame=rows(days=90))
    fit(ancestor, early, tmp_path / "ancestor")
    went_on = fit(update, folder, tmp_path / "update", tmp_path / "ancestor")
    before = Bundle.load(tmp_path / "ancestor").info
    assert went_on.parent == before.identity.digest
    assert went_on.left_out == before.left_out != {}
    bundle = Bundle.load(tmp_path / "update")
    X = bundle.vector([{"wind": 3.0, "delay": 5.0, "origin": origin} for origin in ("LGA", "JFK")])
    assert len(set(bundle.predict(X).tolist())) == 1


def test_what_is_selected_shapes_the_identity_and_so_does_the_metric_it_goes_by(tmp_path):
    about, _ = training_sets.read(training_set(tmp_path))
    one, two, none = (document(training=t) for t in (SELECTED, {"selection": {"keep": 1}}, {}))
    other = document(training=SELECTED, gate={"metric": "brier"})
    assert len({identify(model, about).digest for model in (one, two, none, other)}) == 4
    assert identify(none, about) == identify(document(gate={"metric": "brier"}), about)


def test_a_selection_sets_rows_aside_that_nothing_is_fitted_on(selected, tmp_path):
    about, _ = training_sets.read(selected.path.with_name("training_set"))
    assert selected.info.trained_on[1] < about.calibration_from
    without = fit(document(), training_set(tmp_path / "training_set"), tmp_path / "bundle")
    assert without.trained_on[1] >= about.calibration_from


def test_the_card_says_what_was_left_out_and_what_it_was_worth(selected, tmp_path):
    model = document(training=SELECTED)
    folder = selected.path.with_name("training_set")
    report = evaluate(model, folder, selected.path, None, "none", tmp_path)
    worth = selected.info.left_out["origin"]
    assert f"shuffled: `origin` ({worth:+.2g}). What they hold" in model_card(model, selected.info, report)
    assert report.curves["importance"]["origin"] == 0
    assert "Left out" not in model_card(model, selected.info.model_copy(update={"left_out": {}}), report)
