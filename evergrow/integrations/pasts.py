"""Pasts for backtests: a model's own, by its source and feature store, or one of a simulated world."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from evergrow.backtest.past import ABOUT, Past
from evergrow.backtest.tasks import PAST
from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT, digest
from evergrow.data.ingest import Progress, ingest, source_of
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.errors import SpecError
from evergrow.learning.identity import code_digest, place_of, source_digest
from evergrow.simulation.worlds import LABEL, TRUTH, World, draw
from evergrow.spec import ContinualModel

SHORT = 16
"""Digits of a digest that name a folder."""


def own_past(
    document: ContinualModel, environment: Environment, as_of: datetime, late: timedelta, told: Progress
) -> Path:
    """The folder of a model's past: its rows up to an instant, with their features as of each.

    Args:
        document: of the model.
        environment: whose lake and feature store are read; the lake is brought up to the instant.
        as_of: nothing that became known later is in it.
        late: labels became known so much later than they did.
        told: is told of progress.

    Raises:
        SpecError: the document names a source that does not exist.
        DataError: the source's rows are refused.
        FeatureStoreError: features cannot be joined.
    """
    from evergrow.integrations.feast import FeastStore

    spec, lake = document.spec, Lake(environment.data(document.name))
    ingested = ingest(source_of(spec.source), lake, as_of, told)
    store = FeastStore(environment)
    store.apply()
    key = digest(
        [ingested.digest, store.digest(spec.features.service), spec.label.column, late.total_seconds(), _code(document)]
    )
    folder = environment.backtests(document.name) / key[:SHORT]
    if not (folder / PAST / ABOUT).exists():
        examples = lake.read("examples")
        told(f"joining {len(examples):,} examples with their features")
        rows = store.history(spec.features.service, examples)
        features = [name for name in rows.columns if name not in examples.columns]
        Past.of(spec.task, spec.label.column, features, rows, late).save(folder / PAST)
    return folder


def simulated_past(document: ContinualModel, environment: Environment, world: World, late: timedelta) -> Path:
    """The folder of the past of a simulated world, in which the document's estimator is tried.

    Raises:
        SpecError: the document is for another task.
    """
    if document.spec.task != "binary-classification":
        raise SpecError(f"--world: is a binary classification, and {document.name} a {document.spec.task}")
    key = digest([world.dump(), late.total_seconds(), _code(document)])
    folder = environment.backtests(document.name) / f"world-{key[:SHORT]}"
    if not (folder / PAST / ABOUT).exists():
        rows = draw(world).drop(columns=TRUTH)
        features = [name for name in rows.columns if name not in (EVENT_TIMESTAMP, KNOWN_AT, LABEL)]
        Past.of("binary-classification", LABEL, features, rows, late).save(folder / PAST)
    return folder


def _code(document: ContinualModel) -> list[str]:
    """What work that is kept was done by: ours, the estimator's own folder, and libraries. Another does it anew."""
    return [code_digest(document), source_digest(place_of("evergrow"))]
