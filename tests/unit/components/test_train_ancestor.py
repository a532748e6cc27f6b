"""An update goes on from the champion; trained again as of the same instant, from what the champion went on from."""

import shutil
from datetime import timedelta

import pytest

from components.train.step import _ancestor
from evergrow.contracts import ModelVersion, TrainingSet
from evergrow.learning.fit import fit, read_info
from evergrow.rivals import Rivals
from tests.builders import START, document, training_set


class Registry:
    """Versions and their bundles, by identity."""

    def __init__(self, bundles):
        self.bundles = {read_info(path).identity.digest: path for path in bundles}

    def find(self, model, identity):
        return version(self.bundles[identity]) if identity in self.bundles else None

    def fetch(self, found, to):
        shutil.copytree(self.bundles[found.identity], to)
        return to


def version(bundle):
    identity = read_info(bundle).identity.digest
    return ModelVersion(model="delays", version=1, identity=identity, model_digest="d", run_id="r", created=START)


def model(kind):
    return document(
        estimator="tests.example_model.estimator:by_gradient", training={"update": {"kind": kind, "passes": 1}}
        if kind == "partial-fit" else {"update": {"kind": kind}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two bundles, the second of which went on from the first; and descriptions of training sets around them."""
    folder = tmp_path_factory.mktemp("ancestors")
    training_set(folder / "set", model=model("warm-start"))
    about = TrainingSet.model_validate_json((folder / "set/training_set.json").read_text())
    fit(model("warm-start"), folder / "set", folder / "first")
    later = about.model_copy(update={"as_of": about.as_of + timedelta(days=7)})
    (folder / "set/training_set.json").write_text(later.model_dump_json())
    fit(model("warm-start"), folder / "set", folder / "second", folder / "first")
    return folder, about, later


def ancestor(place, tmp_path, champion, about, kind="warm-start"):
    folder, rivals = place[0], Rivals(tmp_path / "rivals")
    rivals.path.mkdir()
    if champion:
        rivals.write("champion", version(folder / champion))
        shutil.copytree(folder / champion, rivals.bundle)
    found = _ancestor(Registry([folder / "first", folder / "second"]), model(kind), about, rivals)
    return read_info(found).identity.digest if found else None


def identity(place, name):
    return read_info(place[0] / name).identity.digest


def test_without_a_champion_there_is_none(place, tmp_path):
    assert ancestor(place, tmp_path, None, place[1]) is None


def test_it_is_the_champion_that_was_trained_before(place, tmp_path):
    newest = place[2].model_copy(update={"as_of": place[2].as_of + timedelta(days=7)})
    assert ancestor(place, tmp_path, "second", newest) == identity(place, "second")


def test_of_the_same_instant_again_it_is_what_the_champion_went_on_from(place, tmp_path):
    assert ancestor(place, tmp_path, "second", place[2]) == identity(place, "first")


def test_of_the_first_training_again_there_is_none(place, tmp_path):
    assert ancestor(place, tmp_path, "first", place[1]) is None


def test_a_refit_has_none(place, tmp_path):
    assert ancestor(place, tmp_path, "first", place[2], kind="refit") is None
