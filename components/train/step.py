"""Fit a model, unless one of the same identity exists; and fetch the champion it will be judged against."""

from __future__ import annotations

from pathlib import Path

from evergrow.contracts import ModelVersion, TrainingSet
from evergrow.environment import Environment
from evergrow.integrations.mlflow import CHAMPION, MlflowRegistry
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.learning.fit import fit, goes_on, read_info
from evergrow.learning.identity import identify
from evergrow.ports import ModelRegistry
from evergrow.rivals import Rivals
from evergrow.spec import ContinualModel, parse


@step
@metered("training")
def main(spec: str, training_set: str, model: str, rivals: str) -> str:
    """Write the bundle of the document's model, fitted on `training_set`, into `model`; returns its identity.

    The registry is asked first, and once for the whole run: a model of the same identity is fetched and not fitted
    again, and `rivals` gets what the model is judged against: the champion and, of an update that has one, the control.
    """
    document = parse(spec)
    about = TrainingSet.model_validate_json((Path(training_set) / "training_set.json").read_text(encoding="utf-8"))
    registry, judged_against = MlflowRegistry(Environment.read()), Rivals(Path(rivals))
    _fetch_champion(registry, document, judged_against)
    ancestor = _ancestor(registry, document, about, judged_against)
    identity = identify(document, about, read_info(ancestor).identity.digest if ancestor else "").digest
    known = registry.find(document.name, identity)
    _fetch_known(registry, known, judged_against)
    if ancestor is not None and document.spec.training.update.control is not None:
        control = fit(document, Path(training_set), judged_against.control)  # going on from nothing, it is a refit
        note("train", f"a control was fitted on {control.rows:,} rows")
    if known is not None:
        registry.fetch(known, Path(model))
        note("train", f"identity {identity[:12]} is version {known.version}: fetched, not trained again")
        return identity
    trained = fit(document, Path(training_set), Path(model), ancestor)
    went_on = f", gone on from identity {trained.parent[:12]}" if trained.parent else ""
    count = len(trained.features)
    kept = f", {count - len(trained.left_out)} of {count} features" if trained.left_out else ""
    note("train", f"{trained.rows:,} rows{kept}, {trained.backend}, identity {identity[:12]}{went_on}")
    return identity


def _fetch_champion(registry: ModelRegistry, document: ContinualModel, to: Rivals) -> None:
    to.path.mkdir(parents=True, exist_ok=True)
    champion = registry.resolve(document.name, CHAMPION)
    if champion is not None:
        to.write("champion", champion)
        registry.fetch(champion, to.bundle)


def _ancestor(registry: ModelRegistry, document: ContinualModel, about: TrainingSet, rivals: Rivals) -> Path | None:
    """The bundle that an update goes on from: the champion's, unless that was trained as of then or later.

    Then it is what the champion went on from: the same training again goes on from the same model.
    """
    found: Path | None = rivals.bundle if rivals.read("champion") is not None else None
    while found is not None and read_info(found).as_of >= about.as_of:
        before = registry.find(document.name, read_info(found).parent) if read_info(found).parent else None
        found = registry.fetch(before, rivals.path / before.identity[:12]) if before is not None else None
    return found if found is not None and goes_on(document, about, read_info(found)) else None


def _fetch_known(registry: ModelRegistry, known: ModelVersion | None, to: Rivals) -> None:
    if known is not None:
        to.write("known", known)
        registry.evaluation(known, to.evaluation)
