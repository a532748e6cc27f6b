"""Point-in-time joins: our offline store through Feast's API, against Feast's DuckDB store and pandas by hand."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Result, cpu_of

ROWS = 336_776
"""Entity rows, and rows of each view: the flights of 2013."""
KEYS = dict.fromkeys(("tailnum", "crew", "gate", "route"), 4_043)
"""The four views' join keys, and how many of each there are: as many as planes in the flights of 2013.

Feast's store joins every row of a key with every earlier one before it picks the latest, so that its work and memory
grow with rows per key: on the flights' 16 carriers or 3 origins it runs out of 16 GB. Many keys are its best case.
"""
FEATURES = ("mean", "spread", "rows")
YEAR = 365 * 86_400 * 1_000_000
START = pd.Timestamp("2013-01-01", tz="UTC")

# A store that goes wrong must not take the machine with it.
ADDRESS_SPACE = 16 * 2**30


def main() -> int:
    """Run one arm in this process, and print what it used as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=int)
    parser.add_argument("--memory", default="2GB")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    work = ARMS[options.arm](options.folder, options.rows, options.memory)
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = time.process_time()
    count, checksum = work()
    used = time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"cpu": used, "peak": peak / 1024, "idle": idle / 1024, "rows": count, "sum": checksum}))
    return 0


# -- data --------------------------------------------------------------------------------------------------------------


def instants(random: np.random.Generator, rows: int) -> pd.DatetimeIndex:
    """`rows` microseconds of the year, not sorted; so fine that no key has two rows at one."""
    since = random.integers(0, YEAR, rows).astype("timedelta64[us]")
    return pd.DatetimeIndex(START.tz_localize(None).to_datetime64().astype("datetime64[us]") + since, tz="UTC")


def write_view(path: Path, key: str, distinct: int, rows: int, seed: int) -> None:
    """Feature rows sorted by time, each created at its event."""
    random = np.random.default_rng(seed)
    event = instants(random, rows).sort_values()
    names = pa.array([f"{key}-{i:05d}" for i in range(distinct)])
    columns: dict[str, Any] = {
        key: names.take(pa.array(random.integers(0, distinct, rows))),
        "event_timestamp": pa.array(event),
        "created_timestamp": pa.array(event),
        f"{key}_mean": random.normal(0, 10, rows),
        f"{key}_spread": random.random(rows),
        f"{key}_rows": random.integers(0, 1000, rows),
    }
    pq.write_table(pa.table(columns), path)


def write_entities(path: Path, keys: Sequence[str], rows: int) -> None:
    """Rows to be joined, in no order."""
    random = np.random.default_rng(99)
    columns: dict[str, Any] = {"row": np.arange(rows)}
    for key in keys:
        names = pa.array([f"{key}-{i:05d}" for i in range(KEYS[key])])
        columns[key] = names.take(pa.array(random.integers(0, KEYS[key], rows)))
    columns["event_timestamp"] = pa.array(instants(random, rows))
    pq.write_table(pa.table(columns), path)


def write_data(folder: Path, rows: int, keys: Sequence[str] = tuple(KEYS)) -> None:
    """One view per key and the entity rows, `rows` each."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, key in enumerate(keys):
        write_view(folder / f"{key}.parquet", key, KEYS[key], rows, seed)
    write_entities(folder / "entities.parquet", keys, rows)


# -- arms --------------------------------------------------------------------------------------------------------------

Work = Callable[[], tuple[int, float]]


def present(folder: Path) -> list[str]:
    """The keys whose views were written to `folder`."""
    return [key for key in KEYS if (folder / f"{key}.parquet").exists()]


def feature_store(folder: Path, offline: dict[str, Any]) -> tuple[Any, list[str]]:
    """A feature store over the views of `folder`, and its feature references."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64, Int64

    definitions: list[Any] = []
    for key in present(folder):
        entity = Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
        source = FileSource(
            name=key,
            path=str(folder / f"{key}.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        )
        schema = [Field(name=f"{key}_{f}", dtype=Int64 if f == "rows" else Float64) for f in FEATURES]
        definitions += [
            entity,
            FeatureView(name=f"{key}s", entities=[entity], ttl=timedelta(0), schema=schema, source=source),
        ]
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(folder / f"{offline['type'].rsplit('.')[-1]}.db"),
        online_store=None,
        offline_store=offline,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply(definitions)
    return store, [f"{key}s:{key}_{feature}" for key in present(folder) for feature in FEATURES]


def ours(memory: str) -> dict[str, Any]:
    """Our store's configuration."""
    kind = "evergrow.integrations.feast_offline.AsofOfflineStore"
    return {"type": kind, "memory_limit": memory, "threads": 1}


def through_feast(folder: Path, offline: dict[str, Any]) -> Work:
    """Join a frame through Feast's API to a table."""
    store, references = feature_store(folder, offline)
    entities = pd.read_parquet(folder / "entities.parquet")

    def work() -> tuple[int, float]:
        table = store.get_historical_features(entity_df=entities, features=references).to_arrow()
        return table.num_rows, checksum(table)

    return work


def to_file(folder: Path, offline: dict[str, Any]) -> Work:
    """Join the rows of a query through Feast's API to a file: nothing but the join has to fit in memory."""
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    store, references = feature_store(folder, offline)
    query = f"SELECT * FROM read_parquet('{folder}/entities.parquet')"

    def work() -> tuple[int, float]:
        job = store.get_historical_features(entity_df=query, features=references)
        job.persist(SavedDatasetFileStorage(str(folder / "joined.parquet")), allow_overwrite=True)
        return pq.ParquetFile(folder / "joined.parquet").metadata.num_rows, 0.0

    return work


def by_hand(folder: Path) -> Work:
    """The same table by pandas, as one writes it by hand for this data: no late or equal rows, no TTL."""
    entities = pd.read_parquet(folder / "entities.parquet")

    def work() -> tuple[int, float]:
        frame = entities.sort_values("event_timestamp", kind="stable")
        for key in present(folder):
            columns = [key, "event_timestamp", *(f"{key}_{feature}" for feature in FEATURES)]
            view = pd.read_parquet(folder / f"{key}.parquet", columns=columns)
            frame = pd.merge_asof(
                frame, view.sort_values("event_timestamp", kind="stable"), on="event_timestamp", by=key
            )
        frame = frame.sort_values("row", kind="stable").reset_index(drop=True)
        return len(frame), checksum(pa.Table.from_pandas(frame, preserve_index=False))

    return work


def checksum(table: pa.Table) -> float:
    """Equal for tables with the same features, whatever the order of rows."""
    columns = [name for name in table.column_names if name.endswith(FEATURES)]
    return float(sum(np.nansum(table.column(name).cast(pa.float64()).to_numpy()) for name in columns))


ARMS: dict[str, Callable[[Path, int, str], Work]] = {
    "ours": lambda folder, rows, memory: through_feast(folder, ours(memory)),
    "feast": lambda folder, rows, memory: through_feast(folder, {"type": "duckdb"}),
    "pandas": lambda folder, rows, memory: by_hand(folder),
    "spill": lambda folder, rows, memory: to_file(folder, ours(memory)),
}


# -- what is measured --------------------------------------------------------------------------------------------------


def measure(arm: str, folder: Path, rows: int, memory: str = "2GB") -> dict[str, float]:
    """What an arm used in a process of its own: CPU seconds of the join, peak MB of the process."""
    argv = [sys.executable, "-m", "benchmarks.point_in_time_join", arm, str(folder), str(rows), "--memory", memory]
    found: dict[str, float] = json.loads(cpu_of(argv, {"OMP_NUM_THREADS": "1"}).stdout.splitlines()[-1])
    if found["rows"] != rows:
        raise RuntimeError(f"{arm}: {rows} rows became {found['rows']}")
    return found


def compare(arms: Sequence[str], folder: Path, rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians per arm, measured in turn (A B A B); all arms must give the same features."""
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            runs[arm].append(measure(arm, folder, rows))
    medians = {arm: {k: statistics.median(r[k] for r in found) for k in found[0]} for arm, found in runs.items()}
    sums = [medians[arm]["sum"] for arm in arms]
    if not np.allclose(sums, sums[0], rtol=1e-9):
        raise RuntimeError(f"arms disagree: {dict(zip(arms, sums, strict=True))}")
    return medians


def against_feast(folder: Path) -> list[Result]:
    """The same join by our store and by Feast's DuckDB store, at the size of the flights."""
    found = compare(["ours", "feast"], folder, ROWS, rounds=2)
    ours, feast = found["ours"], found["feast"]
    cpu, memory = feast["cpu"] / ours["cpu"], ours["peak"] / feast["peak"]
    what = f"{ROWS:,} rows × 4 views of {KEYS['tailnum']:,} keys"
    return [
        Result(
            name="point-in-time join: Feast's duckdb store's CPU over ours",
            value=cpu,
            unit="×",
            reach="≥ 15",
            holds=cpu >= 15,
            detail=f"{what}: {feast['cpu']:.1f} against {ours['cpu']:.2f} CPU s",
        ),
        Result(
            name="point-in-time join: our peak memory over Feast's duckdb store's",
            value=memory,
            unit="×",
            reach="≤ 0.25",
            holds=memory <= 0.25,
            detail=f"{what}: {ours['peak']:,.0f} against {feast['peak']:,.0f} MB, of which {ours['idle']:,.0f} MB "
            "are there before the join",
        ),
    ]


def against_pandas(folder: Path, rows: int, reach: float, rounds: int) -> Result:
    """The same join by our store through Feast's API and by `merge_asof` by hand."""
    found = compare(["ours", "pandas"], folder, rows, rounds)
    ours, pandas = found["ours"], found["pandas"]
    ratio = ours["cpu"] / pandas["cpu"]
    return Result(
        name=f"point-in-time join: our CPU over pandas merge_asof's, {rows:,} rows",
        value=ratio,
        unit="×",
        reach=f"≤ {reach:g}",
        holds=ratio <= reach,
        detail=f"4 views, to an Arrow table: {ours['cpu']:.2f} against {pandas['cpu']:.2f} CPU s, "
        f"{ours['peak']:,.0f} against {pandas['peak']:,.0f} MB",
    )


LIMIT_MB = 512
SIZES = (100_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)


def growth(folder: Path) -> list[Result]:
    """One view, as many feature rows as entity rows, to a file, under a memory limit that the larger sizes pass."""
    cpu, peak = {}, {}
    for rows in SIZES:
        data = folder / f"growth-{rows}"
        write_data(data, rows, keys=["tailnum"])
        runs = [measure("spill", data, rows, f"{LIMIT_MB}MB") for _ in range(3 if rows <= 3_000_000 else 1)]
        cpu[rows] = statistics.median(run["cpu"] for run in runs) / rows * 1e6
        peak[rows] = max(run["peak"] - run["idle"] for run in runs)
        for file in data.iterdir():
            file.unlink()
    per_decade = max(cpu[30_000_000] / cpu[3_000_000], cpu[10_000_000] / cpu[1_000_000]) - 1
    over = peak[SIZES[-1]] / LIMIT_MB
    costs = ", ".join(f"{rows / 1e6:g} M: {cost:.2f}" for rows, cost in cpu.items())
    peaks = ", ".join(f"{rows / 1e6:g} M: {megabytes:.0f}" for rows, megabytes in peak.items())
    return [
        Result(
            name="point-in-time join: growth of CPU per row, per decade of rows",
            value=per_decade * 100,
            unit="%",
            reach="≤ 10",
            holds=per_decade <= 0.1,
            detail=f"0.1 to 30 million rows, spilling; CPU µs a row: {costs}",
        ),
        Result(
            name="point-in-time join: peak memory of 30 million rows over its limit",
            value=over,
            unit="×",
            reach="≤ 1.5",
            holds=over <= 1.5,
            detail=f"memory_limit {LIMIT_MB} MB; MB above the idle process: {peaks}",
        ),
    ]


def run() -> list[Result]:
    """All of it; some ten minutes."""
    with tempfile.TemporaryDirectory(prefix="join-", dir=os.environ.get("EVERGROW_SCRATCH")) as scratch:
        folder = Path(scratch)
        small, large = folder / "small", folder / "large"
        write_data(small, ROWS)
        results = against_feast(small)
        results.append(against_pandas(small, ROWS, reach=2, rounds=5))
        write_data(large, 3_000_000)
        results.append(against_pandas(large, 3_000_000, reach=1, rounds=2))
        for file in large.iterdir():
            file.unlink()
        return results + growth(folder)


if __name__ == "__main__":
    sys.exit(main())
