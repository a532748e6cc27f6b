"""An in-memory stand-in of `Kubernetes`: objects in a dict, and pods that do as told."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evergrow.errors import ClusterError
from evergrow.integrations.kubernetes import POD, Kind

Script = Callable[[Mapping[str, Any]], Iterator[tuple[Mapping[str, Any] | None, str]]]
"""What becomes of a pod: each time it is looked at, its status (None: it is gone) and its log so far."""


class KubernetesTwin:
    """Answers like a namespace of a cluster; `script` says what its pods do."""

    def __init__(self, script: Script = lambda _: succeeds()) -> None:
        self.namespace = "evergrow-dev"
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.deleted: list[tuple[str, str]] = []
        self.refusals: list[ClusterError] = []
        self._script = script
        self._lives: dict[str, Iterator[tuple[Mapping[str, Any] | None, str]]] = {}
        self._logs: dict[str, str] = {}
        self._clock = itertools.count()

    def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        if kind == POD and name in self._lives:
            self._live(name)
        return copy.deepcopy(self.objects.get((kind.name, name)))

    def search(self, kind: Kind, labels: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        found = [o for (k, _), o in self.objects.items() if k == kind.name]
        wanted = (labels or {}).items()
        return [copy.deepcopy(o) for o in found if wanted <= o["metadata"].get("labels", {}).items()]

    def create(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any] | None:
        if self.refusals:
            raise self.refusals.pop(0)
        name = body["metadata"]["name"]
        if (kind.name, name) in self.objects:
            return None
        made = copy.deepcopy(dict(body))
        number = next(self._clock)
        made["metadata"] |= {"uid": f"uid-{number}", "creationTimestamp": f"2026-01-01T00:00:{number:02d}Z"}
        self.objects[kind.name, name] = made
        self.made.append((kind.name, copy.deepcopy(made)))
        if kind == POD:
            self._lives[name] = self._script(made)
        return copy.deepcopy(made)

    def apply(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        if (kind.name, name) not in self.objects:
            return self.create(kind, body) or {}
        kept = self.objects[kind.name, name]["metadata"]
        self.objects[kind.name, name] = copy.deepcopy({**body, "metadata": {**kept, **body["metadata"]}})
        return copy.deepcopy(self.objects[kind.name, name])

    def delete(self, kind: Kind, name: str) -> None:
        self.deleted.append((kind.name, name))
        self.objects.pop((kind.name, name), None)

    def log(self, pod: str, container: str | None = None) -> str:
        return self._logs.get(pod, "")

    def names(self, kind: Kind) -> list[str]:
        return [name for k, name in self.objects if k == kind.name]

    def _live(self, name: str) -> None:
        told = next(self._lives[name], None)
        if told is None or (POD.name, name) not in self.objects:
            return
        status, self._logs[name] = told
        if status is None:
            self.objects.pop((POD.name, name))
        else:
            self.objects[POD.name, name]["status"] = dict(status)


def succeeds(log: str = "") -> Iterator[tuple[Mapping[str, Any], str]]:
    yield {"phase": "Pending"}, ""
    yield {"phase": "Running"}, log
    yield {"phase": "Succeeded"}, log


def fails(log: str = "", code: int = 1, **status: Any) -> Iterator[tuple[Mapping[str, Any], str]]:
    yield {"phase": "Running"}, log
    ended = {"exitCode": code, "reason": status.pop("container", "Error"), "message": log[-200:]}
    yield {"phase": "Failed", "containerStatuses": [{"name": "main", "state": {"terminated": ended}}], **status}, log


def vanishes() -> Iterator[tuple[Mapping[str, Any] | None, str]]:
    yield {"phase": "Running"}, ""
    yield None, ""


def waits(reason: str, message: str = "") -> Iterator[tuple[Mapping[str, Any], str]]:
    waiting = {"name": "main", "state": {"waiting": {"reason": reason, "message": message}}}
    while True:
        yield {"phase": "Pending", "containerStatuses": [waiting]}, ""
