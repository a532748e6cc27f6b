"""`evergrow spec`: documents checked, and their schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evergrow.cli.output import Output, OutputOption, show

app = typer.Typer(no_args_is_help=True, help="Check documents, or print their schema.")


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Documents.", show_default=False)],
    output: OutputOption = Output.TEXT,
) -> None:
    """Check documents: every fault with its path, rule and value; and that what they name exists.

    Examples:
      evergrow spec check models/*/model.yaml
    """
    from evergrow.errors import SpecError
    from evergrow.importing import load_object
    from evergrow.spec import load

    faults = []
    for file in files:
        try:
            spec = load(file).spec
            load_object(spec.source.entrypoint, f"{file}: spec.source.entrypoint")
            load_object(spec.training.estimator.entrypoint, f"{file}: spec.training.estimator.entrypoint")
        except SpecError as error:
            faults.append({"file": str(file), "error": str(error), "hint": error.hint})
    if faults and output is Output.TEXT:
        raise SpecError(
            "\n".join(f["error"] for f in faults), hint="\n".join(filter(None, (f["hint"] for f in faults)))
        )
    show(faults, output, f"{len(files)} good")
    if faults:
        raise typer.Exit(SpecError.exit_code)


@app.command()
def schema() -> None:
    """Print the JSON schema of a ContinualModel; editors check and complete documents by it.

    Examples:
      evergrow spec schema > continualmodel.schema.json
    """
    from evergrow.spec.schema import json_schema

    show(json_schema(), Output.JSON, "")
