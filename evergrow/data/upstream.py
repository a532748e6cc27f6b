"""What no rule about a single row can see: a source that changed its shape, its unit, its pace or its clock."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import datetime, timedelta

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from evergrow.data.schema import Table
from evergrow.errors import UpstreamError

# A batch's median is compared only when both sides have this many values: fewer say little.
ENOUGH = 200
DEFAULT_SHIFT = 8.0
# Below this, a median is about zero and a ratio means nothing.
NEARLY_ZERO = 1e-9
# A level of which so many rows are expected does not stay away by chance.
EXPECTED = 100
# Less than a day is too short to be compared with the usual number of rows per day.
DAY = timedelta(days=1)


def check(
    table: Table, batch: pd.DataFrame, stored: pd.DataFrame | None, after: datetime | None, until: datetime
) -> None:
    """Refuse a batch whose source changed; of nothing that is refused anything is kept.

    Args:
        table: what was declared.
        batch: rows the source gave for (`after`, `until`].
        stored: rows kept so far, or None.
        after: the watermark, or None.
        until: the end of what was asked for.

    Raises:
        UpstreamError: names table, column, rule and both values; lists every fault.
    """
    faults = list(_columns(table, batch)) or list(_types(table, batch))
    if not faults:
        faults = [*_clock(table, batch, after, until), *_gaps(table, batch, after, until)]
        if stored is not None and after is not None:
            faults += [*_fewer(table, batch, stored, until - after), *_vanished(table, batch, stored)]
            faults += _units(table, batch, stored)
    if faults:
        raise UpstreamError(
            "; ".join(f"table {table.name!r}: {fault}" for fault in faults),
            hint="nothing was stored. Mend the source, or change the table's declaration if the change is meant",
            data=filter(None, (_example(batch[column]) for column in batch)),
        )


def unseen(table: Table, batch: pd.DataFrame, stored: pd.DataFrame | None) -> list[str]:
    """New levels of categorical columns, in words: no fault, but worth telling."""
    if stored is None:
        return []
    told = []
    for column in table.categories:
        new = sorted(set(batch[column].dropna()) - set(stored[column].dropna()))
        if new:
            told.append(f"{table.name}.{column}: {len(new)} level(s) not seen before: {', '.join(map(str, new[:5]))}")
    return told


def _columns(table: Table, batch: pd.DataFrame) -> Iterator[str]:
    expected, found = list(table.schema.columns), list(batch.columns)
    extra = [c for c in found if c not in expected]
    for column in (c for c in expected if c not in found and table.schema.columns[c].required):
        near = difflib.get_close_matches(column, extra, n=1, cutoff=0.5)
        yield f"column {column!r} is missing" + (f"; was it renamed to {near[0]!r}?" if near else f", found {found}")
    if table.schema.strict:
        yield from (f"column {c!r} is not declared; declared are {expected}" for c in extra)


def _types(table: Table, batch: pd.DataFrame) -> Iterator[str]:
    for name, column in table.schema.columns.items():
        if name not in batch.columns or column.dtype is None:
            continue
        found = batch[name]
        if not (column.dtype.check(_pandera_dtype(found)) or (found.isna().all() and column.nullable)):
            yield f"column {name!r} must be {column.dtype}, found {found.dtype}" + _example(found)


def _pandera_dtype(values: pd.Series) -> object:
    from pandera.engines.pandas_engine import Engine

    return Engine.dtype(values.dtype)


def _example(values: pd.Series) -> str:
    known = values.dropna()
    return f" (for example {known.iloc[0]!r})" if len(known) else ""


def _clock(table: Table, batch: pd.DataFrame, after: datetime | None, until: datetime) -> Iterator[str]:
    known = batch[table.known_at]
    if known.isna().any():
        yield f"column {table.known_at!r} is missing in {int(known.isna().sum()):,} rows: when did they become known?"
    if after is not None and (known <= pd.Timestamp(after)).any():
        yield (
            f"the clock went backwards: {int((known <= pd.Timestamp(after)).sum()):,} rows became known from "
            f"{known.min()} on, not after the watermark {after.isoformat()}"
        )
    if (known > pd.Timestamp(until)).any():
        yield f"rows from the future: known up to {known.max()}, asked for until {until.isoformat()}"
    if table.happened_at is not None and (early := known < batch[table.happened_at]).any():
        yield (
            f"{int(early.sum()):,} rows were known before they happened: the first at {known[early].iloc[0]}, "
            f"{table.happened_at} {batch.loc[early, table.happened_at].iloc[0]}"
        )


def _gaps(table: Table, batch: pd.DataFrame, after: datetime | None, until: datetime) -> Iterator[str]:
    if table.pace is None:
        return
    marks = pd.Series([pd.Timestamp(until)])
    known = batch[table.known_at].dropna().sort_values()
    start = [pd.Timestamp(after)] if after is not None else []
    instants = pd.concat([pd.Series(start, dtype=known.dtype), known, marks.astype(known.dtype)], ignore_index=True)
    gap = instants.diff()
    if gap.max() > table.pace:
        end = instants[gap.idxmax()]
        yield f"rows are lost: none between {end - gap.max()} and {end}, at least one per {table.pace} is declared"


def _fewer(table: Table, batch: pd.DataFrame, stored: pd.DataFrame, span: timedelta) -> Iterator[str]:
    known = stored[table.known_at]
    before = known.max() - known.min()
    if not table.least or min(span, before) < DAY:
        return
    usual, now = len(stored) * (DAY / before), len(batch) * (DAY / span)
    if now < table.least * usual:
        yield (
            f"rows are lost: {now:,.1f} per day in {span}, {usual:,.1f} per day are usual and at least "
            f"{table.least:.0%} of that are declared"
        )


def _vanished(table: Table, batch: pd.DataFrame, stored: pd.DataFrame) -> Iterator[str]:
    for column in table.categories:
        expected = stored[column].value_counts(normalize=True) * len(batch)
        for level in expected.index[(expected >= EXPECTED) & ~expected.index.isin(batch[column])]:
            yield (
                f"rows are lost: none of the {len(batch):,} rows has {column} {level!r}, "
                f"about {expected[level]:,.0f} are usual"
            )


def _units(table: Table, batch: pd.DataFrame, stored: pd.DataFrame) -> Iterator[str]:
    for column in (c for c in table.schema.columns if c in batch and c in stored):
        factor = table.shift.get(column, DEFAULT_SHIFT)
        if not factor or not is_numeric_dtype(batch[column]) or is_bool_dtype(batch[column]):
            continue
        now, before = batch[column].dropna().abs(), stored[column].dropna().abs()
        if min(len(now), len(before)) < ENOUGH:
            continue
        low, high = sorted((float(now.median()), float(before.median())))
        if low > NEARLY_ZERO and high > factor * low:
            yield (
                f"column {column!r} changed its unit? its median is {now.median():g}, was {before.median():g}, "
                f"more than {factor:g} times apart"
            )
