"""Work that is done once, whoever asks for it, in this process or in several, and kept for the next time."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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
    """

    cpu_seconds: float
    result: str


@dataclass(frozen=True)
class Spending:
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


def perform(folder: Path, work: Work) -> Done:
    """Do some work, unless its result is there.

    Args:
        folder: that holds the past, and what other work has left.
        work: what to do.
    """
    path = folder / "done" / work.kind / f"{work.key}.json"
    if path.exists():
        return Done.model_validate_json(path.read_bytes())
    start = time.thread_time()
    result = work.run(folder).model_dump_json()
    done = Done(cpu_seconds=time.thread_time() - start, result=result)
    replace(path, done.model_dump_json().encode())
    return done


class Shared:
    """Gives results of work; the same work is done once, and whoever asks for it meanwhile waits."""

    def __init__(self, folder: Path, executor: Executor) -> None:
        self._folder, self._executor = folder, executor
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
                future = self._results[key] = self._executor.submit(perform, self._folder, work)
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
                sum(asked[key] for key in keys),
                len(keys),
                sum(done[key].cpu_seconds for key in keys),
                sum(done[key].cpu_seconds * asked[key] for key in keys),
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
