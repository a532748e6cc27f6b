"""Requests and errors of a model's versions, as their servers count them: read from the pods' own metrics.

A server counts from its own start. What is told of an attempt is what came since it began, as well as that can be
known:

- A server that was started after the attempt began is counted whole; of an older one, what it had counted when it was
  read first is left out.
- What was counted by pods that are gone is kept, and so is what a server had counted that was restarted in its pod.

That is kept in memory. A process that begins anew has lost the counts of servers that are gone, and of servers that are
older than the attempt all that came before its first look. It never counts anything twice.
"""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from evergrow.contracts import instant
from evergrow.integrations.kubernetes import POD, Kubernetes, Object
from evergrow.integrations.labels import MODEL, VERSION

PORT, CONTAINER = 8080, "kserve-container"
SECONDS = 2.0
"""How long a pod is waited for; one that does not answer has counted what it had when it was read last."""
SIDE_BY_SIDE = 8
MOST_BYTES = 4_000_000
_REQUESTS = re.compile(r"^evergrow_requests_total\{([^}]*)\}\s+(\S+)", re.MULTILINE)
_CODE = re.compile(r'(?:^|,)code="(\d+)"')


class Counts(NamedTuple):
    """Answered requests.

    Attributes:
        requests: all.
        errors: those with a status of 500 or above.
    """

    requests: int
    errors: int

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(self.requests + other.requests, self.errors + other.errors)

    def minus(self, other: Counts) -> Counts:
        """What is left without the other; never less than nothing."""
        return Counts(max(0, self.requests - other.requests), max(0, self.errors - other.errors))


NONE = Counts(0, 0)


@dataclass
class _Tally:
    """Of one server: of which version, what is left out, and what it had counted when it was read last."""

    version: int
    left_out: Counts
    counted: Counts = NONE

    @property
    def total(self) -> Counts:
        return self.counted.minus(self.left_out)


@dataclass
class _Attempt:
    name: str
    servers: dict[str, _Tally] = field(default_factory=dict)


Scrape = Callable[[str], str]
"""The text of a pod's metrics by its URL; raises OSError."""


def scraped(url: str) -> str:
    """Read a page of metrics."""
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 - http, and a pod's own address
        text: bytes = answer.read(MOST_BYTES)
    return text.decode()


class PodCounters:
    """Counts of models' versions, remembered per model for the attempt that was asked about last."""

    def __init__(self, kubernetes: Kubernetes, scrape: Scrape = scraped) -> None:
        self.kubernetes, self.scrape = kubernetes, scrape
        self._attempts: dict[str, _Attempt] = {}
        self._pool = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="counters")
        self._lock = threading.Lock()

    def read(self, model: str, attempt: str, since: datetime) -> Mapping[int, Counts]:
        """Requests and errors by version since an attempt began; versions that no pod has told of are left out.

        Args:
            model: whose pods.
            attempt: its name.
            since: when it began.
        """
        pods = [pod for pod in self.kubernetes.search(POD, {MODEL: model}) if _answers(pod)]
        told = list(zip(pods, self._pool.map(self._counts, pods), strict=True))
        with self._lock:
            if model not in self._attempts or self._attempts[model].name != attempt:
                self._attempts[model] = _Attempt(attempt)
            known = self._attempts[model].servers
            for pod, counts in told:
                if counts is not None:
                    _remember(known, pod, counts, since)
            return _by_version(known.values())

    def forget(self, model: str) -> None:
        """Nothing of a model is under way any more."""
        with self._lock:
            self._attempts.pop(model, None)

    def _counts(self, pod: Object) -> Counts | None:
        address = pod["status"]["podIP"]
        host = f"[{address}]" if ":" in address else address
        try:
            return counted(self.scrape(f"http://{host}:{PORT}/metrics"))
        except (OSError, ValueError):
            return None


def counted(text: str) -> Counts:
    """What a server's metrics, in Prometheus' text format, say it has answered.

    >>> counted('evergrow_requests_total{protocol="v2",code="200"} 3.0')
    Counts(requests=3, errors=0)
    """
    found = [*_answers_by_code(text)]
    return Counts(sum(n for _, n in found), sum(n for code, n in found if code >= 500))


def _answers_by_code(text: str) -> Iterator[tuple[int, int]]:
    for labels, value in _REQUESTS.findall(text):
        code = _CODE.search(labels)
        if code is not None:
            yield int(code[1]), int(float(value))


def _remember(known: dict[str, _Tally], pod: Object, counts: Counts, since: datetime) -> None:
    metadata, server = pod["metadata"], _server(pod)
    uid = f"{metadata['uid']}/{server.get('restartCount', 0)}"
    if uid not in known:
        running = server.get("state", {}).get("running") or {}
        is_older = instant(running.get("startedAt", metadata["creationTimestamp"])) < since
        known[uid] = _Tally(int(metadata["labels"][VERSION]), counts if is_older else NONE)
    # Less than before is of a server that is only now said to have been restarted.
    known[uid].counted = max(counts, known[uid].counted)


def _server(pod: Object) -> Object:
    """What is said of its server's container."""
    told = pod["status"].get("containerStatuses", [])
    return next((one for one in told if one["name"] == CONTAINER), {})


def _by_version(tallies: Iterable[_Tally]) -> dict[int, Counts]:
    found: dict[int, Counts] = {}
    for tally in tallies:
        found[tally.version] = found.get(tally.version, NONE).plus(tally.total)
    return found


def _answers(pod: Object) -> bool:
    """Whether it is a server that is up; one that is being stopped still counts."""
    status = pod.get("status", {})
    return status.get("phase") == "Running" and bool(status.get("podIP")) and VERSION in pod["metadata"]["labels"]
