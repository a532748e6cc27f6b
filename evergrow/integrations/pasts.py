"""Pasts for backtests: a model's own, by its source and feature store, or one of a simulated world."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd

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
    examples = known_by(lake.read("examples"), spec.label.column, as_of)
    rows_of = [ingested.digest, len(examples), str(examples[KNOWN_AT].max())]
    features_of = [store.digest(spec.features.service), spec.label.column, late.total_seconds()]
    key = digest([*rows_of, *features_of, _code(document)])
    folder = environment.backtests(document.name) / key[:SHORT]
    if not (folder / PAST / ABOUT).exists():
        told(f"joining {len(examples):,} examples with their features")
        rows = store.history(spec.features.service, examples)
        features = [name for name in rows.columns if name not in examples.columns]
        Past.of(spec.task, spec.label.column, features, rows, late).save(folder / PAST)
    return folder


def known_by(examples: pd.DataFrame, label: str, as_of: datetime) -> pd.DataFrame:
    """Examples as they were at an instant, of a lake that may have gone further: asked by then, with labels known then.

    >>> from datetime import UTC
    >>> asked = pd.to_datetime(["2024-03-01", "2024-03-02", "2024-03-04"], utc=True)
    >>> rows = pd.DataFrame({EVENT_TIMESTAMP: asked, KNOWN_AT: asked + pd.Timedelta("36h"), "y": [1.0, 2.0, 3.0]})
    >>> list(known_by(rows, "y", datetime(2024, 3, 3, tzinfo=UTC))["y"])
    [1.0, nan]
    """
    rows = examples[examples[EVENT_TIMESTAMP] <= as_of].copy()
    later = rows[KNOWN_AT] > as_of
    rows.loc[later, KNOWN_AT] = pd.NaT
    rows[label] = rows[label].mask(later)
    # A correction that was not known yet leaves the row as it was before.
    return rows.drop_duplicates(ignore_index=True)


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
