"""An installation is a list of steps. Each can be done again without harm, so after a failure all are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manifests.installer.errors import InstallError


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: what it is called when it fails.
        waits_for: what must have happened at its end, and how long that may take.
        action: does it, or sees that it is done.
        hint: what to do if it fails.
    """

    name: str
    waits_for: str
    action: Callable[[], None]
    hint: str


def run(steps: Sequence[Step], say: Callable[[str], None]) -> None:
    """Do one after the other, telling where we are.

    Raises:
        InstallError: one failed; says which, why, and what to do. The ones after it were not begun.
    """
    for number, step in enumerate(steps, start=1):
        say(f"[{number}/{len(steps)}] {step.name} (until {step.waits_for})")
        began = time.monotonic()
        try:
            step.action()
        except InstallError as error:
            hint = "\n".join(
                filter(None, (error.hint, step.hint, "then run the same command again: what is done is kept"))
            )
            raise InstallError(f"step {number} of {len(steps)}, {step.name}: {error}", hint) from error
        say(f"      done in {time.monotonic() - began:.0f} s")
