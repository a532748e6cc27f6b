"""What costs time in a backtest: each a pure function of a past and of its own fields, which are its key.

The same key is the same result, whichever policy asks, in whichever process, at whichever time.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from evergrow.backtest.past import DAY, Past, instant_of, opened
from evergrow.contracts import Check, Metric, Task, Value, Verdict, digest
from evergrow.data.lake import replace
from evergrow.data.references import judged
from evergrow.data.windows import Candidates, needs_features, select
from evergrow.errors import NotEnoughData, SpecError
from evergrow.evaluation import forgetting
from evergrow.evaluation.gate import (
    ChallengerLosses,
    ChampionLosses,
    ControlLosses,
    check_control,
    check_floor,
    compare,
)
from evergrow.evaluation.metrics import measure
from evergrow.learning.learn import Learned, Rows, learn
from evergrow.learning.losses import row_losses
from evergrow.learning.parts import check_fit
from evergrow.monitoring.worth import of_rows
from evergrow.spec.model import Gate, References, Training, Worth
from evergrow.spec.updates import Refit, uncontrolled
from evergrow.spec.windows import All, Window
from evergrow.statistics.means import time_blocks

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Positions = NDArray[np.int32] | NDArray[np.int64]
Mask = NDArray[np.bool_]
PAST, CUTS, MODELS, SCORES = "past", "cuts", "models", "scores"
CHUNK = 28 * DAY
"""Rows are scored by stretches of so many microseconds."""
INTERVAL_BLOCKS = 60
"""Intervals of floors' metrics are made of at most so many blocks, as in an evaluation."""


class Work(Value):
    """A piece of work."""

    kind: ClassVar[str]

    @property
    def key(self) -> str:
        """SHA-256 of what it is."""
        return digest([self.kind, self.model_dump(mode="json")])

    def run(self, folder: Path) -> Value:
        """Do it.

        Args:
            folder: that holds the past, and what other work has left.
        """
        raise NotImplementedError

    def left(self, result: Any) -> tuple[str, ...]:
        """Files that other work needs of it, below the folder."""
        return ()


class Cut(Value):
    """The rows that a training has, as of an instant."""

    rows: str = Field(default="", description="content key of the rows and their labels; names a file of CUTS")
    fit: int = Field(default=0, description="rows fitted on")
    fault: str = Field(default="", description="why there is nothing to fit on")


class Select(Work):
    """Which rows a training as of an instant is fitted, calibrated and judged on, as `training_set.build` says."""

    kind: ClassVar[str] = "select"

    as_of: int
    holdout: timedelta
    calibration: timedelta
    calibrates: bool
    window: Window
    task: Task
    metric: str
    seed: int
    references: References | None = None

    @classmethod
    def of(
        cls, training: Training, task: Task, metric: str, holdout: timedelta, as_of: int,
        references: References | None = None,
    ) -> Self:  # fmt: skip
        """As a document says."""
        return cls(
            as_of=as_of, holdout=holdout, calibration=training.calibration_length, calibrates=training.calibrates,
            window=training.window, task=task, metric=metric, seed=training.seed, references=references,
        )  # fmt: skip

    def run(self, folder: Path) -> Cut:
        """Choose them, and keep their positions in a file."""
        past = opened(folder / PAST)
        y, known = past.labels(past.between(0, self.as_of + 1), self.as_of)
        asked = past.asked[: len(y)]
        labelled = np.flatnonzero(~np.isnan(y))
        if not len(labelled):
            return Cut(fault="no row has a label yet")
        span = round((self.holdout + self.calibration) / timedelta(microseconds=1))
        second = int(asked[labelled[-1]]) - round(self.holdout / timedelta(microseconds=1))
        first = int(asked[labelled[-1]]) - span
        if asked[labelled[0]] >= first:
            told = "labelled rows do not span more than evaluation.holdout plus training.calibrationLength"
            return Cut(fault=told)
        end, aside = first if self.calibrates else second, self._set_aside(past, labelled)
        free = labelled[~aside]
        fit = free[(asked[free] < end) & (known[free] <= end)]
        fit = fit[self._chosen(past, asked, y, fit, first)]
        parts = {
            "fit": fit,
            "calibration": free[(asked[free] >= end) & (asked[free] < second) & (known[free] <= second)],
            "holdout": labelled[asked[labelled] >= second],
        }
        if self.references is not None:
            apart = labelled[aside]
            parts["references"] = apart[judged(asked[apart], instant_of(second), self.references)]
        return self._kept(folder, y, parts)

    def left(self, result: Cut) -> tuple[str, ...]:
        """The rows that were chosen."""
        return (f"{CUTS}/{result.rows}.npz",) if result.rows else ()

    def _set_aside(self, past: Past, rows: NDArray[np.int64]) -> Mask:
        """Which of the rows no training is fitted or calibrated on."""
        if self.references is None:
            return np.zeros(len(rows), np.bool_)
        names = [feature.name for feature in past.features]
        for i, column in enumerate(self.references.slices):
            if column not in names:
                told = f"evaluation.references.slices[{i}]: a backtest has the model's features only, found {column!r}"
                raise SpecError(told, hint=f"features: {', '.join(names)}")
        return np.asarray(past.chance[rows] < self.references.share)

    def _chosen(self, past: Past, asked: NDArray[np.int64], y: Floats, rows: NDArray[np.int64], until: int) -> Mask:
        """Of rows that may be fitted on, those of the window; what is after its end stays."""
        before = rows[asked[rows] < until]
        instants = asked[before].astype("datetime64[us]")
        candidates = Candidates.at(instants)
        if needs_features(self.window):
            candidates = Candidates(instants, past.X[before], y[before])
        mask = np.ones(len(rows), bool)
        end = np.datetime64(until, "us")
        mask[: len(before)] = select(self.window, candidates, end, self.task, self.metric, self.seed)
        return mask

    def _kept(self, folder: Path, y: Floats, given: Mapping[str, Numbers]) -> Cut:
        fit, calibration = given["fit"], given["calibration"]
        parts: dict[str, Any] = {name: found.astype(np.int32) for name, found in given.items()}
        parts |= {f"{name}_y": y[found] for name, found in given.items()}
        content = hashlib.sha256(b"".join(array.tobytes() for array in parts.values()))
        rows = digest([len(fit), len(calibration), content.hexdigest()])
        path = folder / CUTS / f"{rows}.npz"
        if not path.exists():
            _save(path, parts)
        return Cut(rows=rows, fit=len(fit))


class Fitted(Value):
    """A model that was fitted."""

    model: str = Field(default="", description="its key; names a file of MODELS; empty: there is none")
    prior: float = Field(default=0.0, description="mean of the labels fitted on")
    fault: str = Field(default="", description="why it could not be fitted")


class Fit(Work):
    """A training: the estimator fitted and calibrated on the rows of a cut."""

    kind: ClassVar[str] = "fit"

    rows: str
    training: Training
    task: Task
    metric: str
    ancestor: str = Field(default="", description="key of the model that an update goes on from; empty: it is a refit")

    @classmethod
    def of(cls, cut: Cut, training: Training, task: Task, metric: str, champion: str = "") -> Self:
        """On the rows of a cut, whichever window chose them, going on from the champion if the document wants that."""
        # What has no part in it must not make two of one training.
        training = training.model_copy(update={"window": All(), "calibration_length": timedelta(0)})
        ancestor = champion if training.update.kind != "refit" else ""
        training = training.model_copy(update={"update": uncontrolled(training.update) if ancestor else Refit()})
        metric = metric if training.search or training.selection else ""
        return cls(rows=cut.rows, training=training, task=task, metric=metric, ancestor=ancestor)

    def run(self, folder: Path) -> Fitted:
        """Fit, and keep the model in a file."""
        past, cut = opened(folder / PAST), opened_cut(folder, self.rows)
        fit, y = cut["fit"], cut["fit_y"]
        before = opened_model(folder, self.ancestor) if self.ancestor else None
        if before is not None and self.training.update.kind == "partial-fit":
            newer = past.asked[fit] > before.until
            fit, y = fit[newer], y[newer]
        try:
            codes = before.codes if before else Codes.of(past, fit)
            fitting = _rows(self.task, codes, past, fit, y, "rows to fit on")
            calibrating = None
            if self.training.calibrates:
                rows, y = cut["calibration"], cut["calibration_y"]
                calibrating = _rows(self.task, codes, past, rows, y, "rows to calibrate on")
        except NotEnoughData as few:
            return Fitted(fault=str(few))
        learned = learn(self.training, self.task, self.metric, fitting, calibrating, before.learned if before else None)
        until = int(past.asked[fit[-1]])
        if before is not None and self.training.update.kind == "recalibrate":
            until = before.until
        replace(folder / MODELS / self.key, pickle.dumps(Model(codes, learned, until)))
        return Fitted(model=self.key, prior=float(fitting.y.mean()))

    def left(self, result: Fitted) -> tuple[str, ...]:
        """The model."""
        return (f"{MODELS}/{result.model}",) if result.model else ()


class Codes(Value):
    """Levels of categories that a model knows: others are missing to it, as in service."""

    known: tuple[tuple[int, tuple[int, ...]], ...] = Field(description="column, and its levels' positions in the past")

    @classmethod
    def of(cls, past: Past, rows: Positions) -> Self:
        """Those among some rows."""
        columns = [j for j, feature in enumerate(past.features) if feature.kind == "categorical"]
        found = [np.unique(past.X[rows, j]) for j in columns]
        return cls(known=tuple((j, tuple(map(int, c[~np.isnan(c)]))) for j, c in zip(columns, found, strict=True)))

    def of_model(self, past: Past, rows: Positions | slice) -> NDArray[np.float32]:
        """Rows as the model takes them: positions among the levels that it knows, float32 [n, k]."""
        X = np.array(past.X[rows])
        for j, levels in self.known:
            table = np.full(len(past.categories[past.features[j].name]) + 1, np.nan, np.float32)
            table[list(levels)] = np.arange(len(levels), dtype=np.float32)
            X[:, j] = table[np.where(np.isnan(X[:, j]), len(table) - 1, X[:, j]).astype(int)]
        return X


class Day(Value):
    """What a model's answers of a day came to, by all labels that ever came."""

    day: int = Field(description="since 1970")
    rows: int = Field(description="with a label")
    loss: float = Field(description="sum over them")
    worth: float = Field(description="sum over them; 0 where the document does not tell it")
    age: float = Field(description="sum over them of days since the model's data was cut")


class Account(Value):
    """Of each day on which a model answered rows whose label came."""

    days: tuple[Day, ...]


class Serve(Work):
    """A model answers all that is asked for in a stretch of time."""

    kind: ClassVar[str] = "serve"

    model: str
    cut: int
    since: int
    until: int
    metric: str
    worth: Worth | None

    def run(self, folder: Path) -> Account:
        """Score the rows and hold them against their labels."""
        past = opened(folder / PAST)
        rows = past.between(self.since, self.until)
        return by_day(past, rows, valued(folder, self.model, self.cut, rows, self.metric, self.worth))


def valued(folder: Path, model: str, cut: int, rows: slice, metric: str, worth: Worth | None) -> Floats:
    """Loss, worth and age of a model's answers to some rows, NaN without a label, [3, n].

    Args:
        folder: that holds the past and the model.
        model: its key.
        cut: as of when its training data was known, microseconds since 1970.
        rows: that it answers.
        metric: a loss.
        worth: of predictions; None: they have none, which is 0.
    """
    past = opened(folder / PAST)
    y, known = past.truth[rows], ~np.isnan(past.truth[rows])
    found, score = np.full((3, len(y)), np.nan), scores(folder, model, rows)[known]
    found[0, known] = row_losses(metric, y[known], score)
    found[1, known] = of_rows(worth, y[known], score) if worth else 0.0
    found[2, known] = (past.asked[rows][known] - cut) / DAY
    return found


def by_day(past: Past, rows: slice, values: Floats) -> Account:
    """Sums of each day over the rows that have a label.

    Args:
        past: what happened.
        rows: of it.
        values: of `valued`, [3, n].
    """
    known = ~np.isnan(past.truth[rows])
    days, place = np.unique(past.asked[rows][known] // DAY, return_inverse=True)
    loss, worth, age = (np.bincount(place, one, len(days)) for one in values[:, known])
    numbers = zip(days, np.bincount(place, minlength=len(days)), loss, worth, age, strict=True)
    return Account(days=tuple(Day(day=d, rows=n, loss=s, worth=w, age=a) for d, n, s, w, a in numbers))


class Judge(Work):
    """What the gate says of a challenger, on the newest labelled rows as of a training."""

    kind: ClassVar[str] = "judge"

    rows: str
    challenger: str
    champion: str = Field(description="key of its model; empty: there is none, the prior takes its place")
    prior: float
    control: str = Field(default="", description="key of the model of an update's control; empty: there is none")
    tolerance: float = Field(default=0.0, description="of the control")
    gate: Gate
    task: Task
    minimum_rows: int
    references: References | None = None

    def run(self, folder: Path) -> Verdict:
        """Compare, and hold against the floors; limits of size and latency are not replayed."""
        past, cut = opened(folder / PAST), opened_cut(folder, self.rows)
        rows, y, metric = cut["holdout"], cut["holdout_y"], self.gate.metric
        new = scores(folder, self.challenger, rows)
        old = scores(folder, self.champion, rows) if self.champion else np.full(len(rows), self.prior)
        seconds = past.asked[rows] // 1_000_000
        length = self.gate.block.total_seconds()
        losses = ChampionLosses(row_losses(metric, y, old)), ChallengerLosses(row_losses(metric, y, new))
        verdict = compare(*losses, time_blocks(seconds, length), self.gate, self.minimum_rows)
        joined = time_blocks(seconds, length, INTERVAL_BLOCKS)
        found = [measure(name, y, new, joined) for name in dict.fromkeys(f.metric for f in self.gate.floors)]
        metrics: list[Metric] = [one for one in found if one is not None]
        checks = [Check(name="champion", verdict=verdict), *(check_floor(f, metrics) for f in self.gate.floors)]
        if self.control:
            refitted = ControlLosses(row_losses(metric, y, scores(folder, self.control, rows)))
            blocks = time_blocks(seconds, length)
            checks.append(check_control(refitted, losses[1], blocks, self.gate, self.tolerance, self.minimum_rows))
        return Verdict.worst(check.verdict for check in (*checks, *self._forgetting(folder, past, cut)))

    def _forgetting(self, folder: Path, past: Past, cut: Mapping[str, Any]) -> Iterator[Check]:
        """Of a champion that is replaced, the check of rows that are set aside."""
        if self.references is not None and self.champion:
            rows, y, metric = cut["references"], cut["references_y"], self.gate.metric
            old, new = (answers(opened_model(folder, key), past, rows) for key in (self.champion, self.challenger))
            yield forgetting.judge(
                self.references, self.gate,
                forgetting.Remembered(past.asked[rows], pd.DataFrame(past.decoded(rows))),
                ChampionLosses(row_losses(metric, y, old)), ChallengerLosses(row_losses(metric, y, new)),
            )[0]  # fmt: skip


@lru_cache(maxsize=4)
def opened_cut(folder: Path, rows: str) -> dict[str, Any]:
    """Positions and labels of the parts of a cut."""
    with np.load(folder / CUTS / f"{rows}.npz") as file:
        return dict(file)


@dataclass(frozen=True)
class Model:
    """A model that was fitted.

    Attributes:
        codes: levels that it knows.
        learned: estimator and calibration.
        until: when the newest row that it was fitted on was asked for.
    """

    codes: Codes
    learned: Learned
    until: int


@lru_cache(maxsize=4)
def opened_model(folder: Path, model: str) -> Model:
    """A model that was fitted, by its key."""
    found = pickle.loads((folder / MODELS / model).read_bytes())  # noqa: S301 - our own, of this folder
    assert isinstance(found, Model)
    return found


def scores(folder: Path, model: str, rows: Positions | slice) -> Floats:
    """Scores of some rows by a model, rising positions; whole stretches of time are scored and kept.

    Args:
        folder: that holds the past and the model.
        model: its key.
        rows: positions, rising, or a slice.
    """
    past = opened(folder / PAST)
    positions = np.arange(len(past.asked))[rows] if isinstance(rows, slice) else rows
    if not len(positions):
        return np.zeros(0)
    origin = int(past.asked[0])
    first, last = ((int(past.asked[p]) - origin) // CHUNK for p in (positions[0], positions[-1]))
    start = past.between(0, origin + first * CHUNK).stop
    found = np.concatenate([_chunk(folder, past, model, chunk) for chunk in range(first, last + 1)])
    wanted: Floats = found[positions - start]
    return wanted


def answers(model: Model, past: Past, rows: Positions | slice) -> Floats:
    """Scores of some rows by a model, as it gives them."""
    found: Floats = model.learned.score()(model.codes.of_model(past, rows))
    return found


def _chunk(folder: Path, past: Past, model: str, number: int) -> Floats:
    path = folder / SCORES / model / f"{number}.npy"
    if path.exists():
        kept: Floats = np.load(path)
        return kept
    origin = int(past.asked[0])
    rows = past.between(origin + number * CHUNK, origin + (number + 1) * CHUNK)
    found = answers(opened_model(folder, model), past, rows)
    _save(path, found)
    return found


def _save(path: Path, found: Floats | dict[str, Any]) -> None:
    """Write an array, or several by name, whole: another process may be writing the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{os.getpid()}.{threading.get_ident()}.{path.name}")
    if isinstance(found, dict):
        np.savez(aside, **found)
    else:
        np.save(aside, found)
    aside.replace(path)


def _rows(task: Task, codes: Codes, past: Past, rows: Positions, y: Floats, name: str) -> Rows:
    check_fit(task, past.label, y, name)
    return Rows(codes.of_model(past, rows), y)
