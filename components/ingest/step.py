"""Bring a model's lake up to an instant."""

from __future__ import annotations

from pathlib import Path

from evergrow.contracts import instant
from evergrow.data.ingest import ingest, source_of
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.integrations.object_store import mirrored
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.spec import parse


@step
@metered("data")
def main(spec: str, as_of: str, snapshot: str) -> str:
    """Ingest what the document's source knows up to `as_of`; writes the report to `snapshot`, returns its digest."""
    document = parse(spec)
    source = source_of(document.spec.source)
    environment = Environment.read()
    with mirrored(environment, f"data/{document.name}"):
        lake = Lake(environment.data(document.name))
        report = ingest(source, lake, instant(as_of), lambda text: note("ingest", text, passing=True))
    refused = sum(table.quarantined for table in report.tables)
    note("ingest", f"{report.kept:,} new rows, {refused:,} quarantined")
    for table in report.tables:
        if table.quarantine:
            note(
                "ingest", f"{table.table}: {table.quarantined:,} rows refused, each with its reason: {table.quarantine}"
            )
        for told in table.unseen:
            note("ingest", told, data=[told.partition(" not seen before: ")[2]])
    Path(snapshot).parent.mkdir(parents=True, exist_ok=True)
    Path(snapshot).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    return report.digest
