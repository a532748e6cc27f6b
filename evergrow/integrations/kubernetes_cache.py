"""Objects of a namespace as a watch tells of them: who reads them asks the API server for nothing.

What is read may be a moment old. Who writes says of which revision, and is refused where that has passed.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from evergrow.integrations.kubernetes import Kind, Kubernetes, Object


@dataclass(frozen=True)
class Watched:
    """A kind of object that is kept here.

    Attributes:
        kind: which.
        labels: by which objects are found beside their own.
        matters: what of an object is worth a look when it changes.
        kept: what of an object is kept.
        selector: labels that objects must have to be kept.
    """

    kind: Kind
    labels: Callable[[Object], Mapping[str, str]] = lambda _: {}
    matters: Callable[[Object], Any] = lambda found: found
    kept: Callable[[Object], Object] = lambda found: found
    selector: Mapping[str, str] | None = None


class _Entry(NamedTuple):
    revision: str
    labels: Mapping[str, str]
    matters: str
    content: bytes
    """JSON: hundreds of parsed objects would take ten times the memory."""


class CachedKubernetes(Kubernetes):
    """A namespace whose watched kinds are read from memory. What is written here is known here at once."""

    def __init__(self, kubernetes: Kubernetes, watched: Sequence[Watched]) -> None:
        super().__init__(kubernetes.client, kubernetes.namespace, kubernetes.patience)
        self.watched = {one.kind: one for one in watched}
        self._entries: dict[Kind, dict[str, _Entry]] = {one.kind: {} for one in watched}
        self._lock = threading.Lock()

    # -- what a watch tells --

    def learn(self, kind: Kind, found: Object) -> bool:
        """Keep an object as it is now; whether something has changed that matters. An older one is no news."""
        name, entry = str(found["metadata"]["name"]), self._entry(kind, found)
        with self._lock:
            before = self._entries[kind].get(name)
            if before is not None and _is_older(entry.revision, before.revision):
                return False
            self._entries[kind][name] = entry
        return before is None or before.matters != entry.matters

    def forget(self, kind: Kind, name: str) -> None:
        """An object is gone."""
        with self._lock:
            self._entries[kind].pop(name, None)

    def fill(self) -> None:
        """Read everything that is watched, for whatever a watch has missed.

        Raises:
            ClusterError: the API server refuses or does not answer.
        """
        for kind, one in self.watched.items():
            items, revision = self.listed(kind, one.selector)
            there = {str(found["metadata"]["name"]) for found in items}
            for found in items:
                self.learn(kind, found)
            with self._lock:
                gone = [
                    name
                    for name, entry in self._entries[kind].items()
                    if name not in there and not _is_older(revision, entry.revision)
                ]
                for name in gone:
                    del self._entries[kind][name]

    def labels(self, kind: Kind) -> list[Mapping[str, str]]:
        """Those of each object of a watched kind."""
        with self._lock:
            return [entry.labels for entry in self._entries[kind].values()]

    def count(self, kind: Kind, label: str) -> Counter[str]:
        """Objects of a watched kind by a label's value."""
        return Counter(labels[label] for labels in self.labels(kind) if label in labels)

    # -- what others read --

    def get(self, kind: Kind, name: str) -> Object | None:
        """An object; None if there is none."""
        if kind not in self.watched:
            return super().get(kind, name)
        with self._lock:
            entry = self._entries[kind].get(name)
        return None if entry is None else _parsed(entry)

    def search(self, kind: Kind, labels: Mapping[str, str] | None = None) -> list[Object]:
        """All objects of a kind with these labels."""
        if kind not in self.watched:
            return super().search(kind, labels)
        wanted = (labels or {}).items()
        with self._lock:
            found = [entry for entry in self._entries[kind].values() if wanted <= entry.labels.items()]
        return [_parsed(entry) for entry in found]

    # -- what is written --

    def create(self, kind: Kind, body: Object) -> Object | None:
        """Make an object; None if one of its name exists already."""
        return self._written(kind, super().create(kind, body))

    def apply(self, kind: Kind, body: Object) -> Object:
        """Make an object what `body` says of it."""
        return self._written(kind, super().apply(kind, body)) or {}

    def patch(self, kind: Kind, name: str, changes: Object | Sequence[Object], part: str = "") -> Object | None:
        """Change an object; returns what it is then, None if there is none."""
        changed = super().patch(kind, name, changes, part)
        if changed is None and kind in self.watched:
            self.forget(kind, name)
        return self._written(kind, changed)

    def _written(self, kind: Kind, found: Object | None) -> Object | None:
        if found and kind in self.watched:
            metadata = found["metadata"]
            if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
                # That was the last thing that kept it.
                self.forget(kind, str(metadata["name"]))
            else:
                self.learn(kind, found)
        return found

    def _entry(self, kind: Kind, found: Object) -> _Entry:
        one, metadata = self.watched[kind], {**found["metadata"]}
        metadata.pop("managedFields", None)
        whole = {"apiVersion": kind.api_version, "kind": kind.name, **found, "metadata": metadata}
        labels = {**metadata.get("labels", {}), **one.labels(found)}
        matters = json.dumps(one.matters(found), sort_keys=True)
        return _Entry(str(metadata.get("resourceVersion", "")), labels, matters, json.dumps(one.kept(whole)).encode())


def _parsed(entry: _Entry) -> Object:
    found: Object = json.loads(entry.content)
    return found


def _is_older(revision: str, than: str) -> bool:
    """Revisions of one server are numbers that grow; of others nothing is known, and what comes last is the newest."""
    return revision.isdecimal() and than.isdecimal() and int(revision) < int(than)
