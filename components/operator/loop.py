"""Look at one model after the other, and at one that failed again later, each time after a longer while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from components.operator.work_queue import WorkQueue
from evergrow.errors import ConflictError, EvergrowError, public

FIRST, LONGEST = 1.0, 300.0
"""Seconds before a model that failed is looked at again: at first, and at most."""

logger = logging.getLogger("evergrow.operator")

Look = Callable[[str], timedelta | None]
"""Looks at a model and returns when to look again; None: when something changes."""
Complain = Callable[[str, Exception], None]
"""Tells people of a model that it failed."""


class Loop:
    """What the threads of an operator do.

    Args:
        look: at a model.
        complain: where people look; of each error once, until it is another.
        queue: of models.
        registry: of metrics.
    """

    def __init__(self, look: Look, complain: Complain, queue: WorkQueue, registry: CollectorRegistry) -> None:
        self.look, self.complain, self.queue = look, complain, queue
        self._failures: dict[str, int] = {}
        self._said: dict[str, str] = {}
        self.results = Counter("evergrow_operator_reconciles", "Looks at a model.", ["result"], registry=registry)
        self.seconds = Histogram("evergrow_operator_reconcile_seconds", "Time of a look at a model.", registry=registry)
        self.failing = Gauge(
            "evergrow_operator_failing", "1 while looks at the model fail.", ["model"], registry=registry
        )

    def work(self) -> None:
        """Look at models until the queue is closed."""
        while (name := self.queue.take()) is not None:
            self.once(name)

    def once(self, name: str) -> None:
        """Look at a model that was taken from the queue; whatever happens, it goes back in or waits for news."""
        started = time.perf_counter()
        try:
            result, after = self._looked(name)
        finally:
            self.queue.done(name)
        self.seconds.observe(time.perf_counter() - started)
        self.results.labels(result).inc()
        if after is not None:
            self.queue.add(name, after)

    def _looked(self, name: str) -> tuple[str, float | None]:
        try:
            after = self.look(name)
        except ConflictError as error:
            logger.debug("%s: %s", name, error, extra={"model": name})
            return "conflict", self._again(name)
        except Exception as error:
            self._failed(name, error)
            return "error", self._again(name)
        self._failures.pop(name, None)
        if self._said.pop(name, None) is not None:
            self.failing.labels(name).set(0)
            logger.info("%s goes on", name, extra={"model": name})
        return "ok", None if after is None else after.total_seconds()

    def _again(self, name: str) -> float:
        self._failures[name] = self._failures.get(name, 0) + 1
        return pause(self._failures[name])

    def _failed(self, name: str, error: Exception) -> None:
        """Say it once, until it is another."""
        self.failing.labels(name).set(1)
        told = str(error) if isinstance(error, EvergrowError) else public(error)
        if self._said.get(name) == told:
            return
        self._said[name] = told
        is_ours = isinstance(error, EvergrowError)
        extra = {"model": name, "hint": error.hint if isinstance(error, EvergrowError) else ""}
        logger.warning("%s: %s", name, told, extra=extra, exc_info=None if is_ours else error)
        try:
            self.complain(name, error)
        except EvergrowError as unheard:
            logger.warning("nobody could be told: %s", unheard, extra={"model": name})


def pause(failures: int) -> float:
    """Seconds before a model is looked at again that failed so often in a row.

    >>> [pause(n) for n in (1, 2, 3, 9, 99999)]
    [1.0, 2.0, 4.0, 256.0, 300.0]
    """
    return float(min(LONGEST, FIRST * 2 ** min(failures - 1, 20)))
