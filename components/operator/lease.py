"""Who of several operators works: the one that holds a Lease, which it renews and others take when it no longer does.

As client-go does it: nobody compares clocks. Who waits counts from when it saw the Lease change last, by its own clock;
who holds it stops a while before the others may begin. A Lease is written only over the one that was read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from evergrow.errors import EvergrowError
from evergrow.integrations.kubernetes import LEASE, Kubernetes, Object
from evergrow.integrations.labels import MANAGED_BY

DURATION, DEADLINE, RETRY = 15.0, 10.0, 2.0
"""Seconds: after which others take a Lease that is not renewed; after which its holder stops; between two tries."""


class Lease:
    """A Lease of a namespace, as one of those that want it sees it.

    Args:
        kubernetes: of the namespace; not patient, so that a try does not outlast the Lease.
        name: of the Lease.
        holder: who we are; nobody else may be called so.
        clock: seconds, as they go by.
    """

    def __init__(
        self, kubernetes: Kubernetes, name: str, holder: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.kubernetes, self.name, self.holder = kubernetes, name, holder
        self._clock = clock
        self._renewed: float | None = None
        self._seen: tuple[Any, float] | None = None

    @property
    def is_held(self) -> bool:
        """Whether it is surely ours: no other may have taken it yet."""
        return self._renewed is not None and self._clock() < self._renewed + DEADLINE

    def attempt(self) -> bool:
        """Take it if it is free, renew it if it is ours; whether it is ours then.

        Raises:
            EvergrowError: the API server refuses or does not answer, or another was faster.
        """
        # What is ours is so from before it was asked for, for nobody knows how long the answer took.
        started, found = self._clock(), self.kubernetes.get(LEASE, self.name)
        if found is None:
            body = {"metadata": {"name": self.name, "labels": {**MANAGED_BY}}, "spec": self._spec({})}
            is_ours = self.kubernetes.create(LEASE, body) is not None
        else:
            is_ours = self._is_free(found) and self._replaced(found)
        self._renewed = started if is_ours else None
        return is_ours

    def release(self) -> None:
        """Let others take it at once."""
        found = self.kubernetes.get(LEASE, self.name)
        self._renewed = None
        if found is not None and found["spec"].get("holderIdentity") == self.holder:
            self.kubernetes.replace(LEASE, {**found, "spec": {**found["spec"], "holderIdentity": None}})

    def _is_free(self, found: Object) -> bool:
        spec = found["spec"]
        record = {key: spec.get(key) for key in ("holderIdentity", "renewTime", "leaseTransitions")}
        if self._seen is None or self._seen[0] != record:
            self._seen = record, self._clock()
        if spec.get("holderIdentity") in (None, "", self.holder):
            return True
        return self._clock() >= self._seen[1] + float(spec.get("leaseDurationSeconds") or DURATION)

    def _replaced(self, found: Object) -> bool:
        return self.kubernetes.replace(LEASE, {**found, "spec": self._spec(found["spec"])}) is not None

    def _spec(self, before: Object) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        transitions = int(before.get("leaseTransitions") or 0)
        if before.get("holderIdentity") == self.holder:
            return {**before, "renewTime": now}
        return {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": int(DURATION),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions + 1 if before else 0,
        }


class Keeper:
    """Gets a Lease and keeps it.

    Args:
        lease: which.
        tried: called after each try, with why it did not go well or None.
    """

    def __init__(self, lease: Lease, tried: Callable[[EvergrowError | None], None]) -> None:
        self.lease, self.tried = lease, tried
        self._ending = threading.Event()

    def wait(self, seconds: float = RETRY) -> None:
        """Return once the lease is ours, however long the API server is away."""
        while not self._try():
            self._ending.wait(seconds)

    def keep(self, lost: Callable[[], None], seconds: float = RETRY) -> None:
        """Renew it in a thread, until the end; another calls `lost` as soon as it is not surely ours any more."""
        threading.Thread(target=self._renew, args=(seconds,), name="lease", daemon=True).start()
        threading.Thread(target=self._guard, args=(lost, seconds / 4), name="lease-guard", daemon=True).start()

    def end(self) -> None:
        """Renew it no more."""
        self._ending.set()

    def _renew(self, seconds: float) -> None:
        while not self._ending.wait(seconds):
            self._try()

    def _guard(self, lost: Callable[[], None], seconds: float) -> None:
        while not self._ending.wait(seconds):
            if not self.lease.is_held:
                lost()
                return

    def _try(self) -> bool:
        try:
            is_ours = self.lease.attempt()
        except EvergrowError as error:
            self.tried(error)
            return False
        self.tried(None)
        return is_ours
