"""Kill a materialization at each point where it touches a file or the online store, and let the next run finish it.

Run as a program: `python kill_materialization.py <folder>`, where a FeastStore's environment lies. Prints
at how many points it was killed. A process that imported everything forks a child per point; the child kills itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from evergrow.environment import Environment
from evergrow.integrations import materialization
from evergrow.integrations.feast import FeastStore

FIRST, SECOND = datetime(2013, 3, 10, tzinfo=UTC), datetime(2013, 3, 12, tzinfo=UTC)
# Small chunks, so that there are several of each view.
materialization.CHUNK = 16


def kill_at(point: int, store: FeastStore) -> None:
    """SIGKILL this process at the `point`-th time it touches a file of `store`, or begins or commits online."""
    left = point

    def touched() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_event(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(str(store.environment.home)):
            touched()

    def on_statement(sql: str) -> None:
        if sql.startswith(("BEGIN", "COMMIT")):
            touched()

    provider = store.feast._get_provider()
    provider.online_store._get_conn(store.feast.config).set_trace_callback(on_statement)
    sys.addaudithook(on_event)


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a fork of this process; returns its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def online(home: Path) -> list[tuple[object, ...]]:
    """Everything in the online store."""
    with closing(sqlite3.connect(home / "features/online.db")) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return [
            (table, *row)
            for table in tables
            for row in db.execute(f'SELECT entity_key, feature_name, value, event_ts FROM "{table}" ORDER BY 1, 2')
        ]


def main(folder: Path) -> None:
    """Try every point until a run gets through unharmed."""
    home, repository = folder / "home", next(folder.glob("declared_*"))
    environment = Environment(home=home, feature_repo=repository, tracking_uri="")

    def run(until: datetime, point: int = 0) -> int:
        def work() -> None:
            store = FeastStore(environment)
            if point:
                kill_at(point, store)
            store.materialize("flights", until)

        return in_child(work)

    assert run(FIRST) == 0
    shutil.copytree(home, folder / "before")
    before = online(home)
    assert run(SECOND) == 0
    after = online(home)
    assert before != after

    def restore() -> None:
        shutil.rmtree(home)
        shutil.copytree(folder / "before", home)

    point, mixed = 0, 0
    while True:
        point += 1
        restore()
        status = run(SECOND, point)
        if status == 0:
            break
        assert os.WIFSIGNALED(status), f"point {point}: exit status {status}"
        found = online(home)
        mixed += found not in (before, after)
        assert set(found) <= set(before) | set(after), f"point {point}: a value that was never right"
        assert run(SECOND) == 0, f"point {point}: could not go on"
        assert online(home) == after, f"point {point}: not what an undisturbed run leaves"
    assert mixed, "no run was killed half way"
    print(f"killed at {point - 1} points, {mixed} times half way")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
