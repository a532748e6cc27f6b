"""Decide what is to be done about what was seen, train again if that is due, and tell everyone who needs to know."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from evergrow import reports
from evergrow.environment import Environment
from evergrow.integrations.kubeflow import whole_kfp
from evergrow.integrations.loop_cluster import loop_of
from evergrow.integrations.mlflow_history import remember
from evergrow.integrations.object_store import publish
from evergrow.integrations.places import place_of
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.monitoring.page import render
from evergrow.monitoring.watch import Watch
from evergrow.monitoring.watch import decide as decided
from evergrow.spec import ContinualModel, parse
from evergrow.triggers.history import Look


class Metrics(Protocol):
    """What of `kfp.dsl.Metrics` is used."""

    def log_metric(self, metric: str, value: float) -> None:
        """Show one number."""
        ...


@step
@metered("monitoring")
def main(spec: str, watch: str, page: str, metrics: Metrics) -> str:
    """Decide by what is in the directory `watch`; writes decision, report and history, and returns the action."""
    document, environment = parse(spec), Environment.read()
    seen = Watch.load(Path(watch))
    decision = decided(seen)
    html = render(seen, decision, document)
    Path(page).write_text(html, encoding="utf-8")
    kept = reports.keep_watch(environment, seen, decision, html)
    for path in kept:
        publish(environment, path)
    numbers = seen.numbers()
    for name, value in numbers.items():
        metrics.log_metric(name, value)
    remember(environment, document.name, seen.as_of, numbers, decision, kept)
    note("decide", f"{decision.action}: {decision.reasons[0]}")
    retrain(environment, document, seen)
    return decision.action


def retrain(environment: Environment, document: ContinualModel, seen: Watch) -> None:
    """In an environment of a cluster, decide whether to train again, and begin that; elsewhere a loop does so."""
    place = place_of(environment)
    if place is None or not document.spec.retraining.triggers:
        return
    look = Look(seen.as_of, seen.observations)
    with whole_kfp():
        loop_of(environment, place, document, look, lambda told: note("decide", told)).tick(seen.as_of)
