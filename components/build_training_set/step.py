"""Join labels with features as they were known, and show what came out."""

from __future__ import annotations

import json
from pathlib import Path

from evergrow.contracts import instant
from evergrow.data.ingest import IngestReport
from evergrow.data.lake import Lake
from evergrow.data.training_set import build, read
from evergrow.environment import Environment
from evergrow.integrations.feast import FeastStore
from evergrow.integrations.feast_online import plan
from evergrow.integrations.object_store import fetch
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.spec import parse


@step
@metered("training")
def main(spec: str, as_of: str, snapshot: str, training_set: str, exploration: str) -> str:
    """Write the training set as of `as_of` and its exploration page; returns the digest of its rows."""
    from evergrow.data.explore import render

    document, environment = parse(spec), Environment.read()
    ingested = IngestReport.model_validate_json(Path(snapshot).read_text(encoding="utf-8"))
    fetch(environment, f"data/{document.name}")
    store = FeastStore(environment)
    store.apply()
    examples = Lake(environment.data(document.name)).read("examples")
    about = build(document, examples, store, instant(as_of), ingested.digest, Path(training_set))
    # The plan is made here, where Feast is at hand: a version is served by the definitions it was trained on.
    online = plan(store.feast, document.spec.features.service)
    (Path(training_set) / "features.json").write_text(json.dumps(online, indent=1), encoding="utf-8")
    note(
        "build_training_set",
        f"{about.rows:,} rows, {len(about.features)} features, {about.first:%F} to {about.last:%F}",
    )
    Path(exploration).parent.mkdir(parents=True, exist_ok=True)
    Path(exploration).write_text(render(*read(Path(training_set))), encoding="utf-8")
    return about.data_digest
