"""Programs are run here, and nowhere else: with a limit of time, and with an error that says what failed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from manifests.installer.cluster import ROOT
from manifests.installer.errors import InstallError

# What is asked, not done, answers soon or not at all.
ASK_SECONDS = 60.0
Command = str | Sequence[str]
"""A line as a person would type it, or its words."""


@dataclass(frozen=True)
class Commands:
    """Runs programs in the repository.

    Attributes:
        variables: environment variables they get beside ours.
    """

    variables: Mapping[str, str] = field(default_factory=dict)

    def with_variables(self, **variables: str) -> Commands:
        """The same with more variables."""
        return replace(self, variables={**self.variables, **variables})

    def run(self, command: Command, seconds: float, text: str | None = None) -> None:
        """Run to the end, showing what it says.

        Args:
            command: what.
            seconds: how long it may take.
            text: its standard input.

        Raises:
            InstallError: it failed, or took too long.
        """
        done = self._done(command, seconds, text, capture=False)
        if done.returncode != 0:
            raise InstallError(f"`{shlex.join(done.args)}` failed with exit code {done.returncode}; see above")

    def ask(self, command: Command, seconds: float = ASK_SECONDS) -> str:
        """What a program answers.

        Raises:
            InstallError: it failed; with what it says.
        """
        done = self._done(command, seconds, None, capture=True)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise InstallError(f"`{shlex.join(done.args)}` failed: {said}")
        return done.stdout

    def succeeds(self, command: Command) -> bool:
        """Whether a program ends well."""
        try:
            self.ask(command)
        except InstallError:
            return False
        return True

    def path(self) -> str:
        """Where programs are looked for: first beside this Python."""
        return self._environment()["PATH"]

    def _done(
        self, command: Command, seconds: float, text: str | None, capture: bool
    ) -> subprocess.CompletedProcess[str]:
        words = shlex.split(command) if isinstance(command, str) else list(command)
        try:
            # Commands are this repository's own, and those of the chosen cluster's document.
            return subprocess.run(  # noqa: S603
                words,
                cwd=ROOT,
                env=self._environment(),
                input=text,
                capture_output=capture,
                text=True,
                timeout=seconds,
                check=False,
            )
        except FileNotFoundError as error:
            raise InstallError(f"{words[0]} is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise InstallError(f"`{shlex.join(words)}` did not end within {seconds:.0f} s") from error

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return {**os.environ, "PATH": path, **self.variables}
