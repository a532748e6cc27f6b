"""Models to look at: each once, however often something happens to it, and never by two threads at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class WorkQueue:
    """Names, each with the moment from which on it is to be taken.

    Args:
        clock: seconds, as they go by.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._busy: set[str] = set()
        self._is_closed = False
        self._changed = threading.Condition()

    def add(self, name: str, after: float = 0.0) -> None:
        """Have a name taken in `after` seconds, or sooner if that was asked for; one that is busy, again."""
        with self._changed:
            at = self._clock() + max(0.0, after)
            if name not in self._due or at < self._due[name]:
                self._due[name] = at
                self._changed.notify()

    def take(self, wait: bool = True) -> str | None:
        """The name that has been due longest; whoever takes one says when it is `done`.

        Args:
            wait: for one that is due.

        Returns:
            None: none is due, or the queue is closed.
        """
        with self._changed:
            while not self._is_closed:
                free = [(at, name) for name, at in self._due.items() if name not in self._busy]
                at, name = min(free, default=(float("inf"), ""))
                left = at - self._clock()
                if left <= 0:
                    del self._due[name]
                    self._busy.add(name)
                    return name
                if not wait:
                    return None
                self._changed.wait(None if left == float("inf") else left)
            return None

    def done(self, name: str) -> None:
        """It may be taken again."""
        with self._changed:
            self._busy.discard(name)
            self._changed.notify()

    def close(self) -> None:
        """Nothing is taken any more; whoever waits is told."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def depth(self) -> int:
        """Names that are due and not taken yet."""
        with self._changed:
            now = self._clock()
            return sum(at <= now for at in self._due.values())
