"""Fit a model, unless one of the same identity exists."""

from __future__ import annotations

from pathlib import Path

from evergrow.contracts import TrainingSet
from evergrow.environment import Environment
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.journal import note, step
from evergrow.learning.identity import identify
from evergrow.spec import parse


@step
def main(spec: str, training_set: str, model: str) -> str:
    """Write the bundle of the document's model, fitted on `training_set`, into `model`; returns its identity.

    The registry is asked first: a model of the same identity is fetched, and not fitted again.
    """
    document = parse(spec)
    about = TrainingSet.model_validate_json((Path(training_set) / "training_set.json").read_text(encoding="utf-8"))
    identity = identify(document, about).digest
    registry = MlflowRegistry(Environment.read())
    known = registry.find(document.name, identity)
    if known is not None:
        registry.fetch(known, Path(model))
        note("train", f"identity {identity[:12]} is version {known.version}: fetched, not trained again")
        return identity
    from evergrow.learning.fit import fit

    trained = fit(document, Path(training_set), Path(model))
    note("train", f"{trained.rows:,} rows, {trained.backend}, identity {identity[:12]}")
    return identity
