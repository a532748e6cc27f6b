"""A bounded hyper-parameter search: Optuna's TPE, seeded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evergrow.errors import SpecError
from evergrow.spec.model import Search

FILE = "search.json"
"""The trials, beside a bundle's files but no part of its digest: how it was found, not what it is."""


@dataclass(frozen=True)
class Trial:
    """One set of parameters and the mean loss it reached on the calibration rows; None if it failed."""

    number: int
    parameters: Mapping[str, Any]
    loss: float | None


@dataclass(frozen=True)
class Found:
    """The best parameters, and all trials in the order they were made."""

    parameters: Mapping[str, Any]
    trials: tuple[Trial, ...]


def search(spec: Search, seed: int, loss: Callable[[Mapping[str, Any]], float]) -> Found:
    """Minimise `loss` over the spec's ranges within its trials and time.

    A trial whose parameters the estimator refuses, or whose loss is not finite, counts as failed and the search
    goes on.

    Raises:
        SpecError: no trial succeeded.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))

    def objective(trial: optuna.Trial) -> float:
        parameters = {name: _suggest(trial, name, spec.space[name]) for name in sorted(spec.space)}
        value = loss(parameters)
        return value if math.isfinite(value) else math.nan  # Optuna counts NaN as failed

    timeout = spec.timeout.total_seconds() if spec.timeout else None
    study.optimize(objective, n_trials=spec.trials, timeout=timeout, catch=(SpecError, ValueError))
    trials = tuple(Trial(t.number, t.params, t.value) for t in study.trials)
    if all(t.loss is None for t in trials):
        raise SpecError(f"spec.training.search: none of {len(trials)} trials succeeded")
    return Found(study.best_params, trials)


def _suggest(trial: Any, name: str, range_: Any) -> float | int:
    if range_.integer:
        return int(trial.suggest_int(name, math.ceil(range_.low), math.floor(range_.high), log=range_.log))
    return float(trial.suggest_float(name, range_.low, range_.high, log=range_.log))


def write_trials(bundle: Path, trials: tuple[Trial, ...]) -> None:
    """Write the trials beside a bundle's files."""
    (bundle / FILE).write_text(json.dumps([asdict(t) for t in trials], indent=1) + "\n", encoding="utf-8")


def read_trials(bundle: Path) -> tuple[Trial, ...]:
    """The trials written beside a bundle's files; none if there was no search."""
    path = bundle / FILE
    return tuple(Trial(**t) for t in json.loads(path.read_text(encoding="utf-8"))) if path.exists() else ()
