"""`evergrow models`: what is registered, what serves, and who put it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from evergrow.cli.output import Output, OutputOption, show, show_table
from evergrow.environment import Environment
from evergrow.errors import RegistryError

if TYPE_CHECKING:
    from evergrow.contracts import ModelVersion

app = typer.Typer(no_args_is_help=True, help="What is registered, what serves, and who put it there.")


@app.command("list")
def list_versions(
    model: Annotated[str | None, typer.Argument(help="Of which model; of all if not given.")] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List versions, newest first.

    Examples:
      evergrow models list

      evergrow models list arrival-delay -o json
    """
    from evergrow.integrations.mlflow import MlflowRegistry

    versions = MlflowRegistry(Environment.read()).versions(model)
    if output is Output.JSON:
        show([v.model_dump(mode="json") for v in versions], output, "")
        return
    show_table([_row(v) for v in versions], output, "no versions yet; `evergrow run training` registers one")


def _row(version: ModelVersion) -> dict[str, Any]:
    return {
        "model": version.model,
        "version": version.version,
        "aliases": ", ".join(version.aliases),
        "verdict": version.tags.get("verdict", ""),
        "judged against": version.tags.get("judged_against", ""),
        "created": f"{version.created:%Y-%m-%d %H:%M}",
        "identity": version.identity[:12],
    }


@app.command("show")
def show_version(
    model: Annotated[str, typer.Argument(help="Name of the model.", show_default=False)],
    version: Annotated[str, typer.Argument(help="A number or an alias.")] = "champion",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show one version: where it came from, how it was judged.

    Examples:
      evergrow models show arrival-delay

      evergrow models show arrival-delay 3 -o json
    """
    import tempfile
    from pathlib import Path

    from evergrow.contracts import EvaluationReport
    from evergrow.integrations.mlflow import MlflowRegistry

    registry = MlflowRegistry(Environment.read())
    found = registry.resolve(model, version)
    if found is None:
        raise RegistryError(f"{model} has no version {version!r}", hint="`evergrow models list` shows all")
    with tempfile.TemporaryDirectory() as folder:
        file = registry.evaluation(found, Path(folder)) / "report.json"
        report = EvaluationReport.model_validate_json(file.read_bytes())
    value = {"version": found.model_dump(mode="json"), "evaluation": report.model_dump(mode="json")}
    show(value, output, _described(found, report))


def _described(version: ModelVersion, report: Any) -> str:
    first, last = report.holdout
    lines = [
        f"{version.model} version {version.version} {' '.join(f'[{a}]' for a in version.aliases)}".rstrip(),
        f"identity      {version.identity}",
        f"model digest  {version.model_digest}",
        f"MLflow run    {version.run_id}",
        f"judged        on {report.rows:,} rows from {first:%Y-%m-%d} to {last:%Y-%m-%d} against {report.champion}",
        *(f"{m.name:<13} {m.value:.4f} [{m.low:.4f}, {m.high:.4f}]" for m in report.metrics),
        f"verdict       {report.verdict.outcome}: {report.verdict.reason}",
    ]
    return "\n".join(lines)


@app.command()
def audit(output: OutputOption = Output.TEXT) -> None:
    """Show every promotion, oldest first, after checking that the record was not tampered with.

    Examples:
      evergrow models audit -o json
    """
    from evergrow.audit import AuditLog
    from evergrow.integrations.object_store import fetch

    environment = Environment.read()
    fetch(environment, environment.audit.parent.name)
    records = AuditLog(environment.audit).records()
    if output is Output.JSON:
        show([r.model_dump(mode="json") for r in records], output, "")
        return
    rows = [
        {
            "at": f"{r.at:%Y-%m-%d %H:%M}",
            "who": r.actor,
            "model": r.model,
            "from": r.replaced or "–",
            "to": r.version,
            "reason": r.reason,
        }
        for r in records
    ]
    show_table(rows, output, "no promotions yet")
