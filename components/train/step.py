"""Fit a model, unless one of the same identity exists; and fetch the champion it will be judged against."""

from __future__ import annotations

from pathlib import Path

from evergrow.contracts import ModelVersion, TrainingSet
from evergrow.environment import Environment
from evergrow.integrations.mlflow import CHAMPION, MlflowRegistry
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.learning.identity import identify
from evergrow.ports import ModelRegistry
from evergrow.rivals import Rivals
from evergrow.spec import ContinualModel, parse


@step
@metered("training")
def main(spec: str, training_set: str, model: str, rivals: str) -> str:
    """Write the bundle of the document's model, fitted on `training_set`, into `model`; returns its identity.

    The registry is asked first, and once for the whole run: a model of the same identity is fetched and not fitted
    again, and `rivals` gets what the model is judged against.
    """
    document = parse(spec)
    about = TrainingSet.model_validate_json((Path(training_set) / "training_set.json").read_text(encoding="utf-8"))
    identity = identify(document, about).digest
    registry = MlflowRegistry(Environment.read())
    known = registry.find(document.name, identity)
    _fetch_rivals(registry, document, known, Rivals(Path(rivals)))
    if known is not None:
        registry.fetch(known, Path(model))
        note("train", f"identity {identity[:12]} is version {known.version}: fetched, not trained again")
        return identity
    from evergrow.learning.fit import fit

    trained = fit(document, Path(training_set), Path(model))
    note("train", f"{trained.rows:,} rows, {trained.backend}, identity {identity[:12]}")
    return identity


def _fetch_rivals(registry: ModelRegistry, document: ContinualModel, known: ModelVersion | None, to: Rivals) -> None:
    to.path.mkdir(parents=True, exist_ok=True)
    champion = registry.resolve(document.name, CHAMPION)
    if champion is not None:
        to.write("champion", champion)
        registry.fetch(champion, to.bundle)
    if known is not None:
        to.write("known", known)
        registry.evaluation(known, to.evaluation)
