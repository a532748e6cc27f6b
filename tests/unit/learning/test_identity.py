import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from evergrow.contracts import TrainingSet
from evergrow.errors import SpecError
from evergrow.learning.identity import identify, own_package, source_digest
from tests.builders import document, training_set


@pytest.fixture
def about(tmp_path):
    return TrainingSet.model_validate_json((training_set(tmp_path) / "training_set.json").read_text())


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"seed": 1}},
        {"training": {"calibration": "sigmoid"}},
        {"training": {"search": {"trials": 2, "space": {"max_iter": {"low": 5, "high": 9, "integer": True}}}}},
        {"estimator": "tests.example_model.estimator:logistic"},
    ],
    ids=["seed", "calibration", "search", "estimator"],
)
def test_what_shapes_training_changes_the_identity(about, change):
    assert identify(document(**change), about).digest != identify(document(), about).digest


@pytest.mark.parametrize(
    "change",
    [
        {"gate": {"margin": 0.01}},
        {"evaluation": {"slices": []}},
        {"name": "other-name"},
    ],
    ids=["gate", "slices", "name"],
)
def test_what_only_judges_or_names_does_not(about, change):
    assert identify(document(**change), about) == identify(document(), about)


@pytest.mark.parametrize(
    "change",
    [
        {"data_digest": "other"},
        {"features_digest": "other"},
        {"calibration_from": "earlier"},
    ],
    ids=["data", "features", "bounds"],
)
def test_other_rows_features_or_bounds_change_it(about, change):
    if "calibration_from" in change:
        change = {"calibration_from": about.calibration_from - timedelta(days=1)}
    assert identify(document(), about.model_copy(update=change)).digest != identify(document(), about).digest


def test_a_search_cut_by_time_says_so(about):
    space = {"max_iter": {"low": 5, "high": 9, "integer": True}}
    timed = document(training={"search": {"trials": 2, "space": space, "timeout": "1m"}})
    assert identify(timed, about).parameters.startswith("cut-by-time:")
    counted = document(training={"search": {"trials": 2, "space": space}})
    assert "cut-by-time" not in identify(counted, about).parameters


def test_a_change_of_code_changes_the_digest_and_a_change_of_documentation_does_not(tmp_path):
    package = tmp_path / "package"
    shutil.copytree(Path(__file__).parents[2] / "example_model", package)
    before = source_digest(package)
    (package / "README.md").write_text("What it is for.")
    assert source_digest(package) == before
    (package / "helper.py").write_text("x = 1")
    assert source_digest(package) != before


def test_moved_code_changes_the_digest_and_another_checkout_does_not(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "a.py").write_text("x = 1")
    assert source_digest(tmp_path / "one") == source_digest(tmp_path / "two")
    (tmp_path / "two/a.py").rename(tmp_path / "two/sub/a.py")
    assert source_digest(tmp_path / "one") != source_digest(tmp_path / "two")


def test_the_estimators_own_package_is_the_folder_that_holds_it():
    assert own_package(document(estimator="models.tips.estimator:build")) == "models.tips"
    assert own_package(document(estimator="estimator:build")) == "estimator"


def test_a_package_that_does_not_exist_is_named(about):
    with pytest.raises(SpecError, match=r"package 'models\.nowhere', which the document names, does not exist"):
        identify(document(estimator="models.nowhere.estimator:build"), about)


def test_the_identity_is_known_without_importing_the_estimator(tmp_path):
    training_set(tmp_path)
    code = (
        "import sys; from pathlib import Path; from tests.builders import document\n"
        "from evergrow.contracts import TrainingSet; from evergrow.learning.identity import identify\n"
        f"about = TrainingSet.model_validate_json(Path({str(tmp_path / 'training_set.json')!r}).read_text())\n"
        "identify(document(), about)\n"
        "assert not {'sklearn', 'skl2onnx', 'onnxruntime'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
