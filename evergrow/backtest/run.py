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
from evergrow.backtest.work import Elsewhere, Shared, Spending, at_once, workers
from evergrow.contracts import Value, digest
from evergrow.data.lake import replace
from evergrow.errors import DataError, SpecError
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


class Replays(Value):
    """Some of a backtest's policies, replayed."""

    results: tuple[Result, ...]
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
    everything = range(len(policies(model, tried)))
    return joined(model, tried, folder, out, [share(model, tried, folder, out, everything, count, told)])


def share(
    model: ContinualModel,
    tried: PolicySet,
    folder: Path,
    out: Path,
    numbers: Sequence[int],
    count: int = 1,
    told: Progress = lambda done, of: None,
    elsewhere: Elsewhere | None = None,
) -> Replays:
    """Replay some policies of a set, as `backtest` replays all.

    Args:
        model: the document that they change.
        tried: the policies.
        folder: holds the past; results of work are kept there.
        out: where every decision of each policy is written.
        numbers: of the policies, from 0.
        count: processes that work.
        told: is told of progress.
        elsewhere: where others keep the work that they do on the same past; None: nowhere.
    """
    every, setting = _set(model, tried, folder)
    steps = _Steps(len(numbers) * len(setting.instants), told)
    with workers(count) as executor:
        shared = Shared(folder, executor, elsewhere)
        found = at_once(len(numbers), lambda i: _replayed(every[numbers[i]], setting, shared, out, steps))
        return Replays(results=tuple(found), spent=shared.spent())


def joined(model: ContinualModel, tried: PolicySet, folder: Path, out: Path, shares: Sequence[Replays]) -> Ran:
    """The backtest that shares make up, in the order of its policies; written as results.json.

    Raises:
        DataError: a policy is in none of them, or in several.
    """
    every, setting = _set(model, tried, folder)
    found = {result.policy: result for one in shares for result in one.results}
    wrong = [policy.name for policy in every if policy.name not in found]
    if wrong or sum(len(one.results) for one in shares) != len(every):
        told = f"{len(wrong)} of {len(every)} policies were not replayed" if wrong else "policies were replayed twice"
        raise DataError(f"{model.name}: {told}{f': {wrong[0]}' if wrong else ''}", hint="run the backtest again")
    results = _results(every[0].document, tried, setting, [found[policy.name] for policy in every])
    results.save(out)
    return Ran(results, summed([one.spent for one in shares]))


def summed(spent: Sequence[Mapping[str, Spending]]) -> Mapping[str, Spending]:
    """What several have spent together, by kind of work. Of several that had the same done, each counts it."""
    kinds = sorted({kind for one in spent for kind in one})
    return {kind: _sum([one[kind] for one in spent if kind in one]) for kind in kinds}


def _sum(spent: Sequence[Spending]) -> Spending:
    names = Spending.model_fields
    return Spending.model_validate({name: sum(getattr(one, name) for one in spent) for name in names})


def _set(model: ContinualModel, tried: PolicySet, folder: Path) -> tuple[list[Policy], Setting]:
    """All policies, and what they share."""
    past = Past.open(folder / PAST)
    every = checked(model, tried)
    return every, Setting(past, _instants(past, every, tried), tried.what_if)


def checked(model: ContinualModel, tried: PolicySet) -> list[Policy]:
    """All policies of a set, each of which can be replayed.

    Raises:
        SpecError: one is no document, goes by what is not replayed, or has money of its own; names it.
    """
    every = policies(model, tried)
    for policy in every:
        check(policy)
        if policy.document.spec.monitoring.worth != every[0].document.spec.monitoring.worth:
            told = f"must be that of policy {every[0].name}, or money could not be compared"
            raise SpecError(f"policy {policy.name}: spec.monitoring.worth: {told}", hint="say it in `base`")
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
    replace(decisions_file(folder, replayed.policy), lines.encode())


def decisions_file(folder: Path, policy: str) -> Path:
    """Where every decision of a policy is written, in the folder of a run."""
    return folder / DECISIONS / f"{policy.replace('/', '__')}.jsonl"


def run_name(model: ContinualModel, tried: PolicySet) -> str:
    """The name of the folder of a run, in that of the past: another document or set has another."""
    return digest([model.dump(), tried.dump()])[:16]


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
