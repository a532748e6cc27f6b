"""Ingest: what became known since the last time, checked, kept, and made into feature tables and examples."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pandas as pd

from evergrow.contracts import Instant, Value, digest
from evergrow.data import upstream
from evergrow.data.lake import Lake
from evergrow.data.schema import Table
from evergrow.errors import DataError, SpecError, UpstreamError
from evergrow.importing import load_object
from evergrow.ports import Source
from evergrow.spec.model import SourceSpec

REASON = "reason"
# A source that sends mostly rows that break the rules has changed; that is no matter of single rows.
MOST_QUARANTINED = 0.2

Progress = Callable[[str], None]


class TableReport(Value):
    """What happened to one raw table."""

    table: str
    read: int = 0
    kept: int = 0
    repeated: int = 0
    quarantined: int = 0
    quarantine: str | None = None
    unseen: tuple[str, ...] = ()
    watermark: Instant


class IngestReport(Value):
    """What one ingest did."""

    tables: tuple[TableReport, ...]
    derived: bool
    digest: str

    @property
    def kept(self) -> int:
        """Rows added to the lake."""
        return sum(t.kept for t in self.tables)


def source_of(given: SourceSpec) -> Source:
    """The source that a document names.

    Raises:
        SpecError: it does not exist, or does not take its options.
    """
    try:
        source: Source = load_object(given.entrypoint, "spec.source.entrypoint")(**given.options)
    except TypeError as error:
        raise SpecError(f"spec.source.options: {given.entrypoint} does not take them: {error}") from error
    return source


def ingest(source: Source, lake: Lake, until: datetime, progress: Progress = lambda _: None) -> IngestReport:
    """Bring a lake up to `until`: raw rows after each table's watermark, then the derived tables.

    Asking again for what is there already reads and changes nothing. A refused batch leaves every table as it was.

    Raises:
        UpstreamError: a source changed its shape, unit, pace or clock.
        DataError: `derive` gave something that cannot be used.
    """
    # Every table is judged before any is kept: a fault in the last leaves the first as it was too.
    batches = [_judged(source, table, lake, until, progress) for table in source.tables]
    reports = tuple(_keep(batch, lake, until) for batch in batches)
    made_of = digest({"rows": lake.raw_digest(), "code": _code(source)})
    derived = lake.digest() != made_of
    if derived:
        progress("deriving feature tables")
        tables = source.derive({t.name: lake.read_raw(t.name) for t in source.tables})
        _check_derived(tables)
        for name, frame in tables.items():
            lake.replace(name, frame)
        lake.stamp(made_of)
    return IngestReport(tables=reports, derived=derived, digest=made_of)


@dataclass(frozen=True)
class _Batch:
    """Rows of one table, judged but not kept yet; None if there was nothing to ask for."""

    table: Table
    good: pd.DataFrame | None = None
    bad: pd.DataFrame = field(default_factory=pd.DataFrame)
    repeated: int = 0
    unseen: tuple[str, ...] = ()


def _judged(source: Source, table: Table, lake: Lake, until: datetime, progress: Progress) -> _Batch:
    after = lake.watermark(table.name)
    if after is not None and after >= until:
        return _Batch(table)
    progress(f"reading {table.name} after {after.isoformat() if after else 'the beginning'}")
    batch = source.read(table.name, after, until)
    stored = lake.read_raw(table.name) if lake.rows(table.name) else None
    upstream.check(table, batch, stored, after, until)
    batch = batch[[c for c in table.schema.columns if c in batch]]
    good, bad, repeated = judge(table, batch, stored)
    if len(bad) > MOST_QUARANTINED * len(batch):
        most = bad[REASON].mode().iloc[0]
        raise UpstreamError(
            f"table {table.name!r}: {len(bad):,} of {len(batch):,} rows break its rules, at most "
            f"{MOST_QUARANTINED:.0%} may; the most frequent: {most}",
            hint="nothing was stored. Mend the source, or the table's rules",
            data=[f"found {rule.partition(', found ')[2]}" for rule in most.split("; ") if ", found " in rule],
        )
    return _Batch(table, good, bad, repeated, tuple(upstream.unseen(table, good, stored)))


def _keep(batch: _Batch, lake: Lake, until: datetime) -> TableReport:
    """Quarantine first: once the watermark has moved, the refused rows are not read again."""
    name, kept = batch.table.name, batch.good
    if kept is None:
        return TableReport(table=name, watermark=lake.watermark(name) or until)
    refused = lake.quarantine(name, batch.bad) if len(batch.bad) else None
    lake.append(name, kept, until)
    return TableReport(
        table=name,
        read=len(kept) + len(batch.bad) + batch.repeated,
        kept=len(kept),
        repeated=batch.repeated,
        quarantined=len(batch.bad),
        quarantine=str(refused) if refused else None,
        unseen=batch.unseen,
        watermark=until,
    )


def judge(table: Table, batch: pd.DataFrame, stored: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Part a batch into rows to keep and rows to refuse, each refused one with its reasons.

    Returns:
        The good rows, the bad rows with a column `reason`, and how many rows were sent again unchanged (neither).
    """
    batch = batch.reset_index(drop=True)
    reasons = _broken_rules(table, batch)
    again = pd.Series(False, index=batch.index)
    keys = list(table.key)
    if stored is not None:
        again = _in(batch, stored, list(batch.columns))
        _add(reasons, _in(batch, stored, keys) & ~again, f"its key ({', '.join(keys)}) is stored with other values")
    again |= batch.duplicated()
    _add(reasons, batch.duplicated(keys) & ~again, f"its key ({', '.join(keys)}) occurs earlier in the batch")
    bad = pd.Series({i: "; ".join(r) for i, r in reasons.items()}, dtype=object)
    refused = batch.index.isin(bad.index) & ~again
    good = batch[~refused & ~again]
    return good.reset_index(drop=True), batch[refused].assign(**{REASON: bad}).reset_index(drop=True), int(again.sum())


def _broken_rules(table: Table, batch: pd.DataFrame) -> dict[int, list[str]]:
    """Per row that breaks a rule of the schema, which."""
    import pandera.errors

    reasons: dict[int, list[str]] = {}
    try:
        table.schema.validate(batch, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
        structural = cases[cases["index"].isna()]
        if len(structural):
            raise UpstreamError(
                f"table {table.name!r}: {structural.iloc[0]['column']}: {structural.iloc[0]['check']}"
            ) from error
        # A rule over several columns is a case for each of them.
        whole_row = cases["schema_context"] == "DataFrameSchema"
        for case in cases[whole_row].drop_duplicates(["index", "check"]).itertuples():
            reasons.setdefault(int(case.index), []).append(str(case.check))
        for case in cases[~whole_row].drop_duplicates(["index", "column", "check"]).itertuples():
            rule = f"{case.column}: {case.check}, found {case.failure_case!r}"
            reasons.setdefault(int(case.index), []).append(rule)
    return reasons


def _in(batch: pd.DataFrame, stored: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Whether each row of `batch` is in `stored`, by `columns`; missing equals missing."""
    columns = [c for c in columns if c in stored]
    hashed = pd.util.hash_pandas_object(batch[columns], index=False)
    return hashed.isin(pd.util.hash_pandas_object(stored[columns].astype(batch[columns].dtypes), index=False))


def _add(reasons: dict[int, list[str]], rows: pd.Series, reason: str) -> None:
    for index in rows.index[rows]:
        reasons.setdefault(int(index), []).append(reason)


def _check_derived(tables: Mapping[str, pd.DataFrame]) -> None:
    if "examples" not in tables:
        raise DataError(f"derive() must give a table `examples`, found {sorted(tables)}")
    for name, frame in tables.items():
        needed = ["event_timestamp", "known_at"] if name == "examples" else ["event_timestamp", "created_timestamp"]
        for column in needed:
            if column not in frame.columns:
                raise DataError(f"derive(): table {name!r} lacks {column!r}, found {list(frame.columns)}")
            if not isinstance(frame[column].dtype, pd.DatetimeTZDtype):
                raise DataError(
                    f"derive(): {name}.{column} must be timezone-aware instants, found {frame[column].dtype}",
                    hint="pandas: frame[column].dt.tz_localize('UTC')",
                )


def _code(source: Source) -> str:
    """SHA-256 of the package folder that defines the source, so that a changed `derive` derives again."""
    module = sys.modules[type(source).__module__]
    folder = Path(inspect.getfile(module)).parent
    hashed = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        hashed.update(path.name.encode() + path.read_bytes())
    return hashed.hexdigest()
