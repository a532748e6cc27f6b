"""`evergrow predictions`: what was answered, with which values, as the prediction log has it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from evergrow.cli.output import Output, OutputOption, show, show_table
from evergrow.environment import Environment
from evergrow.errors import SpecError

DayOption = typer.Option(help="Day such as 2013-10-01, in UTC.", show_default=False)


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(predictions)


def predictions(
    model: Annotated[str, typer.Argument(help="Name of the model.", show_default=False)],
    since: Annotated[str | None, DayOption] = None,
    until: Annotated[str | None, DayOption] = None,
    limit: Annotated[int, typer.Option(help="Show at most so many, the newest.", min=1)] = 20,
    to: Annotated[
        Path | None, typer.Option(help="Write all of them to this file: .parquet or .csv.", show_default=False)
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what a model answered online: all days, unless told otherwise. JSON and files have every column.

    Examples:
      evergrow predictions arrival-delay

      evergrow predictions arrival-delay --since 2013-10-01 --until 2013-10-07 --limit 1 -o json

      evergrow predictions arrival-delay --since 2013-10-01 --to october.parquet
    """
    from evergrow.integrations.prediction_store import PredictionStore

    if to is not None and to.suffix not in (".parquet", ".csv"):
        raise SpecError(f"--to: must end in .parquet or .csv, found {to.name!r}")
    first, last = _day("--since", since) or date.min, _day("--until", until) or date.max
    found = PredictionStore.of(Environment.read()).read(model, first, last, newest=None if to else limit)
    if to is not None:
        _write(found, to)
        show({"rows": found.num_rows, "file": str(to)}, output, f"{found.num_rows:,} predictions written to {to}")
    elif output is Output.JSON:
        show(found.to_pylist(), output, "")
    else:
        show_table([_row(row) for row in found.to_pylist()], output, "")


def _day(option: str, text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        today = datetime.now(UTC).date()
        raise SpecError(
            f"{option}: must be a day, found {text!r}", hint=f'such as "{today - timedelta(days=7)}"'
        ) from error


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "instant": f"{row['event_timestamp']:%Y-%m-%d %H:%M:%S}",
        "version": row["version"],
        "score": f"{row['score']:.6g}",
        "flags": ", ".join(row["flags"]),
        "request": row["request_id"],
    }


def _write(found: Any, to: Path) -> None:
    """As one file, which appears whole."""
    import pyarrow.parquet as pq

    aside = to.with_name(f".{to.name}")
    if to.suffix == ".parquet":
        pq.write_table(found, aside)
    else:
        found.to_pandas().to_csv(aside, index=False)
    aside.replace(to)
