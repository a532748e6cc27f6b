"""Bring online what a model's features were at an instant."""

from __future__ import annotations

from collections.abc import Mapping

from evergrow.contracts import instant
from evergrow.environment import Environment
from evergrow.integrations.object_store import fetch, mirrored
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.spec import parse


@step
@metered("data")
def main(spec: str, as_of: str) -> Mapping[str, int]:
    """Make the online values of the document's feature service those of `as_of`; returns rows written per view.

    Running it again after it was cut off goes on where it was. On one machine an `as_of` before the last one takes
    the values back, as trying out the past needs it; elsewhere a run that comes late must not undo a newer one.

    Raises:
        FeatureStoreError: the service is not declared, a store cannot be reached, or `as_of` is before the last one.
    """
    from evergrow.integrations.feast import FeastStore

    document, environment = parse(spec), Environment.read()
    service = document.spec.features.service
    fetch(environment, f"data/{document.name}")
    store = FeastStore(environment)
    store.apply()
    earlier = environment.name == "local"
    with mirrored(environment, "features/materialized") as publish:
        written = store.materialize(service, instant(as_of), allow_earlier=earlier, planned=publish)
    rows = ", ".join(f"{view} {count:,}" for view, count in written.items())
    note("materialize", f"{service} as of {as_of}; rows that changed: {rows}")
    return written
