"""Baselines: what a version was held to be good on, which everything in service is held against.

Made once, when a model is judged, from its held-out rows: features, scores and labels by day and by slice, the losses
by hour, and a sample of rows. It is kept beside the report, so it goes wherever the version goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, Feature
from evergrow.data.lake import replace
from evergrow.errors import DataError
from evergrow.monitoring import tables
from evergrow.monitoring.profile import Axis, Grouping, Profile, axes_of, profile, profile_groups, total
from evergrow.prediction_log.records import logged

Floats = NDArray[np.float64]

ANSWERS, LABELS, SAMPLE = "answers.parquet", "labels.parquet", "sample.parquet"
SCORE, LABEL = "score", "label"
SAMPLED = 5000
"""Rows of the sample, evenly spread over the holdout."""


@dataclass(frozen=True)
class Losses:
    """Realised losses by hour.

    Attributes:
        hours: hours since 1970 (UTC) that have rows, rising, int64 [h].
        rows: in each, int64 [h].
        sums: of their losses, [h].
    """

    hours: NDArray[np.int64]
    rows: NDArray[np.int64]
    sums: Floats

    @classmethod
    def of(cls, seconds: NDArray[np.int64], losses: Floats) -> Self:
        """Of rows, given when each was asked, in seconds since 1970."""
        hours, place = np.unique(seconds // 3600, return_inverse=True)
        sums: Floats = np.bincount(place, losses, len(hours)).astype(np.float64)
        return cls(hours, np.bincount(place, minlength=len(hours)), sums)

    def blocks(self, hours: int) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
        """By blocks of so many hours that have rows: each block's number since 1970, mean loss and rows."""
        numbers, place = np.unique(self.hours // hours, return_inverse=True)
        rows = np.bincount(place, self.rows, minlength=len(numbers))
        sums = np.bincount(place, self.sums, minlength=len(numbers))
        return numbers, sums / rows, rows.astype(np.int64)

    @property
    def mean(self) -> float:
        """Over all rows."""
        return float(self.sums.sum() / self.rows.sum())


@dataclass(frozen=True)
class Baseline:
    """The held-out rows of a version.

    Attributes:
        features: of the model, in its order.
        axes: of the features, by their names in the log, and of the score.
        days: profiles on those axes, per day (UTC).
        slices: profiles on those axes of all days, per value of each slice column: "origin=EWR".
        groupings: how a row's slices are told apart.
        labels: profiles of the label, per day.
        label_axis: theirs.
        losses: by hour, of the gate's metric.
        sample: rows, with `event_timestamp`, the features, slice columns, `score` and `label`.
    """

    features: tuple[Feature, ...]
    axes: tuple[Axis, ...]
    days: Mapping[date, Profile]
    slices: Mapping[str, Profile]
    groupings: tuple[Grouping, ...]
    labels: Mapping[date, Profile]
    label_axis: Axis
    losses: Losses
    sample: pd.DataFrame

    @property
    def whole(self) -> Profile:
        """Of all days together."""
        return total(list(self.days.values()), self.axes)

    @classmethod
    def of(
        cls,
        features: Sequence[Feature],
        slices: Sequence[str],
        rows: pd.DataFrame,
        scores: Floats,
        labels: Floats,
        losses: Floats,
        seen: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    ) -> Self:
        """Of held-out rows.

        Args:
            features: of the model.
            slices: columns of `rows`.
            rows: with `event_timestamp`, features and slice columns, [n].
            scores: of the model, [n].
            labels: [n].
            losses: of the gate's metric, [n].
            seen: least and greatest value of each numeric feature in all that the model was made of.
        """
        table = _table(features, slices, rows, scores, labels)
        named = [*(Feature(name=logged(f.name), kind=f.kind) for f in features), _number(SCORE)]
        axes = axes_of(named, table, {logged(name): ends for name, ends in seen.items()})
        groupings = tuple(Grouping.by(column, table[column]) for column in map(logged, slices))
        seconds = pc.cast(pc.floor_temporal(table[EVENT_TIMESTAMP], unit="second"), pa.timestamp("s", "UTC"))
        seconds = pc.cast(seconds, pa.int64()).to_numpy()
        label_axis = Axis.of(_number(LABEL), table[LABEL])
        parts = [(day, table.filter(pa.array(seconds // 86400 == day))) for day in np.unique(seconds // 86400)]
        return cls(
            features=tuple(features),
            axes=axes,
            days={_date(day): profile(axes, part) for day, part in parts},
            slices=profile_groups(axes, table, groupings),
            groupings=groupings,
            labels={_date(day): profile([label_axis], part) for day, part in parts},
            label_axis=label_axis,
            losses=Losses.of(seconds, losses),
            sample=table.take(np.unique(np.linspace(0, len(rows) - 1, SAMPLED).astype(int))).to_pandas(),
        )

    def save(self, folder: Path) -> None:
        """Write it as files of a directory."""
        about = {
            "features": [feature.model_dump() for feature in self.features],
            "groupings": [
                {"column": g.column, "axis": g.axis.model_dump() if g.axis else None} for g in self.groupings
            ],
            "losses": [self.losses.hours.tolist(), self.losses.rows.tolist(), self.losses.sums.tolist()],
        }
        answers = {day.isoformat(): p for day, p in self.days.items()} | dict(self.slices)
        replace(folder / ANSWERS, tables.write(answers, self.axes, about))
        labels = {day.isoformat(): p for day, p in self.labels.items()}
        replace(folder / LABELS, tables.write(labels, [self.label_axis], {}))
        replace(folder / SAMPLE, self.sample.to_parquet(index=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: there is none.
        """
        if not (folder / SAMPLE).exists():
            raise DataError(
                f"{folder}: the evaluation has no baseline to hold what is served against",
                hint="an older evergrow judged this version: train it again",
            )
        answers, axes, about = tables.read((folder / ANSWERS).read_bytes())
        labels, (label_axis,), _ = tables.read((folder / LABELS).read_bytes())
        hours, rows, sums = about["losses"]
        return cls(
            features=tuple(Feature.model_validate(feature) for feature in about["features"]),
            axes=axes,
            days={date.fromisoformat(name): p for name, p in answers.items() if "=" not in name},
            slices={name: p for name, p in answers.items() if "=" in name},
            groupings=tuple(Grouping.model_validate(grouping) for grouping in about["groupings"]),
            labels={date.fromisoformat(name): p for name, p in labels.items()},
            label_axis=label_axis,
            losses=Losses(np.array(hours, np.int64), np.array(rows, np.int64), np.array(sums, np.float64)),
            sample=pd.read_parquet(folder / SAMPLE),
        )


def _table(
    features: Sequence[Feature], slices: Sequence[str], rows: pd.DataFrame, scores: Floats, labels: Floats
) -> pa.Table:
    """The rows as the prediction log names them, with `score` and `label`."""
    columns = {EVENT_TIMESTAMP: rows[EVENT_TIMESTAMP]} | {logged(column): rows[column] for column in slices}
    columns |= {logged(feature.name): rows[feature.name] for feature in features}
    return pa.Table.from_pandas(pd.DataFrame({**columns, SCORE: scores, LABEL: labels}), preserve_index=False)


def _number(name: str) -> Feature:
    return Feature(name=name, kind="numeric")


def _date(day: np.int64) -> date:
    return date.fromordinal(date(1970, 1, 1).toordinal() + int(day))
