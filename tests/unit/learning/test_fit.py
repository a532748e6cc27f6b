import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evergrow.contracts import TrainedModel
from evergrow.data import training_set as training_sets
from evergrow.errors import DataError, NotEnoughData, RequestError, ServingError, SpecError
from evergrow.importing import load_object
from evergrow.learning.bundle import Bundle, _load_pyfunc, bundle_digest
from evergrow.learning.fit import fit
from evergrow.learning.parts import split
from evergrow.learning.search import read_trials
from tests.builders import document, rows, training_set

ROOT = Path(__file__).parents[3]
ESTIMATORS = "tests.example_model.estimator"


def fitted(folder, model, **data):
    training = training_set(folder / "training_set", model=model, **data)
    fit(model, training, folder / "bundle")
    return Bundle.load(folder / "bundle")


def test_a_bundle_scores_as_the_estimator_fitted_by_hand_on_the_same_rows(tmp_path):
    model = document()
    bundle = fitted(tmp_path, model)
    about, frame = training_sets.read(tmp_path / "training_set")
    cut = split(about, frame, calibrates=False)
    estimator = load_object(f"{ESTIMATORS}:boosted")(random_state=0)
    estimator.fit(bundle.columns(cut.fit), cut.fit.late)
    X = bundle.columns(cut.holdout)
    np.testing.assert_allclose(bundle.predict(X), estimator.predict_proba(X)[:, 1], atol=1e-6)


@pytest.mark.parametrize("estimator", ["boosted", "logistic"])
def test_a_conversion_that_is_proved_equal_is_served_by_onnx(tmp_path, estimator):
    bundle = fitted(tmp_path, document(estimator=f"{ESTIMATORS}:{estimator}"))
    assert bundle.info.backend == "onnx"
    assert "ONNX differs from scikit-learn by up to" in bundle.info.backend_reason
    assert (tmp_path / "bundle/model.onnx").exists()


def test_a_conversion_that_answers_differently_is_refused_with_the_difference(tmp_path, monkeypatch):
    # skl2onnx before a fix converts splits on categories into splits on numbers, without complaint.
    from evergrow.learning import onnx_conversion

    convert = onnx_conversion.convert
    other = load_object(f"{ESTIMATORS}:boosted")(max_iter=3)
    X = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    other.fit(X, X[:, 0] > 0)
    monkeypatch.setattr(onnx_conversion, "convert", lambda estimator, *rest: convert(other, *rest))
    bundle = fitted(tmp_path, document())
    assert bundle.info.backend == "scikit-learn"
    assert "ONNX differs from scikit-learn" in bundle.info.backend_reason
    assert not (tmp_path / "bundle/model.onnx").exists()


def test_an_estimator_without_a_conversion_is_served_by_scikit_learn(tmp_path):
    bundle = fitted(tmp_path, document(estimator=f"{ESTIMATORS}:blind"))
    assert bundle.info.backend == "scikit-learn"
    assert "no ONNX" in bundle.info.backend_reason
    assert bundle.info.package == "tests.example_model"
    assert bundle.predict(np.zeros((2, 3), np.float32)) == pytest.approx([bundle.info.prior] * 2)


def test_a_regression_is_fitted_on_numbers(tmp_path):
    bundle = fitted(tmp_path, document(task="regression", estimator=f"{ESTIMATORS}:boosted_regressor"))
    about, frame = training_sets.read(tmp_path / "training_set")
    holdout = split(about, frame).holdout
    scores = bundle.predict(bundle.columns(holdout))
    assert bundle.info.backend == "onnx"
    assert np.corrcoef(scores, holdout.minutes)[0, 1] > 0.4


@pytest.mark.parametrize("kind", ["sigmoid", "isotonic"])
def test_a_calibrated_bundle_is_calibrated_on_rows_that_were_not_fitted_on(tmp_path, kind):
    bundle = fitted(tmp_path, document(training={"calibration": kind}))
    about, frame = training_sets.read(tmp_path / "training_set")
    assert bundle.info.trained_on[1] < about.calibration_from
    assert bundle.info.calibration["kind"] == kind
    calibration = split(about, frame).calibration
    # Both kinds keep the mean of the rows they were fitted on, up to Platt's smoothing.
    assert bundle.predict(bundle.columns(calibration)).mean() == pytest.approx(calibration.late.mean(), abs=0.01)


def test_golden_rows_hold_missing_values_and_unseen_levels_and_are_answered_right(tmp_path):
    bundle = fitted(tmp_path, document())
    *_, unseen, nothing = bundle.golden.features
    assert unseen["origin"] == "never fitted on"
    assert set(nothing.values()) == {None}
    assert bundle.check() <= bundle.golden.tolerance


def test_a_bundle_whose_golden_rows_are_answered_wrongly_says_by_how_much(tmp_path):
    bundle = fitted(tmp_path, document())
    golden = json.loads((tmp_path / "bundle/golden.json").read_text())
    golden["scores"][0] += 0.1
    (tmp_path / "bundle/golden.json").write_text(json.dumps(golden))
    with pytest.raises(ServingError, match=r"golden rows are off by 1\.00e-01"):
        Bundle.load(bundle.path).check()


@pytest.mark.slow
def test_the_same_identity_gives_the_same_bytes_in_any_process(tmp_path):
    training_set(tmp_path / "training_set")
    code = (
        "import sys; from pathlib import Path; from tests.builders import document\n"
        "from evergrow.learning.fit import fit; from evergrow.learning.bundle import bundle_digest\n"
        "space = {'learning_rate': {'low': 0.05, 'high': 0.5}}\n"
        "for name, more in (('boosted', {'calibration': 'isotonic', 'search': {'trials': 2, 'space': space}}),\n"
        "                   ('boosted_on_categories', {}), ('forest', {}), ('logistic', {'calibration': 'sigmoid'}),\n"
        "                   ('boosted', {'selection': {'keep': 2}})):\n"
        "    model = document(estimator='tests.example_model.estimator:' + name, training=more)\n"
        "    out = Path(sys.argv[2]) / f'{name}-{len(more)}'\n"
        "    fit(model, Path(sys.argv[1]), out)\n"
        "    print(name, bundle_digest(out))\n"
    )

    def run(seed, threads):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
        }
        arguments = [sys.executable, "-c", code, str(tmp_path / "training_set"), str(tmp_path / f"out{seed}")]
        return subprocess.run(arguments, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    first = run("1", "1")
    assert first.count("\n") == 5
    assert first == run("2", "2")


def test_a_process_that_has_not_loaded_the_estimators_libraries_yet_fits_on_one_thread_too():
    code = (
        "import sys; import numpy as np; from tests.builders import document\n"
        "from evergrow.learning.learn import Rows, learn\n"
        "assert 'sklearn' not in sys.modules\n"
        "training = document(estimator='tests.example_model.estimator:threads').spec.training\n"
        "rows = Rows(np.zeros((4, 3), np.float32), np.array([0.0, 1.0, 0.0, 1.0]))\n"
        "print(learn(training, 'binary-classification', 'log_loss', rows, None).estimator.threads_)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "1\n"


def test_another_seed_gives_other_bytes(tmp_path):
    training = training_set(tmp_path / "training_set")
    for seed in (1, 2):
        fit(document(training={"seed": seed}), training, tmp_path / str(seed))
    assert bundle_digest(tmp_path / "1") != bundle_digest(tmp_path / "2")


@pytest.mark.parametrize("name", ["bundle.json", "model.skops", "model.onnx", "golden.json", "background.npy"])
def test_a_change_of_any_file_changes_the_digest(tmp_path, name):
    bundle = fitted(tmp_path, document())
    before = bundle_digest(bundle.path)
    (bundle.path / "search.json").write_text("[]")
    assert bundle_digest(bundle.path) == before
    with (bundle.path / name).open("ab") as file:
        file.write(b" ")
    assert bundle_digest(bundle.path) != before


@pytest.mark.parametrize("name", ["bundle.json", "model.onnx"])
def test_a_bundle_that_lacks_a_file_is_no_bundle(tmp_path, name):
    bundle = fitted(tmp_path, document())
    (bundle.path / name).unlink()
    with pytest.raises(ServingError, match="is no whole bundle"):
        Bundle.load(bundle.path)


def test_a_broken_onnx_file_is_a_serving_error(tmp_path):
    bundle = fitted(tmp_path, document())
    (bundle.path / "model.onnx").write_bytes(b"broken")
    with pytest.raises(ServingError, match=r"model\.onnx cannot be opened"):
        Bundle.load(bundle.path)


def test_explanations_sum_to_the_score_less_the_base_score(tmp_path):
    bundle = fitted(tmp_path, document(training={"calibration": "sigmoid"}))
    X = bundle.vector([{"wind": 30.0, "delay": 20.0, "origin": "LGA"}, {}])
    values = bundle.explain(X)
    np.testing.assert_allclose(values.sum(axis=1), bundle.predict(X) - bundle.base_score, atol=1e-9)
    assert (values[0] > 0).all()  # strong wind, a late plane and LGA all speak for a delay


def test_mlflow_loads_a_bundle_by_its_loader_and_gets_probabilities(tmp_path):
    import mlflow.pyfunc

    bundle = fitted(tmp_path, document())
    mlflow.pyfunc.save_model(
        tmp_path / "logged",
        loader_module="evergrow.learning.bundle",
        data_path=str(bundle.path),
        pip_requirements=list(bundle.info.requirements),
    )
    frame = rows(days=2)[["origin", "delay", "wind"]]
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "logged"))
    assert (loaded.predict(frame) == bundle.predict(bundle.columns(frame))).all()
    assert (_load_pyfunc(str(bundle.path)).predict(frame) == loaded.predict(frame)).all()


def test_loading_and_predicting_imports_neither_pandas_nor_scikit_learn(tmp_path):
    bundle = fitted(tmp_path, document())
    code = (
        "import sys; from pathlib import Path; from evergrow.learning.bundle import Bundle\n"
        f"bundle = Bundle.load(Path({str(bundle.path)!r})); bundle.check(); bundle.explain(bundle.vector([{{}}]))\n"
        "heavy = {'pandas', 'sklearn', 'scipy', 'skops', 'mlflow', 'feast', 'kfp', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_one_score_is_the_same_alone_and_in_a_batch(tmp_path):
    bundle = fitted(tmp_path, document())
    X = bundle.columns(rows(days=3))
    np.testing.assert_allclose(np.concatenate([bundle.predict(x[None]) for x in X]), bundle.predict(X), atol=1e-7)
    assert bundle.predict(X[:0]).shape == (0,)


def test_a_wrong_request_value_names_feature_and_row(tmp_path):
    with pytest.raises(RequestError, match="feature `wind` of row 0"):
        fitted(tmp_path, document()).vector([{"wind": "strong"}])


def test_a_search_takes_the_best_trial_and_keeps_all(tmp_path):
    space = {"max_iter": {"low": 1, "high": 30, "integer": True}}
    bundle = fitted(tmp_path, document(training={"search": {"trials": 4, "space": space}}))
    trials = read_trials(bundle.path)
    best = min(trials, key=lambda trial: trial.loss)
    assert len(trials) == 4
    estimator = {"entrypoint": f"{ESTIMATORS}:boosted", "parameters": best.parameters}
    by_hand = document(training={"estimator": estimator, "calibration": "sigmoid"})  # holds the same rows back
    fit(by_hand, tmp_path / "training_set", tmp_path / "by_hand")
    assert (tmp_path / "by_hand/model.skops").read_bytes() == (bundle.path / "model.skops").read_bytes()


@pytest.mark.parametrize(
    ("training", "error", "message"),
    [
        ({"estimator": {"entrypoint": f"{ESTIMATORS}:logistic_without_imputer"}}, SpecError, "fitting failed.*NaN"),
        ({"estimator": {"entrypoint": f"{ESTIMATORS}:nothing"}}, SpecError, "has no 'nothing'"),
        (
            {"estimator": {"entrypoint": f"{ESTIMATORS}:regressor"}},
            SpecError,
            "must give an estimator with `predict_proba`",
        ),
        (
            {"estimator": {"entrypoint": f"{ESTIMATORS}:logistic", "parameters": {"depth": 3}}},
            SpecError,
            r"spec\.training\.estimator\.parameters: .* refuses them: .*'depth'",
        ),
    ],
)
def test_an_estimator_that_cannot_be_fitted_is_a_spec_error(tmp_path, training, error, message):
    with pytest.raises(error, match=message):
        fitted(tmp_path, document(training=training))


def test_an_estimator_that_cannot_answer_missing_values_is_refused_even_if_none_were_fitted_on(tmp_path):
    model = document(estimator=f"{ESTIMATORS}:logistic_without_imputer")
    with pytest.raises(SpecError, match="must answer rows with missing features"):
        fitted(tmp_path, model, frame=rows().dropna())


def test_too_little_data_says_which_part_lacks_it(tmp_path):
    with pytest.raises(NotEnoughData, match="rows to fit on: needs at least 2"):
        fitted(tmp_path, document(), frame=rows(days=20))


def test_a_feature_of_the_wrong_type_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="training set: feature `wind`"):
        fitted(tmp_path, document(), frame=rows().assign(wind="strong"))


def test_what_is_returned_is_what_the_bundle_says_of_itself(tmp_path):
    training = training_set(tmp_path / "training_set")
    info = fit(document(), training, tmp_path / "bundle")
    assert TrainedModel.model_validate_json((tmp_path / "bundle/bundle.json").read_text()) == info
    assert info.categories == {"origin": ("EWR", "JFK", "LGA")}
    assert any(r.startswith("onnxruntime==") for r in info.requirements)
