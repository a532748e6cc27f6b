"""Drift of a hundred columns: our profile of now against a stored baseline, and Evidently's drift of the same data."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pickle
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Result, Skipped, cpu_of
from evergrow.contracts import Feature

NUMERIC, CATEGORICAL = 90, 10
SEGMENT = 100_000
"""Rows of a file: as many as a segment of a busy model's prediction log."""
ROWS = 3_300_000
PEERS = {
    "evidently-preset": ("Evidently's preset", (100_000, 330_000)),
    "evidently": ("Evidently's drift by column", (100_000, 330_000, 1_000_000)),
}
"""What Evidently is asked for, and at which sizes: ROWS would take it an hour, or more than ADDRESS_SPACE."""
FEATURES = tuple(
    [Feature(name=f"number_{i:02d}", kind="numeric") for i in range(NUMERIC)]
    + [Feature(name=f"category_{i}", kind="categorical") for i in range(CATEGORICAL)]
)
# Evidently must not take the machine with it.
ADDRESS_SPACE = 18 * 10**9


# -- data --------------------------------------------------------------------------------------------------------------


def segment(rows: int, seed: tuple[int, int], shift: float) -> pa.Table:
    """Rows of 90 numbers and 10 categories; a third of the columns lack 2 %, a tenth moved by `shift`."""
    random = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for i, feature in enumerate(FEATURES):
        moved = shift if i % 10 == 0 else 0.0
        missing = random.random(rows) < 0.02 if i % 3 == 0 else None
        columns[feature.name] = pa.array(_values(feature, i, rows, moved, random), mask=missing)
    return pa.table(columns)


def _values(feature: Feature, i: int, rows: int, moved: float, random: np.random.Generator) -> Any:
    if feature.kind == "categorical":
        levels = 5 * (1 + i - NUMERIC)
        codes = np.minimum(random.exponential(levels / 4 * (1 + moved), rows).astype(int), levels - 1)
        return np.array([f"level-{n:02d}" for n in range(levels)])[codes]
    if i % 4 == 0:
        return random.lognormal(moved, 1.0, rows)
    return random.normal(100.0 * i + moved, 1.0, rows)


def write(folder: Path, rows: int, shift: float) -> None:
    """The segments of `rows` rows, a file each, as a log keeps numbers: plain and uncompressed."""
    folder.mkdir(parents=True)
    texts = [f.name for f in FEATURES if f.kind == "categorical"]
    for i, start in enumerate(range(0, rows, SEGMENT)):
        table = segment(min(SEGMENT, rows - start), (i, int(shift * 1000)), shift)
        pq.write_table(table, folder / f"{i:03d}.parquet", compression="none", use_dictionary=texts)


def segments(folder: Path) -> Iterator[pa.Table]:
    """The tables of the files, one after the other."""
    for file in sorted(folder.glob("*.parquet")):
        yield pq.read_table(file)


# -- arms --------------------------------------------------------------------------------------------------------------


def make_baseline(folder: Path) -> None:
    """Count the reference once and for all: axes from a column at a time, counts from a segment at a time."""
    from evergrow.monitoring.profile import Axis, profile, total

    axes = [Axis.of(f, pq.read_table(folder / "reference", columns=[f.name])[f.name]) for f in FEATURES]
    baseline = total([profile(axes, table) for table in segments(folder / "reference")], axes)
    (folder / "baseline.pickle").write_bytes(pickle.dumps(baseline))


def ours(folder: Path) -> Callable[[], int]:
    """Profile the segments of now, from their files, and compare with the stored baseline."""
    from evergrow.monitoring.drift import compare
    from evergrow.monitoring.profile import Profile, profile

    baseline = pickle.loads((folder / "baseline.pickle").read_bytes())

    def work() -> int:
        now = Profile.empty(baseline.axes)
        for table in segments(folder / "current"):
            now = now + profile(baseline.axes, table)
        return len({found.column for found in compare(baseline, now)})

    return work


def evidently(folder: Path, preset: bool) -> Callable[[], int]:
    """Evidently's report on both frames, which are in memory already: its preset, or its drift of each column alone."""
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset

    names = {kind: [f.name for f in FEATURES if f.kind == kind] for kind in ("numeric", "categorical")}
    definition = DataDefinition(numerical_columns=names["numeric"], categorical_columns=names["categorical"])
    frames = [
        Dataset.from_pandas(pq.read_table(folder / which).to_pandas(), data_definition=definition)
        for which in ("current", "reference")
    ]

    def work() -> int:
        metrics = [DataDriftPreset()] if preset else [ValueDrift(column=f.name) for f in FEATURES]
        found = Report(metrics).run(*frames).dict()["metrics"]
        return sum("column" in metric["config"] for metric in found)

    return work


ARMS: dict[str, Callable[[Path], Callable[[], int]]] = {
    "ours": ours,
    "evidently-preset": lambda folder: evidently(folder, preset=True),
    "evidently": lambda folder: evidently(folder, preset=False),
}


def main() -> int:
    """Run one arm in this process, and print what it used as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("arm", choices=[*ARMS, "baseline"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    if options.arm == "baseline":
        make_baseline(options.folder)
        return 0
    work = ARMS[options.arm](options.folder)
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = time.process_time(), time.perf_counter()
    columns = work()
    used = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({**used, "peak": peak / 1024, "idle": idle / 1024, "columns": columns}))
    return 0


# -- what is measured --------------------------------------------------------------------------------------------------


def measure(arm: str, folder: Path) -> dict[str, float]:
    """What an arm used in a process of its own: CPU and wall seconds, MB."""
    argv = [sys.executable, "-m", "benchmarks.drift_speed", arm, str(folder)]
    found: dict[str, float] = json.loads(cpu_of(argv, {"OMP_NUM_THREADS": "1"}).stdout.splitlines()[-1])
    if found["columns"] != len(FEATURES):
        raise RuntimeError(f"{arm}: {len(FEATURES)} columns became {found['columns']}")
    return found


def ours_of(folder: Path, rounds: int) -> dict[str, float]:
    """Medians of our arm."""
    runs = [measure("ours", folder) for _ in range(rounds)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def prepared(scratch: Path, rows: int, reference: Path | None = None) -> Path:
    """A folder with both sides, and the baseline; or with the present alone and another folder's baseline."""
    folder = scratch / str(rows)
    write(folder / "current", rows, 0.5)
    if reference is not None:
        shutil.copy(reference / "baseline.pickle", folder)
        return folder
    write(folder / "reference", rows, 0.0)
    cpu_of([sys.executable, "-m", "benchmarks.drift_speed", "baseline", str(folder)])
    return folder


def faster(what: str, rows: int, ours: dict[str, float], theirs: dict[str, float], *, held: bool) -> list[Result]:
    """CPU and wall time of Evidently over ours, at the same size."""
    return [
        Result(
            name=f"drift of {rows:,} rows × {len(FEATURES)} columns: {what}, its {title} over ours",
            value=theirs[key] / ours[key],
            unit="×",
            reach="≥ 50" if held else "stated",
            holds=not held or theirs[key] >= 50 * ours[key],
            detail=f"{theirs[key]:.1f} against {ours[key]:.2f} s, ours with the reading of its files; "
            f"peak {theirs['peak']:,.0f} against {ours['peak']:,.0f} MB",
        )
        for key, title in (("cpu", "CPU"), ("wall", "wall time"))
    ]


def whole(small: dict[str, float], large: dict[str, float]) -> list[Result]:
    """Ours at full size: its time, and its memory against that of one segment."""
    growth = (large["peak"] - large["idle"]) / (small["peak"] - small["idle"])
    return [
        Result(
            name=f"drift of {ROWS:,} rows × {len(FEATURES)} columns: ours",
            value=large["cpu"],
            unit="CPU s",
            reach="stated",
            holds=True,
            detail=f"{large['wall']:.1f} s wall; from Parquet files of {SEGMENT:,} rows, against a stored baseline; "
            f"{large['cpu'] / ROWS / len(FEATURES) * 1e9:.0f} ns a value",
        ),
        Result(
            name=f"drift of {ROWS:,} rows × {len(FEATURES)} columns: our memory over that of one segment",
            value=growth,
            unit="×",
            reach="≤ 1.5",
            holds=growth <= 1.5,
            detail=f"{large['peak'] - large['idle']:,.0f} against {small['peak'] - small['idle']:,.0f} MB "
            f"above the idle process, for {ROWS // SEGMENT} segments against 1",
        ),
    ]


def run() -> list[Result]:
    """Some fifteen minutes and 6 GB of disk, most of both for Evidently."""
    if importlib.util.find_spec("evidently") is None:
        raise Skipped("evidently is not installed")
    with tempfile.TemporaryDirectory(prefix="drift-", dir=os.environ.get("EVERGROW_SCRATCH")) as name:
        scratch = Path(name)
        sizes = sorted({rows for _, peers in PEERS.values() for rows in peers})
        folders = {rows: prepared(scratch, rows) for rows in sizes}
        ours = {rows: ours_of(folder, rounds=3) for rows, folder in folders.items()}
        results = []
        for arm, (what, peers) in PEERS.items():
            for rows in peers:
                held = rows == peers[-1]
                results += faster(what, rows, ours[rows], measure(arm, folders[rows]), held=held)
        large = ours_of(prepared(scratch, ROWS, folders[sizes[-1]]), rounds=3)
        return results + whole(ours[SEGMENT], large)


if __name__ == "__main__":
    sys.exit(main())
