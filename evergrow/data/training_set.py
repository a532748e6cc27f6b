"""Training sets: labels known as of an instant, joined with features as known when each prediction was asked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT, Feature, SetAside, TrainingSet
from evergrow.data.lake import replace, rows_digest
from evergrow.data.references import judged, microseconds, set_aside
from evergrow.data.splits import Boundaries, boundaries
from evergrow.data.windows import Candidates, needs_features, select
from evergrow.errors import DataError, NotEnoughData, RequestError
from evergrow.learning.vector import Vectoriser, levels
from evergrow.ports import FeatureStore
from evergrow.spec import ContinualModel
from evergrow.spec.model import References
from evergrow.spec.windows import All, Sliding, Window

ROWS, ABOUT = "rows.parquet", "training_set.json"


def build(
    model: ContinualModel, examples: pd.DataFrame, store: FeatureStore, as_of: datetime, source_digest: str, out: Path
) -> TrainingSet:
    """Build the training set of a model as of an instant, whatever became known later, and write it to `out`.

    Args:
        model: the document: label, feature service, window, lengths of holdout and calibration, what is set aside.
        examples: one row per prediction; labels that are missing, or were not known at `as_of`, are left out.
        store: gives the features.
        as_of: aware instant.
        source_digest: what the examples came from.
        out: directory to write.

    Raises:
        DataError: a column is missing or a label is not what the task needs.
        NotEnoughData: the labelled rows do not span the three parts, or the window leaves none to fit on.
    """
    spec = model.spec
    labelled = _known(examples, spec.label.column, as_of)
    _check_labels(model, labelled)
    at = boundaries(labelled, spec.evaluation.holdout, spec.training.calibration_length)
    given = [c for c in examples.columns if c not in (EVENT_TIMESTAMP, KNOWN_AT, spec.label.column)]
    labelled = labelled.sort_values([EVENT_TIMESTAMP, *given], ignore_index=True)
    references = spec.evaluation.references
    aside = SetAside(share=references.share, keys=tuple(given)) if references else None
    joined, features = _joined(model, labelled, at, aside, store)
    _check_slices(model, joined)
    rows = joined[[EVENT_TIMESTAMP, KNOWN_AT, *given, *(f.name for f in features), spec.label.column]]
    about = TrainingSet(
        model=model.name,
        task=spec.task,
        as_of=as_of,
        label=spec.label.column,
        keys=tuple(given),
        features=features,
        slices=spec.evaluation.slices,
        rows=len(rows),
        first=rows[EVENT_TIMESTAMP][~set_aside(rows, aside)].iloc[0].to_pydatetime(),
        last=rows[EVENT_TIMESTAMP].iloc[-1].to_pydatetime(),
        holdout_from=at.holdout_from.to_pydatetime(),
        calibration_from=at.calibration_from.to_pydatetime(),
        data_digest=rows_digest(rows),
        features_digest=store.digest(spec.features.service),
        source_digest=source_digest,
        set_aside=aside,
    )
    write(out, about, rows)
    return about


def write(path: Path, about: TrainingSet, rows: pd.DataFrame) -> None:
    """Write a training set's directory; the description comes last, so that it is there only with its rows."""
    replace(Path(path) / ROWS, rows.to_parquet(index=False))
    replace(Path(path) / ABOUT, (about.model_dump_json(indent=1) + "\n").encode())


def read(path: Path) -> tuple[TrainingSet, pd.DataFrame]:
    """Read a training set's directory.

    Raises:
        DataError: there is none.
    """
    described = Path(path) / ABOUT
    if not described.exists():
        raise DataError(f"{path} holds no training set: {ABOUT} is missing")
    about = TrainingSet.model_validate_json(described.read_text(encoding="utf-8"))
    return about, pd.read_parquet(Path(path) / ROWS)


def _known(examples: pd.DataFrame, label: str, as_of: datetime) -> pd.DataFrame:
    """The examples whose label was known at `as_of`."""
    missing = [c for c in (EVENT_TIMESTAMP, KNOWN_AT, label) if c not in examples.columns]
    if missing:
        raise DataError(f"the table `examples` lacks {missing}, found {list(examples.columns)}")
    for column in (EVENT_TIMESTAMP, KNOWN_AT):
        if not isinstance(examples[column].dtype, pd.DatetimeTZDtype):
            raise DataError(f"examples.{column} must be timezone-aware instants, found {examples[column].dtype}")
    known = examples[(examples[KNOWN_AT] <= pd.Timestamp(as_of)) & examples[label].notna()]
    early = known[known[KNOWN_AT] < known[EVENT_TIMESTAMP]]
    if len(early):
        row = early.iloc[0]
        raise DataError(
            f"examples.{KNOWN_AT} must not be before {EVENT_TIMESTAMP}: the label would be known before it is asked "
            f"for; found {row[KNOWN_AT]} before {row[EVENT_TIMESTAMP]}, and {len(early) - 1:,} more"
        )
    if known.empty:
        raise NotEnoughData(f"no label was known as of {as_of.isoformat()}, of {len(examples):,} examples")
    return _last_known(known, [c for c in known.columns if c not in (KNOWN_AT, label)])


def _last_known(known: pd.DataFrame, same: list[str]) -> pd.DataFrame:
    """Of a label and its corrections, which are rows that differ in nothing else, the one that was known last."""
    if not known.duplicated(same).any():
        return known
    rows: pd.DataFrame = known.sort_values(KNOWN_AT, kind="stable").drop_duplicates(same, keep="last").sort_index()
    return rows


def _check_labels(model: ContinualModel, rows: pd.DataFrame) -> None:
    """Refuse labels that the task cannot be trained on, before anything is joined."""
    column, task = model.spec.label.column, model.spec.task
    labels = rows[column]
    if not is_numeric_dtype(labels):
        raise DataError(f"examples.{column} must be a number for {task}, found {labels.dtype}")
    wrong = labels[~labels.isin([0, 1])] if task == "binary-classification" else labels[labels.abs() == float("inf")]
    if len(wrong):
        rule = "0 or 1" if task == "binary-classification" else "finite"
        raise DataError(
            f"examples.{column} must be {rule} for {task}, found {wrong.iloc[0]} in {len(wrong):,} rows",
            data=[f"found {wrong.iloc[0]}"],
        )


def _joined(
    model: ContinualModel, labelled: pd.DataFrame, at: Boundaries, aside: SetAside | None, store: FeatureStore
) -> tuple[pd.DataFrame, tuple[Feature, ...]]:
    """The rows that the document trains and judges on with their features, and which features these are."""
    looks = needs_features(model.spec.training.window)
    if not looks:  # the fewer rows, the cheaper is the join
        labelled = _window(model, labelled, at, aside, ())
    joined = store.history(model.spec.features.service, labelled)
    features = tuple(Feature(name=n, kind=_kind(joined[n])) for n in joined.columns if n not in labelled.columns)
    return _window(model, joined, at, aside, features) if looks else joined, features


def _window(
    model: ContinualModel, rows: pd.DataFrame, at: Boundaries, aside: SetAside | None, features: Sequence[Feature]
) -> pd.DataFrame:
    """The rows that are fitted on by the document's window, and all those to calibrate on, held out and set aside.

    Rows whose label came after the part that is fitted on stay with the windows `all` and `sliding`; nobody fits on
    them. Those of the calibration part are fitted on where nothing is calibrated. Of rows that are set aside, those of
    periods that are judged are there, whatever the window.
    """
    training, asked = model.spec.training, rows[EVENT_TIMESTAMP]
    window, end = training.window, at.calibration_from if training.calibrates else at.holdout_from
    old = (asked < at.calibration_from).to_numpy()
    apart = old & set_aside(rows, aside)
    before = old & ~apart
    among = before if isinstance(window, All | Sliding) else before & (rows[KNOWN_AT] <= end).to_numpy()
    until = at.calibration_from.ceil("us").tz_convert("UTC").tz_localize(None).to_datetime64()
    candidates, metric = _candidates(model, rows[among], features), model.spec.evaluation.gate.metric
    kept = ~old | (apart & _judged(model.spec.evaluation.references, asked, at))
    kept[among] = select(window, candidates, until, model.spec.task, metric, training.seed)
    if not (kept & before).any():
        raise _nothing_left(window, asked[old])
    chosen: pd.DataFrame = rows[kept].reset_index(drop=True)
    return chosen


def _judged(references: References | None, asked: pd.Series, at: Boundaries) -> NDArray[np.bool_]:
    """Which rows were asked for in a period of which those set aside are judged on."""
    if references is None:
        return np.zeros(len(asked), np.bool_)
    return judged(microseconds(asked), at.holdout_from, references)


def _candidates(model: ContinualModel, rows: pd.DataFrame, features: Sequence[Feature]) -> Candidates:
    """Rows as windows take them; features only if there are some."""
    asked = rows[EVENT_TIMESTAMP].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]")
    if not features:
        return Candidates.at(asked)
    categories = {f.name: levels(rows[f.name]) for f in features if f.kind == "categorical"}
    try:
        X = Vectoriser(features, categories).columns(rows)
    except RequestError as error:
        raise DataError(f"training set: {error}") from error
    return Candidates(asked, X, rows[model.spec.label.column].to_numpy(np.float64))


def _nothing_left(window: Window, asked: pd.Series) -> NotEnoughData:
    lengths = ", ".join(f"{key} {value}" for key, value in window.dump().items() if key != "kind")
    return NotEnoughData(
        f"training.window {window.kind} ({lengths}) leaves nothing to fit on: none of {len(asked):,} labelled rows, "
        f"asked from {asked.iloc[0].isoformat()} to {asked.iloc[-1].isoformat()}, is in it",
        hint="lengthen it, or wait for more labels",
    )


def _kind(values: pd.Series) -> str:
    return "numeric" if is_numeric_dtype(values) or is_bool_dtype(values) else "categorical"


def _check_slices(model: ContinualModel, rows: pd.DataFrame) -> None:
    evaluation = model.spec.evaluation
    named = [(f"slices[{i}]", column) for i, column in enumerate(evaluation.slices)]
    if evaluation.references is not None:
        named += [(f"references.slices[{i}]", column) for i, column in enumerate(evaluation.references.slices)]
    for path, column in named:
        if column not in rows.columns:
            raise DataError(
                f"spec.evaluation.{path}: must be a column of the training set, found {column!r}",
                hint=f"columns: {', '.join(rows.columns)}",
            )
