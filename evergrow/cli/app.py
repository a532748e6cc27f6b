"""Commands, and how what they raise becomes an exit code. What takes long to import is imported by who needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from evergrow.cli import backtest, cluster, loop, models, pipelines, predictions, rollouts, serving, specs, watch
from evergrow.errors import EvergrowError, as_text

HELP = """Keeps machine-learning models alive in production: trains, gates, serves and scores from one document.

State is kept below EVERGROW_HOME (default .evergrow).

Exit codes: 0 done; 1 unexpected; 2 a document, argument or request is wrong; 3 data; 4 feature store; 5 registry;
6 a pipeline step; 7 serving; 8 the object store; 9 the cluster; 10 the gate did not pass (only with --require-pass);
11 a rollout; 12 a loop.
"""

app = typer.Typer(
    name="evergrow",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models.app, name="models")
app.add_typer(specs.app, name="spec")
pipelines.add_to(app)
app.add_typer(loop.app, name="loop")
backtest.add_to(app)
serving.add_to(app)
rollouts.add_to(app)
predictions.add_to(app)
watch.add_to(app)
cluster.add_to(app)

_debug = False


@app.callback(help=HELP)
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False) -> None:
    """Options of every command."""
    global _debug
    _debug = debug


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an error is a message and a hint on standard error, and an exit code."""
    try:
        app(args=arguments)
    except EvergrowError as error:
        if _debug:
            raise
        print(as_text(str(error), error.hint), file=sys.stderr)
        sys.exit(error.exit_code)
