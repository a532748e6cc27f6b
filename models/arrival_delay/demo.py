"""The main job, on real flights of 2013: python -m models.arrival_delay.demo (or `make demo`).

Trains as of July and again as of October, each against the champion of its day; brings features online, serves the
champion, asks it about flights that are about to leave, scores the next day in a batch, and tells how both turned out.
Run again, it does only what is not done yet.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from evergrow.cli.output import print_whole
from evergrow.cli.pipelines import Pipeline, run_pipeline
from evergrow.cli.serving import call, fields
from evergrow.contracts import EVENT_TIMESTAMP, instant
from evergrow.environment import Environment
from evergrow.errors import EvergrowError, ServingError
from evergrow.spec import ContinualModel, load

DOCUMENT = Path(__file__).with_name("model.yaml")
FIRST, SECOND = "2013-07-01T00:00:00+00:00", "2013-10-01T00:00:00+00:00"
# The server's present: a morning with flights about to leave.
MORNING = "2013-10-01T12:00:00+00:00"
LATER = "2013-10-03T12:00:00+00:00"
REQUESTS = 40
READY_SECONDS = 60.0

Figures = list[tuple[str, str]]


def main() -> int:
    """Run the demo; the exit code is that of what failed."""
    options = argparse.ArgumentParser(prog="python -m models.arrival_delay.demo", description=__doc__)
    options.add_argument("--keep-serving", action="store_true", help="leave the server running at the end")
    arguments = options.parse_args()
    began = time.monotonic()
    try:
        places = demo(load(DOCUMENT), Environment.read(), arguments.keep_serving)
    except EvergrowError as error:
        print(f"error: {error}\n{error.hint}".rstrip(), file=sys.stderr)
        return error.exit_code
    show([*places, ("took", f"{time.monotonic() - began:.0f} s")])
    return 0


def demo(model: ContinualModel, environment: Environment, keep_serving: bool) -> Figures:
    """The main job; returns what it reached and where things are."""
    trained = [run_pipeline(environment, Pipeline.TRAINING, model, as_of) for as_of in (FIRST, SECOND)]
    run_pipeline(environment, Pipeline.MATERIALIZATION, model, MORNING)
    with serving(environment, model, MORNING, keep_serving) as (url, process):
        answers = ask(environment, model, url)
    scored = run_pipeline(environment, Pipeline.BATCH_SCORING, model, MORNING)
    bring_outcomes(environment, model)
    return [
        *(line for summary in trained for line in told(summary)),
        ("asked online", answers),
        ("scored in a batch", turned_out(environment, model, Path(scored["predictions"]))),
        *where(environment, model, trained[-1], url, process.pid if keep_serving else None),
    ]


def told(summary: dict[str, Any]) -> Figures:
    """What one training run came to."""
    reached = ", ".join(
        f"{n} {m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" for n, m in summary["metrics"].items()
    )
    verdict = summary["verdict"]
    name = f"trained as of {summary['as_of'][:10]}"
    return [(name, f"version {summary['version']}: {reached}"), ("", f"{verdict['outcome']}: {verdict['reason']}")]


@contextlib.contextmanager
def serving(
    environment: Environment, model: ContinualModel, now: str, keep: bool
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The champion served on a free port of this machine while the block runs, or for longer if it is kept."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = environment.home / "serving" / model.name / "server.log"
    command = [sys.executable, "-m", "evergrow", "serve", model.name, "--port", str(port), "--as-of", now]
    variables = {**os.environ, "EVERGROW_HOME": str(environment.home)}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command, env=variables, stdout=output, stderr=output, start_new_session=keep
        )
    try:
        wait_until_ready(f"{url}/v2/models/{model.name}/ready", process, log)
        yield url, process
    finally:
        if not keep:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server has answered its golden request right.

    Raises:
        ServingError: it ended, or took too long.
    """
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(EvergrowError):
            call(url)
            return
        time.sleep(0.1)
    raise ServingError("the server did not become ready", hint=f"its log: {log}")


def ask(environment: Environment, model: ContinualModel, url: str) -> str:
    """Ask about the next flights, one request each, as a caller would; tells how that went."""
    from evergrow.data.lake import Lake

    examples = Lake(environment.data(model.name)).read("examples")
    asked = examples[EVENT_TIMESTAMP]
    upcoming = examples[(asked > instant(MORNING)) & (asked <= instant(MORNING) + timedelta(hours=6))]
    names = list(fields(url, model.name))
    rows = upcoming.sort_values(EVENT_TIMESTAMP).head(REQUESTS)[names].to_dict("records")
    scores, flagged, milliseconds = [], 0, []
    for row in rows:
        began = time.perf_counter()
        answer = call(f"{url}/v1/models/{model.name}:predict", {"instances": [_sendable(row)]})
        milliseconds.append((time.perf_counter() - began) * 1000)
        scores += answer["predictions"]
        flagged += sum(map(bool, answer["flags"]))
    middle = sorted(milliseconds)[len(milliseconds) // 2]
    return (
        f"{len(rows)} flights about to leave: scores {min(scores):.2f} to {max(scores):.2f}, "
        f"{flagged} flagged as made on missing or old features, median {middle:.1f} ms from the caller's side"
    )


def _sendable(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN, and knows no time."""
    known = {name: value for name, value in row.items() if value is not None and value == value}
    texts = {name: value.isoformat() for name, value in known.items() if hasattr(value, "isoformat")}
    return {**dict.fromkeys(row), **known, **texts}


def bring_outcomes(environment: Environment, model: ContinualModel) -> None:
    """Ingest what has become known since: how the flights ended."""
    from evergrow.data.ingest import ingest
    from evergrow.data.lake import Lake
    from models.arrival_delay.data import Flights

    ingest(Flights(), Lake(environment.data(model.name)), instant(LATER))


def turned_out(environment: Environment, model: ContinualModel, folder: Path) -> str:
    """How good the batch's predictions were, now that the flights have arrived."""
    from components.score.step import read_predictions
    from evergrow.data.lake import Lake
    from evergrow.evaluation.metrics import MEASURES

    predicted = read_predictions(folder)
    examples = Lake(environment.data(model.name)).read("examples")
    keys = [column for column in examples.columns if column in predicted.columns]
    landed = predicted.merge(examples, on=keys).dropna(subset=[model.spec.label.column])
    y, scores = landed[model.spec.label.column].to_numpy(float), landed["score"].to_numpy(float)
    reached = ", ".join(f"{name} {MEASURES[name].value(y, scores):.3f}" for name in model.spec.evaluation.metrics)
    return (
        f"{len(predicted):,} flights of the next day, {len(landed):,} landed since: {reached}; "
        f"late were {y.mean():.1%}, predicted {scores.mean():.1%}"
    )


def where(
    environment: Environment, model: ContinualModel, trained: dict[str, Any], url: str, process: int | None
) -> Figures:
    """What is where."""
    serve = f"evergrow serve {model.name} --as-of {MORNING}"
    return [
        ("report", trained["report"]),
        ("answers", f"evergrow predictions {model.name}"),
        ("experiments", f"mlflow ui --backend-store-uri {environment.tracking_uri}"),
        ("served at", f"{url}/v2/models/{model.name} (process {process})" if process else f"start it with: {serve}"),
        ("state", str(environment.home)),
    ]


def show(lines: Figures) -> None:
    """Print names and values in two columns."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, value)
    print_whole(table)


if __name__ == "__main__":
    sys.exit(main())
