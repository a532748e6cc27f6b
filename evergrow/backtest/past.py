"""What happened to a model: the rows it was asked for, their features as of each, and when their labels became known.

Kept in a folder as arrays that several processes open without copying them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT, Feature, Task, digest
from evergrow.data.lake import replace, rows_digest
from evergrow.data.references import chances
from evergrow.errors import DataError
from evergrow.learning.vector import Vectoriser, levels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ABOUT = "past.json"
ARRAYS = ("asked", "X", "chance", "label_row", "label_known", "label_value")
"""Kept as files each; in the order of the fields."""
DAY = 86_400_000_000
"""Microseconds."""
NEVER = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Past:
    """All rows, in the order in which they were asked for.

    Attributes:
        task: what kind of label.
        label: its column.
        features: of the model, in its order.
        categories: sorted levels of each categorical feature, over all rows.
        asked: microseconds since 1970 (UTC), rising, [n].
        X: features, float32 [n, k]; of a category the position of its level, NaN where missing.
        chance: by which rows are set aside, uniform in [0, 1), [n]: see `evergrow.data.references`.
        label_row: row of each label, corrections of a label included, [m].
        label_known: when it became known, microseconds since 1970, rising, [m].
        label_value: [m].
        digest: SHA-256 of all of that.
    """

    task: Task
    label: str
    features: tuple[Feature, ...]
    categories: dict[str, tuple[str, ...]]
    asked: Ints
    X: NDArray[np.float32]
    chance: Floats
    label_row: Ints
    label_known: Ints
    label_value: Floats
    digest: str

    @classmethod
    def of(cls, task: Task, label: str, features: Sequence[str], rows: pd.DataFrame, late: timedelta) -> Self:
        """From examples joined with their features.

        Args:
            task: what kind of label.
            label: its column.
            features: columns of the model's features, in its order.
            rows: with `event_timestamp`, `known_at`, the label (missing: never known), the features, and the keys of
                the examples, which are all that is left; rows of equal instant and keys are corrections of a label.
            late: labels became known so much later than they say.

        Raises:
            DataError: a column is missing, or there is no label at all.
        """
        missing = [c for c in (EVENT_TIMESTAMP, KNOWN_AT, label, *features) if c not in rows.columns]
        if missing:
            raise DataError(f"the past lacks columns {', '.join(missing)}", hint=f"it has {', '.join(rows.columns)}")
        given = [c for c in rows.columns if c not in (EVENT_TIMESTAMP, KNOWN_AT, label, *features)]
        same = [EVENT_TIMESTAMP, *given]
        rows = rows.sort_values(same, ignore_index=True, kind="stable")
        again = rows.duplicated(same).to_numpy()
        number, once = np.cumsum(~again) - 1, rows[~again]
        kinds = tuple(Feature(name=name, kind=_kind(rows[name])) for name in features)
        categories = {f.name: levels(once[f.name]) for f in kinds if f.kind == "categorical"}
        labelled = np.flatnonzero((rows[label].notna() & rows[KNOWN_AT].notna()).to_numpy())
        if not len(labelled):
            raise DataError(f"the past has {len(rows):,} rows and no label {label!r} that was ever known")
        known = _microseconds(rows[KNOWN_AT].iloc[labelled]) + round(late / timedelta(microseconds=1))
        order = np.argsort(known, kind="stable")
        X = Vectoriser(kinds, categories).columns(once)
        return cls(
            task, label, kinds, categories, _microseconds(once[EVENT_TIMESTAMP]), X,
            chances(once, tuple(given)),
            number[labelled][order], known[order], rows[label].iloc[labelled].to_numpy(np.float64)[order],
            digest([task, label, [f.model_dump() for f in kinds], rows_digest(rows), late.total_seconds()]),
        )  # fmt: skip

    def labels(self, rows: slice, now: int) -> tuple[Floats, Ints]:
        """Of each of these rows the label that was known at an instant, NaN if none was, and since when it was."""
        start, stop, mine = self._of(rows)
        mine = mine[self.label_known[mine] <= now]
        y, known = np.full(stop - start, np.nan), np.full(stop - start, NEVER)
        # Of several labels of a row the last assignment stays, which is the one that became known last.
        y[self.label_row[mine] - start] = self.label_value[mine]
        known[self.label_row[mine] - start] = self.label_known[mine]
        return y, known

    def came(self, rows: slice) -> Ints:
        """Since when each of these rows has had a label; NEVER if none ever came."""
        start, stop, mine = self._of(rows)
        found = np.full(stop - start, NEVER)
        # Of several labels of a row the last assignment stays: here that of the one that became known first.
        found[self.label_row[mine[::-1]] - start] = self.label_known[mine[::-1]]
        return found

    def _of(self, rows: slice) -> tuple[int, int, Ints]:
        """First of these rows, the one after the last, and the positions of their labels, in the order of `_by_row`."""
        start, stop, _ = rows.indices(len(self.asked))
        by_row, of_rows = self._by_row
        first, last = np.searchsorted(of_rows, [start, stop], side="left")
        return start, stop, by_row[first:last]

    @cached_property
    def _by_row(self) -> tuple[Ints, Ints]:
        """Positions of the labels in the order of their rows, then of their instants; and these rows."""
        order = np.argsort(self.label_row, kind="stable")
        return order, self.label_row[order]

    @cached_property
    def truth(self) -> Floats:
        """Of each row the label that became known last, NaN if none ever did."""
        return self.labels(slice(None), NEVER - 1)[0]

    @cached_property
    def first_known(self) -> NDArray[np.datetime64]:
        """When each label became known first, rising; datetime64[us]."""
        _, first = np.unique(self.label_row, return_index=True)
        return np.sort(self.label_known[first]).astype("datetime64[us]")

    def between(self, since: int, until: int) -> slice:
        """The rows asked for in [since, until)."""
        first, last = np.searchsorted(self.asked, [since, until], side="left")
        return slice(int(first), int(last))

    def decoded(self, rows: Any) -> dict[str, Any]:
        """Features of some rows as they were: numbers, and levels of categories (None where missing)."""
        X = self.X[rows]
        return {f.name: self._decoded(f, X[:, j]) for j, f in enumerate(self.features)}

    def _decoded(self, feature: Feature, column: NDArray[np.float32]) -> Any:
        if feature.kind == "numeric":
            return column.astype(np.float64)
        names = np.array([*self.categories[feature.name], None], dtype=object)
        return names[np.where(np.isnan(column), len(names) - 1, column).astype(int)]

    def save(self, folder: Path) -> None:
        """Write it; what describes it comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        about = {
            "task": self.task,
            "label": self.label,
            "features": [feature.model_dump() for feature in self.features],
            "categories": self.categories,
            "digest": self.digest,
        }
        replace(folder / ABOUT, (json.dumps(about, indent=1) + "\n").encode())

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read what `save` wrote, without loading it.

        Raises:
            DataError: there is none.
        """
        if not (folder / ABOUT).exists():
            raise DataError(f"{folder} holds no past: {ABOUT} is missing")
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS]
        features = tuple(Feature.model_validate(feature) for feature in about["features"])
        categories = {name: tuple(found) for name, found in about["categories"].items()}
        asked, X, chance, row, known, value = arrays
        return cls(
            about["task"], about["label"], features, categories, asked, X, chance, row, known, value, about["digest"]
        )


@lru_cache(maxsize=4)
def opened(folder: Path) -> Past:
    """A past that this process has open."""
    return Past.open(folder)


def microseconds(at: datetime) -> int:
    """Since 1970.

    >>> microseconds(datetime(1970, 1, 2, tzinfo=UTC)) == DAY
    True
    """
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))


def instant_of(at: int) -> datetime:
    """The instant so many microseconds after 1970.

    >>> instant_of(DAY).isoformat()
    '1970-01-02T00:00:00+00:00'
    """
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(at))


def _microseconds(column: pd.Series) -> Ints:
    if not isinstance(column.dtype, pd.DatetimeTZDtype):
        raise DataError(f"column {column.name!r} must be timezone-aware instants, found {column.dtype}")
    numbers: Ints = column.dt.tz_convert("UTC").dt.as_unit("us").astype("int64").to_numpy()
    return numbers


def _kind(values: pd.Series) -> Any:
    return "numeric" if is_numeric_dtype(values) or is_bool_dtype(values) else "categorical"
