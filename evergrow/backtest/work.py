"""Work that is done once, whoever asks for it, in this process or in several, and kept for the next time."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from evergrow.backtest.tasks import Work
from evergrow.contracts import Value
from evergrow.data.lake import replace

Result = TypeVar("Result", bound=Value)
Each = TypeVar("Each")


class Done(Value):
    """What work came to.

    Attributes:
        cpu_seconds: that it took when it was done.
        result: as JSON.
        left: files that it has left for other work, below the folder.
    """

    cpu_seconds: float
    result: str
    left: tuple[str, ...] = ()


class Spending(Value):
    """What all the work of one kind took.

    Attributes:
        asked: how often some was asked for.
        done: how often that was another.
        cpu_seconds: of what was done.
        unshared: CPU seconds, had each asking been done anew.
    """

    asked: int
    done: int
    cpu_seconds: float
    unshared: float


class Elsewhere(Protocol):
    """Where others find work that was done here, and the other way round."""

    def fetch(self, name: str, to: Path) -> bool:
        """Copy what is kept by a name into a file; whether there is any."""
        ...

    def keep(self, name: str, path: Path) -> None:
        """Keep a file by a name."""
        ...


def perform(folder: Path, work: Work, elsewhere: Elsewhere | None = None) -> Done:
    """Do some work, unless its result is there.

    Args:
        folder: that holds the past, and what other work has left.
        work: what to do.
        elsewhere: where it may have been done; None: nowhere.
    """
    name = f"done/{work.kind}/{work.key}.json"
    path = folder / name
    if path.exists():
        return Done.model_validate_json(path.read_bytes())
    done = None if elsewhere is None else _done_elsewhere(folder, name, elsewhere)
    if done is None:
        done = _do(folder, work)
        if elsewhere is not None:
            for left in done.left:
                elsewhere.keep(left, folder / left)
    # What says that it is done comes last.
    replace(path, done.model_dump_json().encode())
    if elsewhere is not None:
        elsewhere.keep(name, path)
    return done


def _do(folder: Path, work: Work) -> Done:
    start = time.thread_time()
    result = work.run(folder)
    return Done(cpu_seconds=time.thread_time() - start, result=result.model_dump_json(), left=work.left(result))


def _done_elsewhere(folder: Path, name: str, elsewhere: Elsewhere) -> Done | None:
    """What others have done, with the files that it has left."""
    aside = folder / f"{name}.{os.getpid()}.{threading.get_ident()}"
    if not elsewhere.fetch(name, aside):
        return None
    done = Done.model_validate_json(aside.read_bytes())
    aside.unlink()
    there = all((folder / left).exists() or elsewhere.fetch(left, folder / left) for left in done.left)
    return done if there else None


class Shared:
    """Gives results of work; the same work is done once, and whoever asks for it meanwhile waits."""

    def __init__(self, folder: Path, executor: Executor, elsewhere: Elsewhere | None = None) -> None:
        self._folder, self._executor, self._elsewhere = folder, executor, elsewhere
        self._lock = threading.Lock()
        self._results: dict[tuple[str, str], Future[Done]] = {}
        self._read: dict[tuple[str, str], Value] = {}
        self._asked: Counter[tuple[str, str]] = Counter()

    def do(self, work: Work, result: type[Result]) -> Result:
        """The result, once it is there.

        Args:
            work: what to do.
            result: what its `run` gives.
        """
        key = work.kind, work.key
        with self._lock:
            self._asked[key] += 1
            future = self._results.get(key)
            if future is None:
                future = self._results[key] = self._executor.submit(perform, self._folder, work, self._elsewhere)
        done = future.result()
        found = self._read.get(key)
        if found is None:
            found = self._read[key] = result.model_validate_json(done.result)
        assert isinstance(found, result)
        return found

    def spent(self) -> Mapping[str, Spending]:
        """What has been spent so far, by kind of work."""
        with self._lock:
            done = {key: future.result() for key, future in self._results.items() if _is_good(future)}
            asked = dict(self._asked)
        return {
            kind: Spending(
                asked=sum(asked[key] for key in keys),
                done=len(keys),
                cpu_seconds=sum(done[key].cpu_seconds for key in keys),
                unshared=sum(done[key].cpu_seconds * asked[key] for key in keys),
            )
            for kind, keys in _by_kind(done).items()
        }


def _is_good(future: Future[Done]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _by_kind(done: Mapping[tuple[str, str], Done]) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for key in sorted(done):
        found.setdefault(key[0], []).append(key)
    return found


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """Processes that do work, or, if one is enough, a thread of this process."""
    if count == 1:
        with ThreadPoolExecutor(1) as executor:
            yield executor
        return
    # Not by fork: a copy of a process that has threads may hang where a lock was held.
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def at_once(tasks: int, each: Callable[[int], Each]) -> list[Each]:
    """Call `each` of 0 … tasks - 1 in as many threads, which mostly wait; the results in order.

    Args:
        tasks: how many.
        each: what is called.
    """
    with ThreadPoolExecutor(max(1, tasks)) as threads:
        futures = [threads.submit(each, number) for number in range(tasks)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
