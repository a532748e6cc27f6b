"""The drift tools of others that a model's document may name; each is imported when it is first asked something."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from evergrow.errors import SpecError
from evergrow.integrations import alibi_detect
from evergrow.integrations.alibi_detect import AlibiDetectDrift
from evergrow.integrations.evidently import EvidentlyDrift
from evergrow.integrations.whylogs import WhylogsDrift
from evergrow.ports import DriftTool

FIELD = "monitoring.driftTools"


@dataclass(frozen=True)
class Known:
    """A tool that can be named.

    Attributes:
        title: what it calls itself.
        make: with what it tests by default.
        installed: whether it can be used here; loads nothing.
        install: what installs it on one machine.
        image: of steps, that holds it.
    """

    title: str
    make: Callable[[], DriftTool]
    installed: Callable[[], bool]
    install: str
    image: str


def _has(*packages: str) -> bool:
    return all(find_spec(package) is not None for package in packages)


def _has_alibi_detect() -> bool:
    return alibi_detect.is_installed(os.environ.get(alibi_detect.PYTHON, ""))


TOOLS: Mapping[str, Known] = {
    "evidently": Known(
        EvidentlyDrift.title,
        EvidentlyDrift,
        partial(_has, "evidently"),
        EvidentlyDrift.install,
        "evergrow/steps-drift-python",
    ),
    "whylogs": Known(
        WhylogsDrift.title,
        WhylogsDrift,
        partial(_has, "whylogs", "IPython"),
        WhylogsDrift.install,
        "evergrow/steps-drift-python",
    ),
    "alibi-detect": Known(
        "Alibi Detect",
        AlibiDetectDrift,
        _has_alibi_detect,
        f"{alibi_detect.INSTALL}; export {alibi_detect.PYTHON}=$PWD/alibi/bin/python",
        "evergrow/steps-drift-alibi-python",
    ),
}
"""By their names in `monitoring.driftTools`."""


def drift_tool(name: str) -> DriftTool:
    """A tool by its name in the document.

    Raises:
        SpecError: there is no such tool, or it is not installed here; says what installs it.
    """
    if name not in TOOLS:
        raise SpecError(f"`{FIELD}` must be of {', '.join(TOOLS)}, found {name!r}")
    known = TOOLS[name]
    if not known.installed():
        raise SpecError(
            f"`{FIELD}` must name tools that are installed where steps run, found {name!r}, and no {known.title} here",
            hint=f"on one machine: {known.install}\non a cluster: images.steps must be {known.image}",
        )
    return known.make()


def second_opinions(names: Iterable[str]) -> Mapping[str, Callable[[], DriftTool]]:
    """What makes each tool that a document names, by what the tool calls itself."""
    return {TOOLS[name].title: partial(drift_tool, name) for name in names}
