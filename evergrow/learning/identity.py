"""What determines a model's bytes, as digests: known before fitting, so that nothing is fitted twice."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import evergrow.data
import evergrow.learning
from evergrow.contracts import Identity, TrainingSet, digest
from evergrow.errors import SpecError
from evergrow.spec import ContinualModel

LIBRARIES = ("numpy", "onnxruntime", "scikit-learn", "skl2onnx", "skops")
"""Whose versions shape the bytes of a fitted model."""
JUDGES = {"update": {"control"}}
"""What of a document's training judges the model and shapes none of it."""


def identify(model: ContinualModel, training_set: TrainingSet, parent: str = "") -> Identity:
    """The identity of the model that `fit` would make of these, going on from the model of identity `parent`, if any.

    Documentation, labels, gates, controls and serving options of the document are no part of it; source code of
    evergrow's fitting and of the estimator's own folder, versions of libraries, rows, features, parameters and seed
    are.
    """
    training = model.spec.training
    shaping = {
        "task": model.spec.task,
        "label": model.spec.label.column,
        "service": model.spec.features.service,
        "training": training.model_dump(mode="json", by_alias=True, exclude=JUDGES),
        "metric": model.spec.evaluation.gate.metric if training.search or training.selection else None,
        "parent": parent,
        "bounds": [training_set.as_of, training_set.calibration_from, training_set.holdout_from],
        **training_set.model_dump(mode="json", include={"set_aside"}),
    }
    parameters = digest(shaping)
    if training.search and training.search.timeout:
        parameters = f"cut-by-time:{parameters}"  # how far a search gets in a time differs from run to run
    return Identity(
        code=code_digest(model),
        data=training_set.data_digest,
        features=training_set.features_digest,
        parameters=parameters,
        seed=training.seed,
    )


def code_digest(model: ContinualModel) -> str:
    """SHA-256 of the Python sources and library versions that shape a fitted model."""
    own = own_package(model)
    sources = {m.__name__: source_digest(Path(m.__path__[0])) for m in (evergrow.data, evergrow.learning)}
    return digest(
        {
            "python": "{}.{}".format(*sys.version_info),
            "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "sources": {**sources, own: source_digest(place_of(own))},
        }
    )


def source_digest(place: Path) -> str:
    """SHA-256 of a module's file, or of the names and contents of all modules below a package's folder."""
    files, root = (place.rglob("*.py"), place) if place.is_dir() else ([place], place.parent)
    return digest({f.relative_to(root).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files})


def own_package(model: ContinualModel) -> str:
    """The package that holds the estimator: "models.arrival_delay" of "models.arrival_delay.estimator:build"."""
    return package_of(model.spec.training.estimator.entrypoint)


def package_of(entrypoint: str) -> str:
    """The package an entrypoint's module is in, or the module if it is in none.

    >>> package_of("models.tips.data:Tips")
    'models.tips'
    """
    module = entrypoint.partition(":")[0]
    return module.rpartition(".")[0] or module


def place_of(package: str) -> Path:
    """The folder of a package, or the file of a module that is in none.

    Raises:
        SpecError: it does not exist.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    places = [*(found.submodule_search_locations or ()), found.origin] if found else []
    if not places or places[0] is None:
        raise SpecError(
            f"package {package!r}, which the document names, does not exist",
            hint=f"run from the folder that holds {package.partition('.')[0]}/, or install it",
        )
    return Path(places[0])
