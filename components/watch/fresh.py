"""A value that is expensive to read, shared by all who ask for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")


class Fresh(Generic[T]):
    """What `read` returns, read at most every so many seconds and by one thread at a time.

    Who asks while it is being read gets what there was, so that a slow store makes pages old, and not late; only who
    asks before it was ever read waits.
    """

    def __init__(self, read: Callable[[], T], seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._seconds, self._clock = read, seconds, clock
        self._lock = threading.Lock()
        self._known: tuple[T, float] | None = None

    def get(self) -> T:
        """The value, not older than it may be unless it is being read."""
        known = self._fresh()
        if known is not None:
            return known[0]
        stale = self._known
        if not self._lock.acquire(blocking=stale is None) and stale is not None:
            return stale[0]
        try:
            known = self._fresh() or (self._read(), self._clock() + self._seconds)
            self._known = known
            return known[0]
        finally:
            self._lock.release()

    async def aget(self) -> T:
        """The same, in a thread if it must be read."""
        known = self._fresh()
        return known[0] if known is not None else await run_in_threadpool(self.get)

    def _fresh(self) -> tuple[T, float] | None:
        return self._known if self._known is not None and self._clock() < self._known[1] else None
