"""Point-in-time joins as DuckDB's SQL. Pure: it names tables and columns, and opens nothing."""

# ruff: noqa: S608 - column names are quoted by `quoted`, texts by `literal`; there is no other input.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class Source:
    """Where feature rows are read from, and what its columns are called there.

    Attributes:
        scan: SQL table expression over the rows.
        order: columns that tell how late a row stands in the source; the last of equal rows wins.
        keys: join key columns.
        event: event timestamp column.
        created: created timestamp column, or none.
    """

    scan: str
    order: tuple[str, ...]
    keys: tuple[str, ...]
    event: str
    created: str | None

    @property
    def created_or_event(self) -> str:
        """SQL: when the row came to be; null counts as its event timestamp."""
        event = micros(self.event)
        return f"coalesce({micros(self.created)}, {event})" if self.created else event


@dataclass(frozen=True)
class View:
    """One feature view as a join sees it.

    Attributes:
        source: its rows.
        entity_keys: the entity frame's column for each of `source.keys`.
        features: output column for each source column.
        ttl: how long a value counts; None is for ever.
    """

    source: Source
    entity_keys: tuple[str, ...]
    features: Mapping[str, str]
    ttl: timedelta | None


def quoted(column: str) -> str:
    """A column name in SQL."""
    return '"' + column.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"


def micros(column: str) -> str:
    """SQL: a timestamp column as microseconds since 1970 UTC; a naive one is UTC."""
    return f"epoch_us({quoted(column)}::TIMESTAMPTZ)"


def listed(columns: Iterable[str]) -> str:
    """Expressions before others in a SELECT."""
    return "".join(f"{column}, " for column in columns)


def best_known(rows: str, order: Sequence[str]) -> str:
    """SQL of the rows that were the best known of their key at some instant, and since when.

    Row r is known from `_known = max(event, created)` on, and the known rows only grow in number. So r was ever
    the best exactly when no row known by then has a later event, and no better one became known at the same
    instant. In order of (known, event, created, place in the source), that is: its event equals the running
    maximum, and the next row became known later. The result has at most one row per key and `_known`, ascending
    in (event, created) by `_known`; hence one ASOF join on `_known` finds the best row known at any instant.

    Args:
        rows: SQL of rows with `_code` (their key), `_event`, `_created` and `_known`.
        order: columns that tell the place in the source.
    """
    return (
        f"SELECT * FROM ({rows}) "
        f"WINDOW later AS (PARTITION BY _code ORDER BY {', '.join(['_known', '_event', '_created', *order])}) "
        "QUALIFY _event = max(_event) OVER later AND _known IS DISTINCT FROM lead(_known) OVER later"
    )


def exceptions_sql(source: Source) -> tuple[str, str]:
    """SQL of rows, if any, that make `best_known` necessary: created after their event, or equal in key and event.

    Without them each row is the best known of its key from its event on.
    """
    late = f"SELECT 1 FROM {source.scan} WHERE {source.created_or_event} > {micros(source.event)} LIMIT 1"
    by = ", ".join([*map(quoted, source.keys), quoted(source.event)])
    return late, f"SELECT 1 FROM {source.scan} GROUP BY {by} HAVING count(*) > 1 LIMIT 1"


def features_sql(view: View, plain: bool = False) -> str:
    """SQL of a view's features for each row of `entities`, in the order of its `_row`.

    `plain` tells that the source has no row that `exceptions_sql` looks for.
    """
    rows = rows_sql(view)
    best = rows if plain else best_known(rows, view.source.order)
    return (
        f"WITH codes AS MATERIALIZED ({codes_sql(view)}), asked AS ({asked_sql(view)}) "
        f"{join_sql(view, 'asked', f'({best})')} ORDER BY e._row"
    )


def codes_sql(view: View) -> str:
    """SQL of the keys that `entities` asks for, as `_key0`, ..., each with a number, `_code`.

    Whatever the keys' types and however many columns: sorting and joining by a number is quicker, and rows of other
    keys go early.
    """
    named = [f"{quoted(mine)} AS _key{i}" for i, mine in enumerate(view.entity_keys)]
    distinct = f"SELECT DISTINCT {', '.join(named)} FROM entities" if named else "SELECT 1"
    return f"SELECT *, row_number() OVER () AS _code FROM ({distinct})"


def asked_sql(view: View) -> str:
    """SQL of `_row`, `_asked` and `_code` (from `codes`) of every row of `entities`."""
    same = [f"e.{quoted(mine)} = c._key{i}" for i, mine in enumerate(view.entity_keys)]
    return f"SELECT e._row, e._asked, c._code FROM entities e LEFT JOIN codes c ON {_all(same)}"


def rows_sql(view: View) -> str:
    """SQL of a view's rows of the keys in `codes`: `_code`, features, place, `_event`, `_created` and `_known`."""
    source = view.source
    same = [f"s.{quoted(column)} = c._key{i}" for i, column in enumerate(source.keys)]
    return (
        f"SELECT c._code, {listed(quoted(column) for column in view.features)}{listed(source.order)}"
        f"{micros(source.event)} AS _event, {source.created_or_event} AS _created, "
        f"greatest(_event, _created) AS _known FROM {source.scan} s JOIN codes c ON {_all(same)} "
        f"WHERE {quoted(source.event)} IS NOT NULL"
    )


def join_sql(view: View, asked: str, best: str, extra: str = "") -> str:
    """SQL of `extra` and a view's features for each row of `asked`, from the table expression `best`."""
    expired = "FALSE" if view.ttl is None else f"e._asked > v._event + {in_micros(view.ttl)}"
    features = ", ".join(
        f"CASE WHEN {expired} THEN NULL ELSE v.{quoted(column)} END AS {quoted(output)}"
        for column, output in view.features.items()
    )
    return (
        f"SELECT {extra}{features} FROM {asked} e ASOF LEFT JOIN {best} v ON e._code = v._code AND e._asked >= v._known"
    )


def _all(conditions: Sequence[str]) -> str:
    return " AND ".join(conditions) or "TRUE"


def latest_sql(source: Source, columns: Sequence[str], since: datetime | None, until: datetime) -> str:
    """SQL of each key's best row known at `until`, with its event in [`since`, `until`]."""
    lower = "" if since is None else f"_event >= {instant_micros(since)} AND "
    keys = ", ".join(f"_key{i}" for i in range(len(source.keys))) or "NULL"
    order = ", ".join(f"{c} DESC" for c in ["_event", "_created", *source.order])
    rows = (
        f"SELECT *, {listed(f'{quoted(k)} AS _key{i}' for i, k in enumerate(source.keys))}"
        f"{micros(source.event)} AS _event, {source.created_or_event} AS _created FROM {source.scan} "
        f"WHERE {quoted(source.event)} IS NOT NULL"
    )
    return (
        f"SELECT {', '.join(map(quoted, columns))} FROM ({rows}) "
        f"WHERE {lower}greatest(_event, _created) <= {instant_micros(until)} "
        f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) = 1"
    )


def in_micros(span: timedelta) -> int:
    """Whole microseconds of a span."""
    return span // timedelta(microseconds=1)


def instant_micros(moment: datetime) -> int:
    """Microseconds since 1970 UTC; a naive moment is UTC."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return in_micros(aware - datetime(1970, 1, 1, tzinfo=UTC))
