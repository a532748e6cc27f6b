from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from evergrow.data.ingest import ingest
from evergrow.data.lake import Lake, rows_digest
from evergrow.errors import DataError
from tests.unit.data.sources import START, Meters, meters
from tests.unit.data.test_ingest import at, state

# Children are forked from a server that has imported everything and started no thread.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["evergrow.data.ingest", "tests.unit.data.sources"])


def ingest_and_die(root: Path, hours: int, point: int, when: str, renames: multiprocessing.Queue | None) -> None:
    """Ingest, and die by SIGKILL just before or just after the rename number `point`."""
    rename, done = os.replace, 0

    def counted(*paths) -> None:
        nonlocal done
        done += 1
        if (done, when) == (point, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*paths)
        if (done, when) == (point, "after"):
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted
    rows = meters()
    rows.loc[[3, 250], "litres"] = -1.0
    ingest(Meters(rows), Lake(root), at(hours))
    if renames is not None:
        renames.put(done)


def run(root: Path, hours: int, point: int = 0, when: str = "", renames: multiprocessing.Queue | None = None) -> int:
    """Ingest in a child; its exit code."""
    child = FORKED.Process(target=ingest_and_die, args=(root, hours, point, when, renames))
    child.start()
    child.join(60)
    return child.exitcode


def test_an_ingest_killed_at_any_point_is_finished_by_the_next(tmp_path):
    whole, renames = tmp_path / "whole", FORKED.Queue()
    assert run(whole, 100, renames=renames) == 0
    points = renames.get(timeout=10)
    assert run(whole, 200) == 0
    wanted = state(Lake(whole))
    assert points >= 5
    for point, when in itertools.product(range(1, points + 1), ("before", "after")):
        root = tmp_path / f"{point}-{when}"
        assert run(root, 100, point, when) == -signal.SIGKILL
        assert run(root, 100) == 0
        assert run(root, 200) == 0
        found = {name: content for name, content in state(Lake(root)).items() if not name.endswith(".aside")}
        assert found == wanted, (point, when)


def test_a_watermark_never_goes_back(tmp_path):
    lake = Lake(tmp_path)
    frame = pd.DataFrame({"x": [1]})
    lake.append("t", frame, at(5))
    with pytest.raises(DataError, match="watermark cannot go back"):
        lake.append("t", frame, at(4))
    assert lake.rows("t") == 1


def test_an_empty_batch_moves_the_watermark_only(tmp_path):
    lake = Lake(tmp_path)
    lake.append("t", pd.DataFrame({"x": pd.Series([], dtype=int)}), at(5))
    assert lake.watermark("t") == at(5)
    with pytest.raises(DataError, match="raw table 't' is empty"):
        lake.read_raw("t")


def test_a_table_that_was_never_derived_is_named(tmp_path):
    with pytest.raises(DataError, match="derived table 'examples' does not exist"):
        Lake(tmp_path).read("examples")


def test_the_digest_of_rows_sees_values_names_types_and_order_and_not_the_file():
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "t": [START, START + timedelta(hours=1)]})
    assert rows_digest(frame) == rows_digest(frame.copy())
    assert rows_digest(frame) == rows_digest(frame.set_axis([5, 6]))
    others = [
        frame.assign(a=[1, 3]),
        frame.assign(a=[1.0, 2.0]),
        frame.rename(columns={"a": "c"}),
        frame.iloc[::-1],
        frame.assign(b=["x", "None"]),
    ]
    assert len({rows_digest(f) for f in [frame, *others]}) == 6


def test_the_digest_of_rows_is_the_same_in_another_process(tmp_path):
    frame = pd.DataFrame({"a": [1.5, None], "b": ["x", None]})
    frame.to_parquet(tmp_path / "f.parquet")
    code = "import sys, pandas as p, evergrow.data.lake as l; print(l.rows_digest(p.read_parquet(sys.argv[1])))"
    argv = [sys.executable, "-c", code, str(tmp_path / "f.parquet")]
    for seed in ("1", "2"):
        child = subprocess.run(argv, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False)
        assert child.stdout.strip() == rows_digest(pd.read_parquet(tmp_path / "f.parquet")), child.stderr
