"""One process aside, for what takes much memory: it is started when it is needed first, and ends when it is not."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from evergrow import logs
from evergrow.errors import ClusterError, EvergrowError, public

IDLE, LIMIT = 60.0, 600.0
"""Seconds without a task after which the process is let go; that a task may take."""

logger = logging.getLogger("evergrow.operator.worker")
Answer = TypeVar("Answer")


class Worker:
    """Runs functions of modules in another process, one after the other.

    That process ends with this one, however that ends: it has nobody to listen to any more. One that died or is stuck
    fails its task, and the next one has a new process.

    Args:
        idle: seconds without a task after which `rest` lets the process go.
        limit: seconds that a task may take.
        clock: seconds, as they go by.
    """

    def __init__(self, idle: float = IDLE, limit: float = LIMIT, clock: Callable[[], float] = time.monotonic) -> None:
        self.idle, self.limit = idle, limit
        self._clock, self._used = clock, clock()
        self._turn = threading.Lock()
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def run(self, task: Callable[..., Answer], *args: Any) -> Answer:
        """Run a function there and return what it returns.

        Raises:
            EvergrowError: as the function raised it.
            ClusterError: it raised something else, took too long, or the process died.
        """
        with self._turn:
            try:
                self._started().send((task, args))
                fine, answer = self._received(task.__name__)
            except (OSError, EOFError) as error:
                code = self._ended()
                raise ClusterError(
                    f"{task.__name__}: the worker process died, exit code {code}",
                    hint="a worker that needs more memory than the pod may use is killed (-9): operator.resources",
                    retriable=True,
                ) from error
            finally:
                self._used = self._clock()
        if not fine:
            raise answer
        result: Answer = answer
        return result

    def rest(self) -> None:
        """Let the process go if it has had nothing to do for a while."""
        if self._process is None or not self._turn.acquire(blocking=False):
            return
        try:
            if self._clock() - self._used >= self.idle:
                self._ended()
        finally:
            self._turn.release()

    def stop(self) -> None:
        """End the process, whatever it is at."""
        process = self._process
        if process is not None:
            process.kill()
            process.join()

    @property
    def pid(self) -> int | None:
        """Of the process; None if there is none."""
        return None if self._process is None else self._process.pid

    def _started(self) -> Connection:
        if self._process is not None and self._pipe is not None and self._process.is_alive():
            return self._pipe
        self._ended()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), name="worker", daemon=True)
        self._process.start()
        # Whoever dies is noticed by the end of the pipe, which must have no other holder.
        theirs.close()
        return self._pipe

    def _received(self, task: str) -> tuple[bool, Any]:
        assert self._pipe is not None
        if not self._pipe.poll(self.limit):
            self._ended()
            raise ClusterError(f"{task}: the worker process took more than {self.limit:g} s", retriable=True)
        answer: tuple[bool, Any] = self._pipe.recv()
        return answer

    def _ended(self) -> int | None:
        """No process is there any more; its exit code."""
        if self._process is None or self._pipe is None:
            return None
        self._pipe.close()
        self._process.join(timeout=1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code = self._process.exitcode
        self._process = self._pipe = None
        return code


def _serve(pipe: Connection) -> None:
    """Run tasks until nobody sends any."""
    logs.configure()
    while True:
        try:
            task, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_answer(task, args))
        except OSError:
            return


def _answer(task: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, task(*args)
    except EvergrowError as error:
        error.__cause__ = error.__context__ = None
        return False, error
    except Exception as error:
        logger.exception("%s failed", task.__name__)
        return False, ClusterError(f"{task.__name__}: {public(error)}; the operator's log says where")
