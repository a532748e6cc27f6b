"""Every error evergrow raises. Foreign errors are translated into these once, in `integrations/`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable


class EvergrowError(Exception):
    """The root. `str(error)` says which field, which rule and which value; `hint` says what to do."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", retriable: bool = False, data: Iterable[object] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.retriable = retriable
        """Whether the same may go well a moment later, because a service that did not answer is back by then."""
        self.data = tuple(str(value) for value in data)
        """Parts of the message that are values of rows: who looks at the data may see them, a log may not."""


def as_text(text: str, hint: str, kind: str = "error") -> str:
    """An error as everything of ours tells it, for people to read and for `evergrow status` to find in a log."""
    return "\n".join((f"{kind}: {text}", *(f"  hint: {line}" for line in hint.splitlines())))


WITHHELD = "…"
"""What a log has in place of data."""


def public(error: BaseException) -> str:
    """What a log may tell of an error: its message if it is ours, without the data that it quotes; else its class.

    >>> public(DataError("label: must be 0 or 1, found 7", data=[7]))
    'label: must be 0 or 1, found …'
    >>> public(KeyError("N14228"))
    'KeyError'
    """
    if not isinstance(error, EvergrowError) or isinstance(error, RequestError):
        return type(error).__name__
    return without(str(error), error.data)


def without(text: str, data: Iterable[str]) -> str:
    """A text that quotes data, without it."""
    for value in sorted(filter(None, data), key=len, reverse=True):
        text = text.replace(value, WITHHELD)
    return text


def exit_code_of(program: Callable[[], None]) -> int:
    """Run a program to its end; an error of ours is told on standard error, with what to do, and is its exit code."""
    try:
        program()
    except EvergrowError as error:
        print(as_text(str(error), error.hint), file=sys.stderr)
        return error.exit_code
    return 0


class SpecError(EvergrowError):
    """A document is not a valid resource, or names something that does not exist."""

    exit_code = 2


class DataError(EvergrowError):
    """Data from a source cannot be used; what was stored before is unchanged."""

    exit_code = 3


class UpstreamError(DataError):
    """A source changed in a way no row-level rule can repair: a column, type, unit or the clock."""


class NotEnoughData(DataError):
    """Too few rows with known labels to train or judge on."""


class FeatureStoreError(EvergrowError):
    """The feature store refused, lacks a definition, or cannot be reached."""

    exit_code = 4


class RegistryError(EvergrowError):
    """The model registry refused, lacks a version, or cannot be reached."""

    exit_code = 5


class PipelineError(EvergrowError):
    """A pipeline step failed."""

    exit_code = 6


class ServingError(EvergrowError):
    """A model cannot be served: a bundle is broken or its golden request was answered wrongly."""

    exit_code = 7


class StoreError(EvergrowError):
    """The object store refused, lacks something, or cannot be reached."""

    exit_code = 8


class ConflictError(StoreError):
    """Another run changed the same state in the meantime; nothing of this one was kept."""


class ClusterError(EvergrowError):
    """Kubernetes or Kubeflow refused, lacks something, or cannot be reached."""

    exit_code = 9


class RolloutError(EvergrowError):
    """There is no such rollout, or it is over, or something else has to be there first."""

    exit_code = 11


class LoopError(EvergrowError):
    """The loop of a model is run by somebody else, or its book cannot be gone on with."""

    exit_code = 12


class RequestError(EvergrowError):
    """A prediction request cannot be answered as it is; the caller must mend it (HTTP 4xx)."""

    exit_code = 2
