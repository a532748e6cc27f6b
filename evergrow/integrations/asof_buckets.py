"""Point-in-time joins larger than memory: both sides are dealt into buckets of keys that fit, and joined one by one.

A join that spills sorts on disk, and the more it spills the more a row costs. Dealing rows into files by key costs the
same for each row however many there are; so does putting the results back into the order of the rows asked for, which
are dealt into slabs of consecutive rows. Keys are dealt by number, so a bucket is too large only if single keys are;
then its join spills, and is right all the same.
"""

# ruff: noqa: S608 - paths are quoted by `literal`, the rest is of `asof`; there is no other input.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from evergrow.integrations.asof import View, asked_sql, best_known, codes_sql, join_sql, literal, rows_sql

MOST_BUCKETS = 90
"""DuckDB keeps up to 100 files open when it deals rows."""
WORKING_COPIES = 3
"""How many times its own size a bucket may take while it is joined: read, sorted and written."""
SLABS_PER_BUCKET = 3
"""Slabs are handed on as Arrow tables, which come on top of the limit: they are smaller than buckets."""
COLUMN_BYTES = 8
FLUSHED_ROWS = 100_000
_UNITS = {"B": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def buckets_for(rows: int, columns: int, memory_limit: str) -> int:
    """Into how many buckets `rows` of `columns` are dealt, so that each can be joined within a limit such as "2GB".

    >>> buckets_for(1_000, 6, "512MB"), buckets_for(20_000_000, 6, "512MB")
    (1, 6)
    """
    number = float("".join(c for c in memory_limit if c.isdigit() or c == "."))
    unit = memory_limit.lstrip("0123456789. ").upper()[:1] or "B"
    limit = number * 1000 ** _UNITS[unit]
    needed = rows * columns * COLUMN_BYTES * WORKING_COPIES
    return max(1, min(MOST_BUCKETS, -int(-needed // limit)))


class Buckets:
    """Joins views to `entities` (`_row` from 0, `_asked`, keys) by way of files below `folder`."""

    def __init__(self, db: duckdb.DuckDBPyConnection, folder: Path, rows: int, buckets: int) -> None:
        self.db, self.folder, self.rows, self.count = db, folder, rows, buckets
        self.slab = max(1, -(-rows // min(MOST_BUCKETS, SLABS_PER_BUCKET * buckets)))
        db.execute("SET preserve_insertion_order = false")
        db.execute(f"SET partitioned_write_flush_threshold = {FLUSHED_ROWS}")

    def join(self, view: View, name: str) -> None:
        """Join one view; `slabs` tells its features under `name`."""
        self.db.execute(f"CREATE OR REPLACE TEMP TABLE codes AS {codes_sql(view)}")
        self._deal(asked_sql(view), f"coalesce(_code, 0) % {self.count}", self.folder / "asked")
        self._deal(rows_sql(view), f"_code % {self.count}", self.folder / "rows")
        for bucket in range(self.count):
            asked, rows = (self._read(self.folder / side, bucket) for side in ("asked", "rows"))
            if asked is not None:
                joined = join_sql(view, asked, self._best(view, rows), "e._row, ")
                self._deal(joined, f"_row // {self.slab}", self.folder / name / str(bucket))
        for side in ("asked", "rows"):
            for file in (self.folder / side).rglob("*.parquet"):
                file.unlink()

    def slabs(self, names: Sequence[str]) -> Iterator[tuple[int, int, pa.Table]]:
        """First row, end and joined features of each slab of rows, in order."""
        self.db.execute("SET preserve_insertion_order = true")
        for slab in range(-(-self.rows // self.slab)):
            files = (literal(f"{self.folder}/{name}/*/_bucket={slab}/*.parquet") for name in names)
            parts = [
                f"(SELECT * EXCLUDE (_row) FROM read_parquet({f}, hive_partitioning=false) ORDER BY _row)"
                for f in files
            ]
            joined = " POSITIONAL JOIN ".join(parts)
            table = self.db.sql(f"SELECT * FROM {joined}").to_arrow_table()
            yield slab * self.slab, min(self.rows, (slab + 1) * self.slab), table

    def _best(self, view: View, rows: str | None) -> str:
        """Table expression of the best known rows of a bucket."""
        if rows is None:
            return f"(SELECT * FROM ({rows_sql(view)}) WHERE FALSE)"
        late = f"SELECT 1 FROM {rows} WHERE _created > _event LIMIT 1"
        equal = f"SELECT 1 FROM {rows} GROUP BY _code, _event HAVING count(*) > 1 LIMIT 1"
        if not any(self.db.execute(query).fetchall() for query in (late, equal)):
            return rows
        return f"({best_known(f'SELECT * FROM {rows}', view.source.order)})"

    def _deal(self, query: str, number: str, to: Path) -> None:
        """Write a query's rows to files by `number`."""
        to.mkdir(parents=True, exist_ok=True)
        self.db.execute(
            f"COPY (SELECT *, {number} AS _bucket FROM ({query})) TO {literal(str(to))} "
            "(FORMAT parquet, COMPRESSION uncompressed, PARTITION_BY (_bucket), OVERWRITE_OR_IGNORE)"
        )

    def _read(self, folder: Path, bucket: int) -> str | None:
        """Table expression of a bucket's rows; none if it has none."""
        part = folder / f"_bucket={bucket}"
        files = literal(f"{part}/*.parquet")
        return f"read_parquet({files}, hive_partitioning=false)" if part.exists() and any(part.iterdir()) else None
