"""Fit, calibrate, convert and bundle: from a training set to a model that can be served."""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, Golden, TrainedModel, TrainingSet
from evergrow.data import training_set as training_sets
from evergrow.errors import DataError, RequestError, ServingError, SpecError
from evergrow.learning import bundle, onnx_conversion, skops_file
from evergrow.learning.bundle import Bundle, Score
from evergrow.learning.identity import identify, own_package
from evergrow.learning.learn import ENTRYPOINT, Learned, Rows, build_estimator, learn, single_threaded
from evergrow.learning.onnx_conversion import TOLERANCE, Conversion
from evergrow.learning.parts import check_fit, labels, split
from evergrow.learning.search import write_trials
from evergrow.learning.vector import Vectoriser, levels
from evergrow.spec import ContinualModel
from evergrow.spec.model import Training

__all__ = ["fit", "identify"]

BACKGROUND_ROWS = 32
GOLDEN_ROWS = 16
PROOF_ROWS = 4096


@dataclass(frozen=True)
class Part(Rows):
    """Rows as an estimator takes them, and as they are."""

    rows: pd.DataFrame


def fit(model: ContinualModel, training_set: Path, out: Path, ancestor: Path | None = None) -> TrainedModel:
    """Fit what the document describes and write its bundle; the same identity gives the same bytes.

    Args:
        model: the document.
        training_set: directory of a TrainingSet.
        out: directory the bundle is written into.
        ancestor: bundle that an update goes on from; None: there is none, and it is a refit.

    Raises:
        NotEnoughData: a part has too few rows, or one class only.
        DataError: a label or feature is not what the training set says.
        SpecError: the estimator cannot be built, fitted, asked with missing values, or saved.
    """
    training = model.spec.training
    build_estimator(training, model.spec.task, training.estimator.parameters)  # what is wrong with it is told at once
    about, rows = training_sets.read(training_set)
    cut = split(about, rows, calibrates=training.calibrates)
    before = Ancestor.of(model, about, ancestor)
    categories = {f.name: levels(cut.fit[f.name]) for f in about.features if f.kind == "categorical"}
    if before is not None:
        categories, cut = dict(before.info.categories), replace(cut, fit=before.fresh(training, cut.fit))
    vectoriser = Vectoriser(about.features, categories)
    fitting = _part(about, vectoriser, cut.fit, "rows to fit on")
    calibrating = _part(about, vectoriser, cut.calibration, "rows to calibrate on") if training.calibrates else None
    learned = learn(
        training,
        model.spec.task,
        model.spec.evaluation.gate.metric,
        fitting,
        calibrating,
        before.learned if before else None,
    )
    with single_threaded():
        info = _write(model, about, categories, learned, fitting, out, before)
    if learned.trials:
        write_trials(out, learned.trials)
    return info


@dataclass(frozen=True)
class Ancestor:
    """What an update goes on from.

    Attributes:
        info: of its bundle.
        estimator: fitted.
    """

    info: TrainedModel
    estimator: Any

    @classmethod
    def of(cls, model: ContinualModel, about: TrainingSet, bundle_: Path | None) -> Self | None:
        """The ancestor in a bundle; None if the document wants a refit, or it has other features."""
        if bundle_ is None or not goes_on(model, about, read_info(bundle_)):
            return None
        info = read_info(bundle_)
        return cls(info, skops_file.loads((bundle_ / bundle.SKOPS).read_bytes(), info.package))

    @property
    def learned(self) -> Learned:
        """What was learnt, without how."""
        names = [feature.name for feature in self.info.features]
        left = {names.index(name): worth for name, worth in self.info.left_out.items()}
        return Learned(self.estimator, {}, self.info.calibration, left_out=left)

    @property
    def identity(self) -> str:
        """Digest of it."""
        return self.info.identity.digest

    def fresh(self, training: Training, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows that are gone on with: of a partial fit, those it has not been fitted on."""
        if training.update.kind != "partial-fit":
            return rows
        newer: pd.DataFrame = rows[rows[EVENT_TIMESTAMP] > self.info.trained_on[1]]
        return newer

    def span(self, training: Training, asked: pd.Series) -> tuple[datetime, datetime]:
        """First and last instant of the rows that the model was fitted on in all, these the newest."""
        first, last = self.info.trained_on
        return (first, last) if training.update.kind == "recalibrate" else (min(first, asked.min()), asked.max())


def read_info(bundle_: Path) -> TrainedModel:
    """What a bundle says of itself."""
    return TrainedModel.model_validate_json((bundle_ / bundle.INFO).read_bytes())


def goes_on(model: ContinualModel, about: TrainingSet, before: TrainedModel) -> bool:
    """Whether an update goes on from a model; else it is a refit."""
    return model.spec.training.update.kind != "refit" and before.features == about.features


def _part(about: TrainingSet, vectoriser: Vectoriser, rows: pd.DataFrame, name: str) -> Part:
    y = labels(about, rows)
    check_fit(about.task, about.label, y, name)
    try:
        return Part(vectoriser.columns(rows), y, rows)
    except RequestError as error:
        raise DataError(f"training set: {error}") from error


def _write(
    model: ContinualModel,
    about: TrainingSet,
    categories: Mapping[str, tuple[str, ...]],
    learned: Learned,
    fitting: Part,
    out: Path,
    before: Ancestor | None,
) -> TrainedModel:
    """Save, convert and describe what was learnt; gives what the bundle says of itself."""
    estimator, X = learned.estimator, fitting.without(learned.left_out).X
    left_out = {about.features[column].name: worth for column, worth in learned.left_out.items()}
    vectoriser = Vectoriser(about.features, categories, left_out)
    reference = bundle.estimator_score(estimator)
    probes = golden_rows(about, fitting.rows)
    scale = 1.0 if about.task == "binary-classification" else max(float(np.std(fitting.y)), 1e-12)
    conversion = _converted(about, estimator, reference, np.vstack([vectoriser.rows(probes), X]), scale)
    asked = fitting.rows[EVENT_TIMESTAMP]
    info = TrainedModel(
        model=model.name,
        task=about.task,
        identity=identify(model, about, before.identity if before else ""),
        features=about.features,
        categories=categories,
        left_out=left_out,
        calibration=learned.calibration,
        trained_on=before.span(model.spec.training, asked) if before else (asked.min(), asked.max()),
        as_of=about.as_of,
        rows=len(fitting.rows),
        backend="onnx" if conversion.model is not None else "scikit-learn",
        backend_reason=conversion.reason,
        prior=float(fitting.y.mean()),
        feature_service=model.spec.features.service,
        requirements=_requirements(onnx=conversion.model is not None),
        package=own_package(model),
        parent=before.identity if before else "",
        set_aside=about.set_aside if before is None or before.info.set_aside == about.set_aside else None,
    )
    score = reference if conversion.model is None else bundle.onnx_score(conversion.model)
    answers = Bundle(out, info, score).predict(vectoriser.rows(probes))
    golden = Golden(features=probes, scores=tuple(answers.tolist()), tolerance=TOLERANCE * scale)
    files = {bundle.SKOPS: _saved(model, estimator), bundle.BACKGROUND: _npy(_spread(X, BACKGROUND_ROWS))}
    if conversion.model is not None:
        files[bundle.ONNX] = conversion.model
    bundle.write(out, info, files, golden)
    return info


def _converted(
    about: TrainingSet, estimator: Any, reference: Score, X: NDArray[np.float32], scale: float
) -> Conversion:
    """The proved ONNX model, or why there is none; the golden rows come first in `X`."""
    X = np.vstack([X[:GOLDEN_ROWS], _spread(X[GOLDEN_ROWS:], PROOF_ROWS)])
    try:
        expected = reference(X)
    except ValueError as error:
        raise SpecError(
            f"{ENTRYPOINT}: the estimator must answer rows with missing features: {error}",
            hint="put a SimpleImputer before it: a feature may be missing or unseen in any request",
        ) from error
    output = "probabilities" if about.task == "binary-classification" else "variable"
    try:
        converted = onnx_conversion.convert(estimator, X.shape[1], output)
        return onnx_conversion.prove(converted, bundle.onnx_score, expected, X, scale)
    except Exception as error:  # skl2onnx and ONNX Runtime raise anything on what they cannot convert or run
        return Conversion(None, f"no ONNX: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def golden_rows(about: TrainingSet, rows: pd.DataFrame) -> tuple[dict[str, float | str | None], ...]:
    """GOLDEN_ROWS requests, spread over the rows fitted on; the last have unseen levels, or nothing at all."""
    names = [f.name for f in about.features]
    picked = rows.iloc[np.linspace(0, len(rows) - 1, GOLDEN_ROWS).astype(int)][names]
    columns = [[_plain(value) for value in picked[name]] for name in names]
    golden = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    golden[-2] |= {f.name: "never fitted on" for f in about.features if f.kind == "categorical"}
    golden[-1] |= dict.fromkeys(names)
    return tuple(golden)


def _plain(value: Any) -> float | str | None:
    if isinstance(value, str):
        return value
    return None if pd.isna(value) else float(value)


def _spread(X: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """At most so many rows, evenly spread; rows come sorted by time."""
    return X if len(X) <= rows else X[np.linspace(0, len(X) - 1, rows).astype(int)]


def _saved(model: ContinualModel, estimator: Any) -> bytes:
    """The estimator as a skops file that is known to be readable."""
    try:
        saved = skops_file.dumps(estimator)
        skops_file.loads(saved, own_package(model))
    except (ServingError, TypeError, ValueError) as error:
        raise SpecError(f"{ENTRYPOINT}: the estimator cannot be saved: {error}") from error
    return saved


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _requirements(*, onnx: bool) -> tuple[str, ...]:
    names = ["numpy", "pydantic", *(["onnxruntime"] if onnx else ["scikit-learn", "skops", "threadpoolctl"])]
    return tuple(f"{name}=={importlib.metadata.version(name)}" for name in names)
