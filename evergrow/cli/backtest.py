"""`evergrow backtest`: which retraining policy would have done best."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evergrow.cli.output import Output, OutputOption, show
from evergrow.cli.pipelines import AsOf, File, Suppose, read_as_of
from evergrow.environment import Environment

if TYPE_CHECKING:
    from evergrow.backtest.compare import Comparison, Standing
    from evergrow.backtest.run import Progress
    from evergrow.backtest.work import Spending
    from evergrow.spec.policies import PolicySet

SHOWN = 15
"""Policies of the table; the page has all."""
QUIET = 30
"""Seconds between two lines of progress where there is no terminal."""


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(backtest)


def backtest(
    file: File,
    policies: Annotated[Path, typer.Option(help="The policies to try: a PolicySet.", show_default=False)],
    as_of: AsOf = None,
    world: Annotated[
        Path | None, typer.Option(help="A simulated world to try them in, instead of the model's own past.")
    ] = None,
    what_if: Suppose = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that work. Default: as many as there are CPUs.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Replay a model's past, as it was known at each instant, under many retraining policies, and recommend one.

    Trainings and predictions that policies have in common are done once, and kept: after an interruption the same
    command goes on. The page it leaves shows quality over time, regret, trainings and cost of every policy.

    Examples:
      evergrow backtest -f model.yaml --policies policies.yaml

      evergrow backtest -f model.yaml --policies policies.yaml --as-of 2014-01-03 --what-if labelDelay=14d

      evergrow backtest -f model.yaml --policies policies.yaml --what-if retraining.budget.trainings=1

      evergrow backtest -f model.yaml --policies policies.yaml --world world.yaml -o json | jq .recommended
    """
    from evergrow.backtest.compare import compare
    from evergrow.backtest.page import render
    from evergrow.backtest.policies import supposed
    from evergrow.backtest.run import backtest as run
    from evergrow.backtest.run import checked, run_name
    from evergrow.data.lake import replace
    from evergrow.spec import load
    from evergrow.spec.policies import PolicySet

    document = load(file)
    tried = supposed(load(policies, PolicySet), what_if or ())
    checked(document, tried)
    with _progress() as (said, told):
        folder = _past(file, world, as_of, tried, said)
        out = folder / "runs" / run_name(document, tried)
        ran = run(document, tried, folder, out, workers or os.cpu_count() or 1, told)
    found = compare(ran.results, tried.recommend)
    page = out / "index.html"
    replace(page, render(ran.results, found, tried.what_if).encode())
    summary = {**found.model_dump(mode="json"), "page": str(page), "results": str(out), "spent": _spent(ran.spent)}
    if output is Output.JSON:
        show(summary, output, "")
        return
    _table(found)
    show(None, output, _told(found, ran.spent, page))


def _past(file: Path, world: Path | None, as_of: str | None, tried: PolicySet, said: Any) -> Path:
    from evergrow.contracts import instant
    from evergrow.integrations.pasts import own_past, simulated_past
    from evergrow.simulation.worlds import World
    from evergrow.spec import load

    environment, late = Environment.read(), tried.what_if.label_delay
    if world is not None:
        return simulated_past(load(file), environment, load(world, World), late)
    return own_past(load(file), environment, instant(read_as_of(as_of)), late, said)


@contextmanager
def _progress() -> Iterator[tuple[Any, Progress]]:
    """On a terminal a bar of the instants that were decided at; elsewhere a line every half minute."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    last = time.monotonic()
    with Bar(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading the past", total=None)

        def said(text: str) -> None:
            bar.update(task, description=text)
            if not console.is_terminal:
                console.print(text)

        def told(done: int, of: int) -> None:
            nonlocal last
            bar.update(task, completed=done, total=of, description="replaying")
            if not console.is_terminal and time.monotonic() - last >= QUIET:
                last = time.monotonic()
                console.print(f"replayed {done:,} of {of:,} decisions")

        yield said, told


def _table(found: Comparison) -> None:
    from evergrow.cli.output import show_table

    named = (found.recommended.policy, found.reference)
    best = found.standings[:SHOWN]
    rows = [*best, *(one for one in found.standings[SHOWN:] if one.policy in named)]
    told = {found.recommended.policy: "recommended", found.reference: "reference"}
    show_table(
        [
            {
                "policy": one.policy,
                found.metric: f"{one.loss:.4f}",
                "to reference": f"{one.against.value:+.4f}",
                "p": f"{one.against.p_value:.2g}",
                "trained": one.trainings,
                **(_rolled_out(one) if any(other.rollouts for other in found.standings) else {}),
                "age": f"{one.staleness:.0f}d",
                "": told.get(one.policy, "front" if one.front else ""),
            }
            for one in rows
        ],
        Output.TEXT,
        "",
    )


def _rolled_out(one: Standing) -> Mapping[str, str]:
    """How many rollouts there were, and how they ended."""
    if not one.rollouts:
        return {"took over": "", "aborted": ""}
    return {"took over": f"{one.taken_over} of {one.rollouts}", "aborted": str(one.aborted)}


def _told(found: Comparison, spent: Mapping[str, Spending], page: Path) -> str:
    from evergrow.backtest.page import pasted

    fits = spent.get("fit")
    shared = f"{fits.done:,} trainings done for {fits.asked:,} asked for; " if fits else ""
    total, unshared = (sum(getattr(one, name) for one in spent.values()) for name in ("cpu_seconds", "unshared"))
    refuted = ", refuted by the time after it was chosen: rather keep the reference" * found.recommended.refuted
    frugal = ""
    if found.frugal:
        frugal = f"if trainings are dear: {found.frugal.policy}\n  {found.frugal.reason}\n  {found.frugal.said}\n\n"
    return (
        f"\n{len(found.standings)} policies, {found.judged} days, {found.rows:,} rows; {shared}"
        f"{total:,.0f} CPU seconds, {unshared:,.0f} without sharing\n\n"
        f"recommended: {found.recommended.policy}{refuted}\n"
        f"  {found.recommended.reason}\n  {found.recommended.said}\n\n"
        f"{frugal}to have what is recommended, merge this into the model's document:\n\n"
        f"{pasted(found.recommended)}\n{page}"
    )


def _spent(spent: Mapping[str, Spending]) -> Mapping[str, Any]:
    return {kind: one.model_dump() for kind, one in spent.items()}
