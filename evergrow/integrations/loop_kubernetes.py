"""What people say to a model's loop on a cluster, and what the loop tells them: annotations and status of its object.

    kubectl annotate continualmodel delays evergrow.dev/ask="new weather station"
    kubectl annotate continualmodel delays evergrow.dev/freeze="audit until Friday"
    kubectl annotate continualmodel delays evergrow.dev/freeze-

Who may annotate it may have a say: Kubernetes' own rights decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evergrow.errors import ConflictError, LoopError
from evergrow.integrations.kubernetes import CONTINUAL_MODEL, Kubernetes
from evergrow.integrations.rollouts_kubernetes import LOOP
from evergrow.loop.state import Wish
from evergrow.spec.model import LoopStatus

ASK, ASKED_BY = "evergrow.dev/ask", "evergrow.dev/asked-by"
"""Annotations: that a training is asked for, and why; and who asks. Both go once that is in the book."""
FREEZE, FROZEN_BY = "evergrow.dev/freeze", "evergrow.dev/frozen-by"
"""Annotations: that nothing is to be begun while they stand there, and why; and who wants it."""
SOMEBODY = "annotation"
"""Who has said something without saying who."""


class ModelObject:
    """The ContinualModel of a name, in a namespace."""

    def __init__(self, kubernetes: Kubernetes, model: str) -> None:
        self.kubernetes, self.model = kubernetes, model

    # -- what people say --

    def ask(self, wish: Wish) -> None:
        """Ask for a training.

        Raises:
            LoopError: there is no such model.
        """
        self._annotate({ASK: wish.reason, ASKED_BY: wish.by})

    def freeze(self, wish: Wish) -> None:
        """Have nothing begun.

        Raises:
            LoopError: there is no such model.
        """
        self._annotate({FREEZE: wish.reason, FROZEN_BY: wish.by})

    def thaw(self) -> None:
        """Let trainings be begun again.

        Raises:
            LoopError: there is no such model.
        """
        self._annotate({FREEZE: None, FROZEN_BY: None})

    # -- what the loop reads and writes --

    def wishes(self) -> tuple[Wish | None, Wish | None]:
        """What is asked for, and what is frozen; None: nothing, or there is no such model."""
        annotations = self._annotations()
        return _wish(annotations, ASK, ASKED_BY), _wish(annotations, FREEZE, FROZEN_BY)

    def heard(self, ask: Wish) -> None:
        """Take a request away that is in the book, unless another has come since."""
        path = f"/metadata/annotations/{ASK.replace('/', '~1')}"
        operations: list[Mapping[str, Any]] = [
            {"op": "test", "path": path, "value": ask.reason},
            {"op": "remove", "path": path},
        ]
        if ASKED_BY in self._annotations():
            operations.append({"op": "remove", "path": f"/metadata/annotations/{ASKED_BY.replace('/', '~1')}"})
        try:
            self.kubernetes.patch(CONTINUAL_MODEL, self.model, operations)
        except ConflictError:
            return  # somebody asks for something else, or has taken it back: the next look sees to that

    def report(self, status: LoopStatus) -> None:
        """Say what the loop has come to; of a model that has no object, to nobody."""
        told = status.model_dump(mode="json", by_alias=True)  # null takes away what was there
        self.kubernetes.patch(CONTINUAL_MODEL, self.model, {"status": {LOOP: told}}, "status")

    def reported(self) -> LoopStatus | None:
        """What was said last; None: nothing yet.

        Raises:
            LoopError: there is no such model.
        """
        found = self.kubernetes.get(CONTINUAL_MODEL, self.model)
        if found is None:
            raise _unknown(self.model)
        told = found.get("status", {}).get(LOOP)
        return None if told is None else LoopStatus.model_validate(told)

    # -- how --

    def _annotations(self) -> Mapping[str, str]:
        found = self.kubernetes.get(CONTINUAL_MODEL, self.model) or {}
        annotations: Mapping[str, str] = found.get("metadata", {}).get("annotations") or {}
        return annotations

    def _annotate(self, annotations: Mapping[str, str | None]) -> None:
        if self.kubernetes.patch(CONTINUAL_MODEL, self.model, {"metadata": {"annotations": annotations}}) is None:
            raise _unknown(self.model)


def _wish(annotations: Mapping[str, str], what: str, by: str) -> Wish | None:
    return Wish(annotations.get(by, SOMEBODY), annotations[what]) if what in annotations else None


def _unknown(model: str) -> LoopError:
    return LoopError(
        f"{model}: there is no such ContinualModel in the environment",
        hint="`kubectl apply -f model.yaml` makes it, and so does the first training that is deployed",
    )
