"""What is learnt from rows: an estimator and how its scores become probabilities, nothing written anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evergrow.contracts import Task
from evergrow.errors import SpecError
from evergrow.importing import load_object
from evergrow.learning.bundle import Score, estimator_score
from evergrow.learning.calibrate import calibrator, fit_calibration
from evergrow.learning.losses import row_losses
from evergrow.learning.search import Trial, search
from evergrow.learning.select import left_out
from evergrow.learning.update import gone_on
from evergrow.learning.vector import blanked
from evergrow.spec.model import Training

ENTRYPOINT = "spec.training.estimator.entrypoint"
NO_CALIBRATION: Mapping[str, Any] = {"kind": "none"}


@dataclass(frozen=True)
class Rows:
    """Rows as an estimator takes them.

    Attributes:
        X: float32 [n, k].
        y: float64 [n].
    """

    X: NDArray[np.float32]
    y: NDArray[np.float64]

    def without(self, columns: Iterable[int]) -> Rows:
        """The same with nothing in some columns."""
        return Rows(blanked(self.X, columns), self.y)


@dataclass(frozen=True)
class Learned:
    """What was learnt.

    Attributes:
        estimator: fitted.
        parameters: it was built with.
        calibration: of its scores, as numbers.
        trials: by which the parameters were found; none if they were given.
        left_out: columns that it was not fitted on, and what each was worth, as `select.left_out` has it.
    """

    estimator: Any
    parameters: Mapping[str, Any]
    calibration: Mapping[str, Any]
    trials: tuple[Trial, ...] = ()
    left_out: Mapping[int, float] = field(default_factory=dict)

    def score(self) -> Score:
        """From rows to calibrated scores."""
        raw, calibrated = estimator_score(self.estimator), calibrator(self.calibration)
        return lambda X: calibrated(raw(blanked(X, self.left_out)))


def learn(
    training: Training,
    task: Task,
    metric: str,
    fitting: Rows,
    calibrating: Rows | None,
    ancestor: Learned | None = None,
) -> Learned:
    """Fit and calibrate what a document describes, on one thread.

    Args:
        training: of the document.
        task: what kind of label.
        metric: what a search minimises, and a selection goes by: the gate's.
        fitting: rows to fit on.
        calibrating: rows to select, search and calibrate on; None: nothing of it is done.
        ancestor: what an update goes on from; None: it is a refit, whatever the document says.

    Raises:
        SpecError: the estimator cannot be built or fitted, or cannot go on.
    """
    load_object(training.estimator.entrypoint, ENTRYPOINT)  # and its libraries, whose threads can then be limited
    before = None if training.update.kind == "refit" else ancestor
    with single_threaded():
        left = _left_out(training, task, metric, fitting, calibrating) if before is None else before.left_out
        fitting, calibrating = fitting.without(left), calibrating and calibrating.without(left)
        if before is None:
            parameters, trials = _parameters(training, task, metric, fitting, calibrating)
            estimator = _fitted(training, task, parameters, fitting)
        else:
            parameters, trials = training.estimator.parameters, ()
            estimator = gone_on(training.update, before.estimator, fitting.X, _labels(task, fitting.y))
        calibration = NO_CALIBRATION if calibrating is None else calibrate(training, estimator, calibrating)
    return Learned(estimator, parameters, calibration, trials, left)


def calibrate(training: Training, estimator: Any, calibrating: Rows) -> Mapping[str, Any]:
    """How the estimator's scores become probabilities."""
    return fit_calibration(training.calibration, estimator_score(estimator)(calibrating.X), calibrating.y)


def _left_out(
    training: Training, task: Task, metric: str, fitting: Rows, calibrating: Rows | None
) -> Mapping[int, float]:
    """Columns that are not fitted on."""
    if training.selection is None or calibrating is None:
        return {}

    def fit(X: NDArray[np.float32]) -> Any:
        return _fitted(training, task, training.estimator.parameters, Rows(X, fitting.y))

    held = calibrating.X, calibrating.y
    return left_out(training.selection, training.seed, metric, fit, fitting.X, held)


def _parameters(
    training: Training, task: Task, metric: str, fitting: Rows, calibrating: Rows | None
) -> tuple[Mapping[str, Any], tuple[Trial, ...]]:
    """The estimator's parameters, and the trials by which they were found."""
    given = dict(training.estimator.parameters)
    if training.search is None or calibrating is None:
        return given, ()

    def loss(parameters: Mapping[str, Any]) -> float:
        score = estimator_score(_fitted(training, task, {**given, **parameters}, fitting))
        return float(row_losses(metric, calibrating.y, score(calibrating.X)).mean())

    found = search(training.search, training.seed, loss)
    return {**given, **found.parameters}, found.trials


def _fitted(training: Training, task: Task, parameters: Mapping[str, Any], fitting: Rows) -> Any:
    estimator = build_estimator(training, task, parameters)
    try:
        return estimator.fit(fitting.X, _labels(task, fitting.y))
    except ValueError as error:
        raise SpecError(
            f"{ENTRYPOINT}: fitting failed: {error}",
            hint="missing features are NaN: put a SimpleImputer before an estimator that takes none",
        ) from error


def _labels(task: Task, y: NDArray[np.float64]) -> NDArray[np.float64] | NDArray[np.int64]:
    return y.astype(np.int64) if task == "binary-classification" else y


def build_estimator(training: Training, task: Task, parameters: Mapping[str, Any]) -> Any:
    """The unfitted estimator: every random state that was left open is seeded, every `n_jobs` is 1.

    Forests add up their trees' answers in the order in which threads end.

    Raises:
        SpecError: the entrypoint does not exist, refuses the parameters, or gives something unfit for the task.
    """
    entrypoint = training.estimator.entrypoint
    build = load_object(entrypoint, ENTRYPOINT)
    try:
        estimator = build(**parameters)
    except TypeError as error:
        raise SpecError(f"spec.training.estimator.parameters: {entrypoint!r} refuses them: {error}") from error
    needed = "predict_proba" if task == "binary-classification" else "predict"
    if not hasattr(estimator, needed):
        raise SpecError(f"{ENTRYPOINT}: must give an estimator with `{needed}`, found {type(estimator).__name__}")
    settings = {}
    for name, value in estimator.get_params().items():
        if name.split("__")[-1] == "random_state" and value is None:
            settings[name] = training.seed
        elif name.split("__")[-1] == "n_jobs":
            settings[name] = 1
    return estimator.set_params(**settings)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Run native code on one thread: sums in another order are other bytes.

    Reaches the libraries that are loaded by now, so the estimator's must have been imported.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*feature names.*")
        yield
