"""Batch scoring: fix what is scored and by which version, score it in shards, and mark the whole complete.

`<home>/predictions/<model>/as_of=<instant>/` holds one `part-<shard>.parquet` a shard, and `_SUCCESS` once every
planned row is there exactly once. Whatever is killed, running the pipeline again gives the same bytes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd

from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT, Value, instant
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.errors import DataError, PipelineError, RegistryError
from evergrow.integrations.object_store import copy_all_here, copy_here, fetch, publish, withdraw
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.learning.bundle import Bundle, bundle_digest
from evergrow.spec import ContinualModel, parse

SUCCESS = "_SUCCESS"
# Where the prediction instant of a row is kept while its features are joined as of an earlier one.
ASKED = "asked_at"


class Plan(Value):
    """What one run of batch scoring does; `plan.json` beside `rows.parquet` and `bundle/`."""

    model: str
    as_of: str
    version: int
    model_digest: str
    rows: int
    shards: int

    def folder(self, environment: Environment) -> Path:
        """Where the predictions go."""
        return environment.predictions(self.model) / f"as_of={instant(self.as_of):%Y-%m-%dT%H%M%SZ}"


@step
@metered("scoring")
def plan_shards(spec: str, as_of: str, plan: str) -> list[int]:
    """Write the plan: the rows to be predicted in (as_of, as_of + horizon] and the champion's bundle.

    Returns:
        The numbers of the shards.

    Raises:
        RegistryError: the model has no champion.
        DataError: there is no row to score.
    """
    from evergrow.integrations.mlflow import MlflowRegistry

    document, environment, out = parse(spec), Environment.read(), Path(plan)
    registry = MlflowRegistry(environment)
    champion = registry.resolve(document.name, "champion")
    if champion is None:
        raise RegistryError(
            f"{document.name} has no champion to score with",
            hint="`evergrow run training` makes the first model that beats the prior the champion",
        )
    bundle = registry.fetch(champion, out / "bundle")
    fetch(environment, f"data/{document.name}")
    rows = upcoming(document, Lake(environment.data(document.name)).read("examples"), as_of)
    rows.to_parquet(out / "rows.parquet", index=False)
    planned = Plan(
        model=document.name,
        as_of=as_of,
        version=champion.version,
        model_digest=bundle_digest(bundle),
        rows=len(rows),
        shards=document.spec.scoring.shards,
    )
    (out / "plan.json").write_text(planned.model_dump_json(indent=1), encoding="utf-8")
    _withdraw(planned, environment)
    note("plan_shards", f"{len(rows):,} rows for version {champion.version} in {planned.shards} shards")
    return list(range(planned.shards))


def upcoming(document: ContinualModel, examples: pd.DataFrame, as_of: str) -> pd.DataFrame:
    """Examples whose prediction instant lies in (as_of, as_of + horizon], without what is known of them only later."""
    start = pd.Timestamp(instant(as_of))
    asked = examples[EVENT_TIMESTAMP]
    rows = examples[(asked > start) & (asked <= start + document.spec.scoring.horizon)]
    if rows.empty:
        raise DataError(
            f"{document.name}: no example is to be predicted in the {document.spec.scoring.horizon} after {as_of}",
            hint=f"examples reach from {asked.min()} to {asked.max()}; give another --as-of, or ingest further",
        )
    # A label and its corrections are one prediction.
    rows = rows.drop(columns=[document.spec.label.column, KNOWN_AT], errors="ignore").drop_duplicates()
    return rows.sort_values(list(rows.columns), kind="stable").reset_index(drop=True)


def _withdraw(plan: Plan, environment: Environment) -> None:
    """Predictions that another plan made are no longer complete from the moment parts are replaced."""
    folder = plan.folder(environment)
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / SUCCESS
    copy_here(environment, marker)
    if marker.exists() and json.loads(marker.read_text(encoding="utf-8"))["plan"] != plan.model_dump(mode="json"):
        withdraw(environment, marker)


def shard_of(rows: pd.DataFrame, shards: int) -> pd.Series[int]:
    """Which shard each row belongs to: a hash of all its columns, the same on every machine."""
    return pd.Series(pd.util.hash_pandas_object(rows, index=False).to_numpy() % shards, index=rows.index)


@step
@metered("scoring")
def score(spec: str, shard: int, plan: str) -> int:
    """Score the rows of one shard, knowing what was known as of the plan's instant; returns how many.

    The part is written aside and renamed: it is the old one or the new one, whole.
    """
    from evergrow.integrations.feast import FeastStore

    document, environment = parse(spec), Environment.read()
    planned = _read(plan)
    rows = pd.read_parquet(Path(plan) / "rows.parquet")
    rows = rows[shard_of(rows, planned.shards) == shard].reset_index(drop=True)
    known = rows.rename(columns={EVENT_TIMESTAMP: ASKED}).assign(
        **{EVENT_TIMESTAMP: pd.Timestamp(instant(planned.as_of))}
    )
    fetch(environment, f"data/{document.name}")
    features = FeastStore(environment).history(document.spec.features.service, known)
    part = predict(Bundle.load(Path(plan) / "bundle"), rows, features, planned)
    path = planned.folder(environment) / f"part-{shard:05d}.parquet"
    _write(path, part.to_parquet(index=False))
    publish(environment, path)
    note("score", f"shard {shard}: {len(part):,} rows")
    return len(part)


def predict(bundle: Bundle, rows: pd.DataFrame, features: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """The rows as they were given, with the score and what made it."""
    columns = {f.name: features[f.name] for f in bundle.info.features}
    return rows.assign(
        score=bundle.predict(bundle.columns(columns)),
        version=plan.version,
        model_digest=plan.model_digest,
    )


@step
@metered("scoring")
def commit(spec: str, plan: str) -> str:
    """Mark the predictions complete; returns their folder.

    Raises:
        PipelineError: a planned row is missing, is there twice, or was scored by another version.
    """
    planned, environment = _read(plan), Environment.read()
    folder = planned.folder(environment)
    copy_all_here(environment, folder)
    names = [f"part-{shard:05d}.parquet" for shard in range(planned.shards)]
    for stray in {path.name for path in folder.glob("part-*.parquet")} - set(names):
        withdraw(environment, folder / stray)  # of an earlier run with more shards
    counts = {name: _checked(folder / name, planned) for name in names}
    if sum(counts.values()) != planned.rows:
        raise PipelineError(f"{folder}: the parts hold {sum(counts.values()):,} rows, planned were {planned.rows:,}")
    manifest = {"plan": planned.model_dump(mode="json"), "rows": planned.rows, "parts": counts}
    _write(folder / SUCCESS, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    publish(environment, folder / SUCCESS)
    note("commit", f"{planned.rows:,} predictions in {folder}")
    return str(folder)


def _checked(part: Path, plan: Plan) -> int:
    """The rows of a part, all of which the plan's version made."""
    if not part.exists():
        raise PipelineError(f"{part}: is missing", hint="run the pipeline again: it scores what is missing")
    made_by = pd.read_parquet(part, columns=["model_digest"])["model_digest"]
    if not (made_by == plan.model_digest).all():
        raise PipelineError(f"{part}: has rows of another version; two runs wrote here at once", hint="run it again")
    return len(made_by)


def _read(plan: str) -> Plan:
    return Plan.model_validate_json((Path(plan) / "plan.json").read_text(encoding="utf-8"))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def read_predictions(folder: Path) -> pd.DataFrame:
    """All predictions of a folder that is complete.

    Raises:
        DataError: it is not.
    """
    if not (folder / SUCCESS).exists():
        raise DataError(f"{folder}: has no {SUCCESS}: batch scoring has not finished", hint="run it again")
    return pd.concat([pd.read_parquet(part) for part in sorted(folder.glob("part-*.parquet"))], ignore_index=True)
