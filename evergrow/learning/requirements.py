"""Whether what is installed is what a bundle was made with: asked before a version serves, not told by its answers."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from evergrow.contracts import TrainedModel
from evergrow.errors import ServingError

Installed = Callable[[str], str | None]
"""From a distribution's name, as PyPA normalises it ("scikit-learn"), to its version; None if it is not there."""

ANY_VERSION = frozenset({"pydantic", "threadpoolctl"})
"""What reads a bundle or bounds its threads: no score depends on its version, so only on its being there."""

_PIN = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([^\s;,=*]+)")


@dataclass(frozen=True)
class Mismatch:
    """A requirement of a bundle that is not met.

    Attributes:
        name: of the distribution, normalised.
        required: the version that the bundle was made with.
        installed: the version that is there; None if it is not.
    """

    name: str
    required: str
    installed: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.required} is required, {self.installed or 'none'} is installed"


def installed_version(name: str) -> str | None:
    """The version of an installed distribution; None if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def pin(requirement: str) -> tuple[str, str]:
    """Normalised name and version of a pin.

    Raises:
        ServingError: it is none.

    >>> pin("Scikit_Learn==1.9.1")
    ('scikit-learn', '1.9.1')
    """
    match = _PIN.fullmatch(requirement.strip())
    if match is None:
        raise ServingError(f"requirements: each must be name==version, found {requirement!r}")
    return re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]


def mismatches(requirements: Iterable[str], installed: Installed = installed_version) -> list[Mismatch]:
    """Which of a bundle's requirements are not met, in their order.

    A version must be the very one, but for those of ANY_VERSION: the same estimator answers differently under another
    release of its library, and mostly without an error.

    Args:
        requirements: "name==version", as `TrainedModel.requirements` has them.
        installed: what is there; this process's own distributions, unless another place is asked about.

    Raises:
        ServingError: a requirement is no pin.

    >>> mismatches(["numpy==2.4.6", "onnxruntime==1.26.0"], {"numpy": "2.4.6", "onnxruntime": "1.25.1"}.get)
    [Mismatch(name='onnxruntime', required='1.26.0', installed='1.25.1')]
    """
    found = [Mismatch(name, version, installed(name)) for name, version in map(pin, requirements)]
    return [m for m in found if not _met(m)]


def check(model: TrainedModel, installed: Installed = installed_version) -> None:
    """Refuse a model whose requirements are not met.

    Raises:
        ServingError: names each, with both versions.
    """
    if unmet := mismatches(model.requirements, installed):
        raise ServingError(
            f"{model.model}: {'; '.join(map(str, unmet))}",
            hint="serve it with an image of its own requirements (python -m components.build server --bundle ...), "
            "or train it again with what is installed",
        )


def _met(found: Mismatch) -> bool:
    return found.installed == found.required or (found.installed is not None and found.name in ANY_VERSION)
