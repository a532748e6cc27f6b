"""A backtest: all policies of a set replayed on one past, with work shared among them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from evergrow.backtest.past import DAY, Past, instant_of
from evergrow.backtest.policies import Policy, policies, reference
from evergrow.backtest.replay import Replayed, Setting, check, instants, replay
from evergrow.backtest.results import Result, Results, result
from evergrow.backtest.tasks import PAST
from evergrow.backtest.work import Shared, Spending, at_once, workers
from evergrow.data.lake import replace
from evergrow.errors import SpecError
from evergrow.spec import ContinualModel
from evergrow.spec.policies import PolicySet

LEAST_TO_FIT = timedelta(days=28)
"""Of rows that the first training is fitted on, unless it is said since when is decided."""
DECISIONS = "decisions"
Progress = Callable[[int, int], None]
"""Is told how many instants have been decided at, all policies together, of how many; in any thread."""


@dataclass(frozen=True)
class Ran:
    """A backtest that has been run.

    Attributes:
        results: the same whatever the number of workers, and whether it was interrupted.
        spent: by kind of work; another each time.
    """

    results: Results
    spent: Mapping[str, Spending]


def backtest(
    model: ContinualModel,
    tried: PolicySet,
    folder: Path,
    out: Path,
    count: int = 1,
    told: Progress = lambda done, of: None,
) -> Ran:
    """Replay all policies of a set.

    Args:
        model: the document that they change.
        tried: the policies.
        folder: holds the past in `past`; results of work are kept there, and found again after an interruption.
        out: where results.json is written, and beside it every decision of each policy.
        count: processes that work.
        told: is told of progress.

    Raises:
        SpecError: a policy is no document, cannot be replayed, or leaves no instant to decide at.
        DataError: there is no past.
    """
    past = Past.open(folder / PAST)
    every = checked(model, tried)
    setting = Setting(past, _instants(past, every, tried), tried.what_if)
    steps = _Steps(len(every) * len(setting.instants), told)
    with workers(count) as executor:
        shared = Shared(folder, executor)
        found = at_once(len(every), lambda i: _replayed(every[i], setting, shared, out, steps))
        results = _results(model, tried, setting, found)
        results.save(out)
        return Ran(results, shared.spent())


def checked(model: ContinualModel, tried: PolicySet) -> list[Policy]:
    """All policies of a set, each of which can be replayed.

    Raises:
        SpecError: one is no document, or goes by what is not replayed; names it.
    """
    every = policies(model, tried)
    for policy in every:
        check(policy)
    return every


class _Steps:
    """Counts the instants that were decided at."""

    def __init__(self, of: int, told: Progress) -> None:
        self._of, self._told = of, told
        self._lock, self._done = threading.Lock(), 0

    def __call__(self) -> None:
        with self._lock:
            self._done += 1
            self._told(self._done, self._of)


def write_decisions(folder: Path, replayed: Replayed) -> None:
    """Write every decision of a policy, a line each."""
    lines = "".join(decision.model_dump_json() + "\n" for decision in replayed.decisions)
    replace(folder / DECISIONS / f"{replayed.policy.replace('/', '__')}.jsonl", lines.encode())


def _replayed(policy: Policy, setting: Setting, shared: Shared, out: Path, stepped: Callable[[], None]) -> Result:
    replayed = replay(policy, setting, shared, stepped)
    write_decisions(out, replayed)
    return result(policy, replayed, setting, shared)


def _results(model: ContinualModel, tried: PolicySet, setting: Setting, found: Sequence[Result]) -> Results:
    worth = model.spec.monitoring.worth
    prices = worth.prices if worth else None
    first, last = setting.instants[0], setting.instants[-1]
    return Results(
        model=model.name, task=model.spec.task, metric=model.spec.evaluation.gate.metric,
        currency=worth.currency if worth else "",
        million_rows=prices.cpu_hour * tried.what_if.cpu_hours_per_million_rows if prices else 0.0,
        reference=reference(tried), decided=(instant_of(first), instant_of(last)), decisions=len(setting.instants),
        rows=len(setting.past.asked), digest=setting.past.digest, policies=tuple(found),
    )  # fmt: skip


def _instants(past: Past, every: Sequence[Policy], tried: PolicySet) -> list[int]:
    """When is decided."""
    since, until = tried.since or _first(past, every), tried.until or _midnight(int(past.label_known[-1]))
    if since >= until:
        raise SpecError(
            f"there is no instant to decide at: `since` is {since:%Y-%m-%d %H:%M}, `until` {until:%Y-%m-%d %H:%M}",
            hint="shorten evaluation.holdout and training.calibrationLength (`base`), or take a longer past",
        )
    return instants(since, until, tried.every)


def _first(past: Past, every: Sequence[Policy]) -> datetime:
    """The midnight after which all parts of a training, and enough to fit on, have been asked for."""
    spans = [one.document.spec.evaluation.holdout + one.document.spec.training.calibration_length for one in every]
    return _midnight(int(past.asked[0])) + timedelta(days=1) + LEAST_TO_FIT + max(spans)


def _midnight(at: int) -> datetime:
    return instant_of(at // DAY * DAY)
