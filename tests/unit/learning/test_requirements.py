import importlib.metadata

import pytest

from evergrow.contracts import TrainedModel
from evergrow.errors import ServingError
from evergrow.learning.fit import _requirements
from evergrow.learning.requirements import ANY_VERSION, Mismatch, check, mismatches
from tests.unit.integrations.builders import make_bundle

ONNX = {"numpy": "2.4.6", "pydantic": "2.14.4", "onnxruntime": "1.26.0"}
SCIKIT_LEARN = {"numpy": "2.4.6", "scikit-learn": "1.9.1", "skops": "0.16.0", "threadpoolctl": "3.8.0"}


def pins(versions):
    return [f"{name}=={version}" for name, version in versions.items()]


def trained(tmp_path, requirements):
    info = TrainedModel.model_validate_json((make_bundle(tmp_path / "bundle") / "bundle.json").read_bytes())
    return info.model_copy(update={"requirements": tuple(requirements)})


@pytest.mark.parametrize("versions", [ONNX, SCIKIT_LEARN])
def test_the_versions_that_a_bundle_was_made_with_meet_its_requirements(versions):
    assert mismatches(pins(versions), versions.get) == []


@pytest.mark.parametrize("name", ["numpy", "onnxruntime"])
def test_an_onnx_bundle_needs_the_very_versions_of_what_computes_its_scores(name):
    assert mismatches(pins(ONNX), {**ONNX, name: "1.0"}.get) == [Mismatch(name, ONNX[name], "1.0")]


@pytest.mark.parametrize("name", ["numpy", "scikit-learn", "skops"])
def test_a_scikit_learn_bundle_needs_the_very_versions_of_what_computes_its_scores(name):
    assert mismatches(pins(SCIKIT_LEARN), {**SCIKIT_LEARN, name: "1.0"}.get) == [
        Mismatch(name, SCIKIT_LEARN[name], "1.0")
    ]


@pytest.mark.parametrize("name", sorted(ANY_VERSION))
def test_what_no_score_depends_on_may_have_another_version_but_must_be_there(name):
    assert mismatches([f"{name}==3.0"], {name: "3.1"}.get) == []
    assert mismatches([f"{name}==3.0"], {}.get) == [Mismatch(name, "3.0", None)]


def test_a_patch_release_later_is_another_version():
    assert mismatches(["numpy==2.4.6"], {"numpy": "2.4.7"}.get) == [Mismatch("numpy", "2.4.6", "2.4.7")]


def test_what_is_installed_beside_the_requirements_does_not_matter():
    assert mismatches(pins(ONNX), {**ONNX, "scikit-learn": "0.1"}.get) == []


@pytest.mark.parametrize("written", ["scikit_learn==1.9.1", "Scikit.Learn==1.9.1", " scikit-learn==1.9.1 "])
def test_a_name_may_be_written_in_any_of_the_ways_that_mean_the_same(written):
    assert mismatches([written], {"scikit-learn": "1.9.1"}.get) == []
    assert mismatches([written], {"scikit-learn": "1.9.0"}.get) == [Mismatch("scikit-learn", "1.9.1", "1.9.0")]


@pytest.mark.parametrize(
    "written", ["numpy", "numpy>=2", "numpy==", "numpy==2.*", "numpy==2.4.6; python_version<'4'", "==1", "-r more.txt"]
)
def test_a_requirement_that_is_no_pin_is_refused(written):
    with pytest.raises(ServingError) as error:
        mismatches([written], ONNX.get)
    assert str(error.value) == f"requirements: each must be name==version, found {written!r}"


@pytest.mark.parametrize("onnx", [True, False])
def test_a_bundle_made_here_can_be_served_here(onnx):
    assert mismatches(_requirements(onnx=onnx)) == []
    assert {p.partition("==")[0] for p in _requirements(onnx=onnx)} - ANY_VERSION == (
        {"numpy", "onnxruntime"} if onnx else {"numpy", "scikit-learn", "skops"}
    )


def test_this_process_is_asked_unless_another_place_is_named():
    here = importlib.metadata.version("numpy")
    assert mismatches([f"numpy=={here}"]) == []
    assert mismatches(["numpy==0.1", "no-such-package==1"]) == [
        Mismatch("numpy", "0.1", here),
        Mismatch("no-such-package", "1", None),
    ]


def test_a_refusal_names_the_model_and_every_mismatch_with_both_versions(tmp_path):
    with pytest.raises(ServingError) as error:
        check(trained(tmp_path, pins(SCIKIT_LEARN)), {"numpy": "2.5.5", "skops": "0.16.0", "threadpoolctl": "3"}.get)
    assert str(error.value) == (
        "bikes: numpy 2.4.6 is required, 2.5.5 is installed; scikit-learn 1.9.1 is required, none is installed"
    )
    assert "components.build server --bundle" in error.value.hint


def test_a_model_whose_requirements_are_met_is_not_refused(tmp_path):
    check(trained(tmp_path, pins(SCIKIT_LEARN)), SCIKIT_LEARN.get)
