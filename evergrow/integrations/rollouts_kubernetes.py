"""Rollouts on a cluster: ContinualModels and ModelRollouts are custom resources, orders are annotations.

A status is written only over the revision that was read. While a rollout is under way, a finalizer keeps its object:
who deletes it aborts it first.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from evergrow.errors import ConflictError, RolloutError, SpecError
from evergrow.integrations.kubernetes import CONTINUAL_MODEL, EVENT, MODEL_ROLLOUT, Kind, Kubernetes, Object, owners
from evergrow.integrations.labels import MANAGED_BY, MODEL
from evergrow.integrations.rollout_files import RolloutEvent
from evergrow.ports import Clock
from evergrow.rollout.attempt import ORDER, ORDERED_BY, REQUESTED, Attempt
from evergrow.rollout.conditions import Said, conditions, of_model, of_rollout
from evergrow.rollout.machine import Order
from evergrow.spec import ContinualModel, ModelRollout, stored
from evergrow.spec.base import Part
from evergrow.spec.model import ModelStatus
from evergrow.spec.rollout import Condition, RolloutStatus

FINALIZER = "evergrow.dev/rollout"
COMPONENT = "evergrow-operator"
LONGEST_MESSAGE = 1024
"""Of an event, as the API server accepts it."""
REMEMBERED = 4096
"""Events that are not told again for a while."""
QUIET = timedelta(minutes=10)
"""So long the same is not told again."""
LOOP = "loop"
"""The part of a model's status that `integrations.loop_kubernetes` writes."""
INVALID = "Invalid"
"""Reason of the condition and the event of a document that cannot be read."""
_CONDITIONS = TypeAdapter(tuple[Condition, ...])


class KubernetesRollouts:
    """`evergrow.ports.Rollouts` in a namespace of a cluster."""

    def __init__(self, kubernetes: Kubernetes, clock: Clock) -> None:
        self.kubernetes, self.clock = kubernetes, clock
        self._told: OrderedDict[str, datetime] = OrderedDict()
        self._lock = threading.Lock()

    def model(self, name: str) -> ContinualModel | None:
        """The model's document; None if there is none.

        Raises:
            SpecError: it cannot be read, which its condition Degraded and an event say from then on.
        """
        found = self.kubernetes.get(CONTINUAL_MODEL, name)
        if found is None:
            return None
        try:
            document = stored(found, ContinualModel)
        except SpecError as error:
            self._refuse(CONTINUAL_MODEL, found, error)
            raise
        self._accept(found)
        return document

    def put_model(self, document: ContinualModel) -> None:
        """Have a model's document known. One that somebody applied stays; of those made here the last counts."""
        found = self.kubernetes.get(CONTINUAL_MODEL, document.name)
        if found is not None and not MANAGED_BY.items() <= found["metadata"].get("labels", {}).items():
            return
        body = document.dump()
        body["metadata"]["labels"] = {**body["metadata"]["labels"], **MANAGED_BY}
        self.kubernetes.apply(CONTINUAL_MODEL, body)

    def models(self) -> list[str]:
        """Names of the models of which there is a document or a rollout, in their order."""
        documents = (str(one["metadata"]["name"]) for one in self.kubernetes.search(CONTINUAL_MODEL))
        asked = (str(one["spec"]["model"]) for one in self.kubernetes.search(MODEL_ROLLOUT))
        return sorted({*documents, *asked})

    def events(self, model: str) -> list[RolloutEvent]:
        """What was told of a model's attempts, oldest first, as far back as the cluster keeps events."""
        names = {one.name for one in self.attempts(model)}
        found = (one for one in self.kubernetes.search(EVENT) if one["involvedObject"]["name"] in names)
        told = [
            RolloutEvent(
                at=one["lastTimestamp"],
                name=one["involvedObject"]["name"],
                reason=one["reason"],
                message=one["message"],
                warning=one["type"] == "Warning",
            )
            for one in found
            if one["involvedObject"].get("kind") == MODEL_ROLLOUT.name
        ]
        return sorted(told, key=lambda one: one.at)

    def attempts(self, model: str) -> Sequence[Attempt]:
        """All that are known of a model, in the order in which they were asked for.

        That is by `creationTimestamp`, which has whole seconds; of the same second by the annotation that `create`
        makes, then by name. One that cannot be read is left out: its condition Degraded and an event say so.
        """
        found = self.kubernetes.search(MODEL_ROLLOUT, {MODEL: model})
        read = (self._read(one) for one in sorted(found, key=_asked))
        return [attempt for attempt in read if attempt is not None]

    def create(self, attempt: ModelRollout) -> None:
        """Ask for one.

        Raises:
            ConflictError: there is one of that name.
        """
        body = attempt.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
        metadata = body["metadata"]
        metadata["labels"] = {**metadata["labels"], **MANAGED_BY, MODEL: attempt.spec.model}
        metadata["annotations"] = {REQUESTED: self.clock.now().isoformat(), **metadata["annotations"]}
        metadata["ownerReferences"] = self._owners(attempt.spec.model)
        if self.kubernetes.create(MODEL_ROLLOUT, body) is None:
            raise ConflictError(f"there is a rollout named {attempt.name} already", hint="choose another name")

    def order(self, model: str, name: str, order: Order, by: str) -> None:
        """Order something of one, in place of what was ordered before.

        Raises:
            RolloutError: there is none of that name.
        """
        found = self.kubernetes.get(MODEL_ROLLOUT, name)
        annotations = {"metadata": {"annotations": {ORDER: order, ORDERED_BY: by}}}
        if found is None or found["spec"]["model"] != model or not self._patched(name, annotations):
            raise RolloutError(
                f"{model} has no rollout named {name}", hint=f"`kubectl get modelrollouts -l {MODEL}={model}` lists all"
            )

    def write(self, attempt: Attempt, status: RolloutStatus) -> Attempt:
        """Replace the status that was read; returns the attempt as it is now.

        Raises:
            ConflictError: it has changed since, or is gone.
        """
        found = self.kubernetes.get(MODEL_ROLLOUT, attempt.name)
        if found is not None and not attempt.begun and not attempt.deleted:
            found = self._adopted(found, attempt.revision)
            revision = found["metadata"]["resourceVersion"] if found else ""
        else:
            revision = attempt.revision
        if found is None:
            raise _gone(attempt)
        generation = found["metadata"].get("generation", 0)
        said = of_rollout(status, generation, self.clock.now())
        whole = status.model_copy(update={"conditions": said, "observed_generation": generation})
        operations = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": revision},
            {"op": "add", "path": "/status", "value": _dumped(whole)},
        ]
        written = self.kubernetes.patch(MODEL_ROLLOUT, attempt.name, operations, "status")
        after = self._read(written) if written is not None else None
        if after is None:
            raise _gone(attempt)
        return after

    def fulfil(self, attempt: Attempt) -> None:
        """Take away the order that was read, unless another has come since."""
        annotations = attempt.document.metadata.annotations
        if ORDER not in annotations:
            return
        read = {key: annotations[key] for key in (ORDER, ORDERED_BY) if key in annotations}
        paths = {key: f"/metadata/annotations/{key.replace('/', '~1')}" for key in read}
        operations = [{"op": "test", "path": paths[key], "value": value} for key, value in read.items()]
        operations += [{"op": "remove", "path": path} for path in paths.values()]
        try:
            self.kubernetes.patch(MODEL_ROLLOUT, attempt.name, operations)
        except ConflictError:
            # Somebody ordered something else meanwhile, or took it away: the next look sees to that.
            return

    def release(self, attempt: Attempt) -> None:
        """Let one that has come to its end be deleted; again changes nothing.

        Raises:
            ConflictError: others change it at the same time.
        """
        found = self.kubernetes.get(MODEL_ROLLOUT, attempt.name)
        if found is not None:
            self._released(found)

    def tell(self, attempt: Attempt, reason: str, message: str, *, warning: bool = False) -> None:
        """Have an event of it where people look; `reason` is one word in CamelCase."""
        found = self.kubernetes.get(MODEL_ROLLOUT, attempt.name)
        if found is not None:
            self._event(MODEL_ROLLOUT, found, reason, message, warning)

    def tell_of_model(self, model: str, reason: str, message: str, *, warning: bool = False) -> None:
        """Have an event of a model where people look; of a model that has no document, of nothing."""
        found = self.kubernetes.get(CONTINUAL_MODEL, model)
        if found is not None:
            self._event(CONTINUAL_MODEL, found, reason, message, warning)

    def report(self, model: str, status: ModelStatus) -> None:
        """Say what has become of a model; again changes nothing."""
        found = self.kubernetes.get(CONTINUAL_MODEL, model)
        if found is None:
            return
        generation, before = found["metadata"].get("generation", 0), found.get("status", {})
        said = of_model(status, _conditions(found), generation, self.clock.now())
        told = _dumped(status.model_copy(update={"conditions": said, "observed_generation": generation}))
        # What is said of its loop is not ours.
        changed = {key: told.get(key) for key in {*told, *before} - {LOOP} if told.get(key) != before.get(key)}
        if changed:
            self.kubernetes.patch(CONTINUAL_MODEL, model, {"status": changed}, "status")

    def reported(self, model: str) -> ModelStatus | None:
        """What was said last; None if nothing was, or it cannot be read."""
        said = (self.kubernetes.get(CONTINUAL_MODEL, model) or {}).get("status")
        try:
            return None if said is None else ModelStatus.model_validate(said)
        except ValidationError:
            return None

    # -- objects --

    def _read(self, found: Object) -> Attempt | None:
        """An object as it is; None if it cannot be read."""
        metadata = found["metadata"]
        deleted = "deletionTimestamp" in metadata
        try:
            return Attempt(stored(found, ModelRollout), str(metadata["resourceVersion"]), deleted)
        except SpecError as error:
            if deleted:
                self._released(found)
            else:
                self._refuse(MODEL_ROLLOUT, found, error)
            return None

    def _adopted(self, found: Object, revision: str) -> Object | None:
        """An object with what all of them have, before it has a status: finalizer, label and owner."""
        metadata, model = found["metadata"], found["spec"]["model"]
        finalizers = metadata.get("finalizers", [])
        changed: dict[str, Any] = {
            "resourceVersion": revision,
            "finalizers": finalizers if FINALIZER in finalizers else [*finalizers, FINALIZER],
            "labels": {MODEL: model},
        }
        if not metadata.get("ownerReferences"):
            changed["ownerReferences"] = self._owners(model)
        return self.kubernetes.patch(MODEL_ROLLOUT, metadata["name"], {"metadata": changed})

    def _released(self, found: Object) -> None:
        metadata = found["metadata"]
        finalizers = metadata.get("finalizers", [])
        if FINALIZER in finalizers:
            rest = [one for one in finalizers if one != FINALIZER]
            changed = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": rest}}
            self._patched(metadata["name"], changed)

    def _patched(self, name: str, changes: Object) -> bool:
        return self.kubernetes.patch(MODEL_ROLLOUT, name, changes) is not None

    def _owners(self, model: str) -> list[dict[str, Any]]:
        return owners(self.kubernetes.get(CONTINUAL_MODEL, model))

    # -- what people are told --

    def _refuse(self, kind: Kind, found: Object, error: SpecError) -> None:
        """Say of a document that cannot be read that it cannot, once."""
        self._event(kind, found, INVALID, str(error), warning=True)
        known = next((one for one in _conditions(found) if one.type == "Degraded"), None)
        if known is None or (known.status, known.message) != ("True", str(error)):
            self._degraded(kind, found, Said("Degraded", True, INVALID, str(error)))

    def _accept(self, found: Object) -> None:
        """Take back what was said of a document that could not be read, and now can."""
        if any((one.type, one.status, one.reason) == ("Degraded", "True", INVALID) for one in _conditions(found)):
            self._degraded(CONTINUAL_MODEL, found, Said("Degraded", False, "AsExpected", ""))

    def _degraded(self, kind: Kind, found: Object, said: Said) -> None:
        metadata = found["metadata"]
        all_of_it = conditions([said], _conditions(found), metadata.get("generation", 0), self.clock.now())
        dumped = [one.dump() for one in all_of_it]
        self.kubernetes.patch(kind, metadata["name"], {"status": {"conditions": dumped}}, "status")

    def _event(self, kind: Kind, found: Object, reason: str, message: str, warning: bool) -> None:
        """One event for what is told, however often: of the same again only the count and the time change."""
        metadata = found["metadata"]
        digest = hashlib.sha256(f"{metadata['uid']} {reason} {message}".encode()).hexdigest()[:16]
        name = f"{metadata['name']}.{digest}"
        if not self._is_news(name):
            return
        now = _whole_seconds(self.clock.now())
        about = {"apiVersion": kind.api_version, "kind": kind.name, "namespace": self.kubernetes.namespace}
        body = {
            "metadata": {"name": name, "labels": {**MANAGED_BY}},
            "involvedObject": {**about, "name": metadata["name"], "uid": metadata["uid"]},
            "reason": reason,
            "message": message[:LONGEST_MESSAGE],
            "type": "Warning" if warning else "Normal",
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        if self.kubernetes.create(EVENT, body) is None:
            told = self.kubernetes.get(EVENT, name) or {}
            self.kubernetes.patch(EVENT, name, {"count": told.get("count", 1) + 1, "lastTimestamp": now})

    def _is_news(self, event: str) -> bool:
        now = self.clock.now()
        with self._lock:
            told = self._told.get(event)
            if told is not None and timedelta(0) <= now - told < QUIET:
                return False
            self._told[event] = now
            self._told.move_to_end(event)
            if len(self._told) > REMEMBERED:
                self._told.popitem(last=False)
            return True


def _asked(found: Object) -> tuple[str, str, str]:
    metadata = found["metadata"]
    requested = metadata.get("annotations", {}).get(REQUESTED, "")
    return str(metadata["creationTimestamp"]), str(requested), str(metadata["name"])


def _dumped(status: Part) -> dict[str, Any]:
    """As an API server keeps it, which drops what is null."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _conditions(found: Object) -> tuple[Condition, ...]:
    """Those of an object; none if they are not to be read."""
    said: Mapping[str, Any] = found.get("status") or {}
    try:
        return _CONDITIONS.validate_python(said.get("conditions") or ())
    except ValidationError:
        return ()


def _whole_seconds(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def _gone(attempt: Attempt) -> ConflictError:
    return ConflictError(f"rollout {attempt.name} is gone, or is not to be read any more", retriable=True)
