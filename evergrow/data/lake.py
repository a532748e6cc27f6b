"""One model's data on disk: raw tables that only grow, and the tables derived from them.

    <root>/raw/<table>/manifest.json       the watermark and the parts that count
    <root>/raw/<table>/part-<n>-<digest>.parquet
    <root>/tables/<table>.parquet          derived; what Feast reads
    <root>/quarantine/<table>/<digest>.parquet   refused rows, each with its reason

Every file is written aside, synced and renamed, and a part counts only once the manifest names it: a kill at any
point leaves the old state or the new one, and what an interrupted run left behind is overwritten by the next.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from evergrow.contracts import digest, instant
from evergrow.errors import DataError

EMPTY: Mapping[str, Any] = {"watermark": None, "parts": []}


class Lake:
    """The data of one model below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def append(self, table: str, frame: pd.DataFrame, watermark: datetime) -> None:
        """Add rows to a raw table and move its watermark, both or neither.

        Raises:
            DataError: `watermark` lies before the present one.
        """
        manifest = self._manifest(table)
        before = self.watermark(table)
        if before is not None and watermark < before:
            raise DataError(f"table {table!r}: the watermark cannot go back from {before} to {watermark}")
        parts = list(manifest["parts"])
        if len(frame):
            content = frame.to_parquet(index=False)
            checksum = hashlib.sha256(content).hexdigest()
            name = f"part-{len(parts):06d}-{checksum[:16]}.parquet"
            replace(self._raw(table) / name, content)
            parts.append({"file": name, "rows": len(frame), "rows_digest": rows_digest(frame)})
        updated = {"watermark": watermark.isoformat(), "parts": parts}
        replace(self._raw(table) / "manifest.json", (json.dumps(updated, indent=1) + "\n").encode())

    def watermark(self, table: str) -> datetime | None:
        """Up to which instant a raw table has been read; None if never."""
        text = self._manifest(table)["watermark"]
        return None if text is None else instant(text)

    def is_read_up_to(self, instant: datetime) -> bool:
        """Whether there are raw tables and all have been read up to an instant: ingest up to it would read nothing."""
        marks = [self.watermark(path.parent.name) for path in self.root.glob("raw/*/manifest.json")]
        return bool(marks) and all(mark is not None and mark >= instant for mark in marks)

    def read_raw(self, table: str) -> pd.DataFrame:
        """All rows of a raw table, in the order they came.

        Raises:
            DataError: nothing was ever ingested.
        """
        parts = self._manifest(table)["parts"]
        if not parts:
            raise DataError(f"raw table {table!r} is empty", hint="ingest first, or check the source")
        frames = [pd.read_parquet(self._raw(table) / part["file"]) for part in parts]
        return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]

    def rows(self, table: str) -> int:
        """How many rows a raw table has."""
        return sum(int(part["rows"]) for part in self._manifest(table)["parts"])

    def parts(self, table: str) -> list[Mapping[str, Any]]:
        """File name, rows and digest of each part of a raw table."""
        return list(self._manifest(table)["parts"])

    def raw_digest(self) -> str:
        """SHA-256 over the rows of all raw tables, however they were split into parts' files."""
        tables = sorted(p.parent.name for p in self.root.glob("raw/*/manifest.json"))
        return digest({table: [part["rows_digest"] for part in self.parts(table)] for table in tables})

    def quarantine(self, table: str, rows: pd.DataFrame) -> Path:
        """Keep refused rows (with a column `reason`); the same rows are kept once. Returns the file."""
        path = self.root / "quarantine" / table / f"{rows_digest(rows.astype(str))[:16]}.parquet"
        replace(path, rows.to_parquet(index=False))
        return path

    def replace(self, table: str, frame: pd.DataFrame) -> None:
        """Put a derived table in place; readers see the old one or the new one."""
        replace(self.path(table), frame.to_parquet(index=False))

    def read(self, table: str) -> pd.DataFrame:
        """A derived table.

        Raises:
            DataError: it does not exist.
        """
        if not self.path(table).exists():
            raise DataError(f"derived table {table!r} does not exist below {self.root}", hint="ingest first")
        return pd.read_parquet(self.path(table))

    def path(self, table: str) -> Path:
        """File of a derived table."""
        return self.root / "tables" / f"{table}.parquet"

    def digest(self) -> str:
        """SHA-256 of what the derived tables were made of: raw rows and code; empty string if never derived."""
        stamp = self.root / "tables" / "derived_from"
        return stamp.read_text(encoding="utf-8") if stamp.exists() else ""

    def stamp(self, derived_from: str) -> None:
        """Say what the derived tables were made of, once all are in place."""
        replace(self.root / "tables" / "derived_from", derived_from.encode())

    def _raw(self, table: str) -> Path:
        return self.root / "raw" / table

    def _manifest(self, table: str) -> Mapping[str, Any]:
        path = self._raw(table) / "manifest.json"
        if not path.exists():
            return EMPTY
        manifest: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return manifest


def rows_digest(frame: pd.DataFrame) -> str:
    """SHA-256 of a frame's column names, kinds and values in order, whatever file or dtype keeps them.

    Instants count as microseconds, numbers as float64 or int64, everything else as its text; missing is missing.

    >>> rows_digest(pd.DataFrame({"a": [1.0, None]})) == rows_digest(pd.DataFrame({"a": [1, None]}, dtype="Float32"))
    True
    """
    hashed = hashlib.sha256()
    for name, values in frame.items():
        kind, content = _canonical(values)
        hashed.update(json.dumps([str(name), kind, len(values), len(content)]).encode() + content)
    return hashed.hexdigest()


def _canonical(values: pd.Series) -> tuple[str, bytes]:
    """A column's kind, and its values as bytes that depend on nothing but them."""
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return "instant", values.dt.tz_convert("UTC").dt.as_unit("us").astype("int64").to_numpy("<i8").tobytes()
    if is_integer_dtype(values) and not values.isna().any():
        return "integer", values.to_numpy("<i8").tobytes()
    if is_numeric_dtype(values) and not is_bool_dtype(values):
        numbers = values.to_numpy("<f8", na_value=np.nan)
        return "number", np.where(np.isnan(numbers), np.nan, numbers + 0.0).tobytes()
    texts = [None if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]
    return "text", json.dumps(texts).encode()


def replace(path: Path, content: bytes) -> None:
    """Write a file whole: aside, synced, renamed; then the folder is synced, so that the name lasts too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.aside")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)  # noqa: PTH105 - one name for the kill tests to count
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
