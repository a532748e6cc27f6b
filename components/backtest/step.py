"""A backtest in shares: fix the past and who replays which policies, replay each share, and compare all policies.

`<home>/backtests/<model>/<past>/` holds what shares leave each other: work that is done (`done/`, `cuts/`, `models/`),
and below `runs/<run>/` one `share-<number>.json` a share, decisions, `results.json` and the page. Whoever does which
share, and whatever is killed, the results are the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from evergrow.backtest.tasks import PAST
from evergrow.contracts import Value, instant
from evergrow.environment import Environment
from evergrow.integrations.object_store import ObjectStore, copy_all_here, fetch, publish
from evergrow.integrations.places import place_of
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.spec import ContinualModel, parse
from evergrow.spec.policies import PolicySet

PLAN = "plan.json"


class Metrics(Protocol):
    """What of `kfp.dsl.Metrics` is used."""

    def log_metric(self, metric: str, value: float) -> None:
        """Show one number."""
        ...


class Plan(Value):
    """Who replays what; `plan.json` beside the past."""

    past: str
    """Name of the past's folder."""
    run: str
    """Name of the run's folder below it."""
    shares: tuple[tuple[int, ...], ...]
    """Numbers of policies, by share."""


@dataclass(frozen=True)
class Place:
    """Where a backtest works, and where its shares meet."""

    environment: Environment
    model: str
    plan: Plan

    @property
    def folder(self) -> Path:
        """Of the past."""
        return self.environment.backtests(self.model) / self.plan.past

    @property
    def run(self) -> Path:
        """Of the run's results."""
        return self.folder / "runs" / self.plan.run

    @property
    def elsewhere(self) -> StoredWork | None:
        """Where other shares keep their work; None on one machine, where all share a folder."""
        if self.environment.store is None:
            return None
        return StoredWork(self.environment.store, self.folder.relative_to(self.environment.home).as_posix())

    def share(self, number: int) -> Path:
        """File of a share's results."""
        return self.run / f"share-{number:05d}.json"


@dataclass(frozen=True)
class StoredWork:
    """`evergrow.backtest.work.Elsewhere` in a folder of an object store. Each process connects anew.

    Attributes:
        url: of the store.
        folder: in it.
    """

    url: str
    folder: str

    def fetch(self, name: str, to: Path) -> bool:
        """Copy what is kept by a name into a file; whether there is any."""
        return ObjectStore.open(self.url).fetch(f"{self.folder}/{name}", to) is not None

    def keep(self, name: str, path: Path) -> None:
        """Keep a file by a name."""
        ObjectStore.open(self.url).write(f"{self.folder}/{name}", path)


@step
@metered("training")
def plan_backtest(spec: str, policies: str, as_of: str, shares: int, plan: str) -> list[int]:
    """Write the model's past as of an instant, and who replays which of the policies, into the directory `plan`.

    Policies that stand next to each other in the set have most in common, so they stay together.

    Returns:
        The numbers of the shares.

    Raises:
        SpecError: a policy is no document, or cannot be replayed.
    """
    from evergrow.backtest.run import checked, run_name
    from evergrow.integrations.pasts import own_past

    document, tried, environment = parse(spec), parse(policies, "policies", PolicySet), Environment.read()
    every = checked(document, tried)
    fetch(environment, f"data/{document.name}")
    folder = own_past(
        document, environment, instant(as_of), tried.what_if.label_delay, lambda text: note("plan_backtest", text)
    )
    out = Path(plan)
    shutil.copytree(folder / PAST, out / PAST, dirs_exist_ok=True)
    made = Plan(past=folder.name, run=run_name(document, tried), shares=dealt(len(every), shares))
    (out / PLAN).write_text(made.model_dump_json(indent=1), encoding="utf-8")
    note("plan_backtest", f"{len(every):,} policies in {len(made.shares)} shares")
    return list(range(len(made.shares)))


def dealt(policies: int, shares: int) -> tuple[tuple[int, ...], ...]:
    """Numbers of policies, dealt into runs of about the same length; no more shares than policies.

    >>> dealt(7, 3)
    ((0, 1), (2, 3), (4, 5, 6))
    """
    count = max(1, min(shares, policies))
    edges = [policies * share // count for share in range(count + 1)]
    return tuple(tuple(range(a, b)) for a, b in pairwise(edges))


@step
@metered("training")
def replay(spec: str, policies: str, share: int, plan: str) -> int:
    """Replay the policies of one share, with work that other shares have done; returns how many."""
    from evergrow.backtest.run import share as replayed

    document, tried, place = _read(spec, policies, plan)
    numbers = place.plan.shares[share]
    said = 0

    def told(done: int, of: int) -> None:
        nonlocal said
        if 10 * done // of > said:
            said = 10 * done // of
            note("replay", f"share {share}: {done:,} of {of:,} decisions", passing=True)

    found = replayed(
        document, tried, place.folder, place.run, numbers, _processes(place.environment), told, place.elsewhere
    )
    path = place.share(share)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(found.model_dump_json(), encoding="utf-8")
    for written in (*_decisions(place, [one.policy for one in found.results]), path):
        publish(place.environment, written)
    fits = found.spent.get("fit")
    note("replay", f"share {share}: {len(numbers)} policies, {fits.done if fits else 0} trainings")
    return len(numbers)


@step
@metered("training")
def recommend(spec: str, policies: str, plan: str, page: str, metrics: Metrics) -> str:
    """Compare all policies; writes results and page, and returns their folder, as it is called below home.

    Raises:
        DataError: a policy was not replayed.
    """
    from evergrow.backtest.compare import compare
    from evergrow.backtest.page import render
    from evergrow.backtest.results import FILE
    from evergrow.backtest.run import Replays, joined

    document, tried, place = _read(spec, policies, plan)
    copy_all_here(place.environment, place.run)
    files = [place.share(number) for number in range(len(place.plan.shares))]
    shares = [Replays.model_validate_json(file.read_bytes()) for file in files if file.exists()]
    ran = joined(document, tried, place.folder, place.run, shares)
    found = compare(ran.results, tried.recommend)
    html = render(ran.results, found, tried.what_if)
    shown = place.run / "index.html"
    for path in (Path(page), shown):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html, encoding="utf-8")
    for path in (place.run / FILE, shown):
        publish(place.environment, path)
    metrics.log_metric("policies", len(found.standings))
    metrics.log_metric(
        "recommended loss", next(s.loss for s in found.standings if s.policy == found.recommended.policy)
    )
    refuted = " is refuted" * found.recommended.refuted
    note("recommend", f"{found.recommended.policy}{refuted}: {found.recommended.said}")
    return place.run.relative_to(place.environment.home).as_posix()


def _read(spec: str, policies: str, plan: str) -> tuple[ContinualModel, PolicySet, Place]:
    """What is to be done, and where; the past is in its place there."""
    document, tried = parse(spec), parse(policies, "policies", PolicySet)
    made = Plan.model_validate_json((Path(plan) / PLAN).read_text(encoding="utf-8"))
    place = Place(Environment.read(), document.name, made)
    if not (place.folder / PAST).exists():
        place.folder.mkdir(parents=True, exist_ok=True)
        (place.folder / PAST).symlink_to(Path(plan).absolute() / PAST)
    return document, tried, place


def _decisions(place: Place, policies: Sequence[str]) -> list[Path]:
    from evergrow.backtest.run import decisions_file

    return [decisions_file(place.run, policy) for policy in policies]


def _processes(environment: Environment) -> int:
    """As many as the step may use of CPUs; one on one machine, where shares run side by side."""
    found = place_of(environment)
    if found is None:
        return 1
    from kubernetes.utils import parse_quantity

    return max(1, int(parse_quantity(found.execution.pipelines.step("replay").resources.cpu_limit)))
