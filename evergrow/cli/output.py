"""What commands print: data on standard output, for people or as JSON; progress on standard error."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table

    from evergrow.journal import Event


UNBOUNDED = 100_000
"""Columns of what is no terminal."""


class Output(StrEnum):
    """How data is printed."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for scripts.")]


def show(value: Any, output: Output, text: str) -> None:
    """Print `value` as JSON, or `text`."""
    print(json.dumps(value, indent=1, default=str, ensure_ascii=False) if output is Output.JSON else text)


def show_table(rows: Sequence[Mapping[str, Any]], output: Output, empty: str) -> None:
    """Print rows of the same columns as JSON or as a table; `empty` if there are none."""
    if output is Output.JSON or not rows:
        show(rows, output, empty)
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    print_whole(table)


def print_whole(table: Table) -> None:
    """Print a table of which nothing is cut off: a terminal folds what is too long, elsewhere lines are that long."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = UNBOUNDED
    console.print(table)


class Steps:
    """Shows a run's steps while they run: which, for how long, and what they say.

    On a terminal one line a step with a clock; elsewhere (a log) one line when a step ends.
    """

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.title = title
        self.console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}", style="dim", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[int, TaskID] = {}
        self._started: dict[int, tuple[float, str]] = {}

    def __enter__(self) -> Self:
        self.console.print(f"[bold]{self.title}")
        self._progress.start()
        self._begun = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Say something of the run as a whole."""
        self.console.print(f"  {text}", markup=False, soft_wrap=True)

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if event.process not in self._tasks:  # a pod that was killed before its step began is told of, too
            self._tasks[event.process] = self._progress.add_task(f"  {event.step}", total=1, said="")
            self._started[event.process] = (event.at, "")
        task = self._tasks[event.process]
        if event.what == "noted":
            began, said = self._started[event.process]
            told = f"{said}; {event.text}" if said else event.text
            self._progress.update(task, said=told)
            if not event.passing:
                self._started[event.process] = (began, told)
        if event.what == "ended":
            self._progress.update(task, completed=1, said=self._started[event.process][1])
        if event.what in ("ended", "failed") and not self.console.is_terminal:
            began, said = self._started[event.process]
            mark = "✓" if event.what == "ended" else "✗"
            self.console.print(f"  {mark} {event.step} {event.at - began:.1f} s  {said}", markup=False, soft_wrap=True)
