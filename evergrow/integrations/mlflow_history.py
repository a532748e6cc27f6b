"""What monitoring saw, as runs of an MLflow experiment beside that of the model: numbers to compare over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from evergrow.contracts import Decision
from evergrow.environment import Environment
from evergrow.integrations.mlflow import client, experiment, translated

AS_OF, ACTION = "evergrow.as_of", "evergrow.action"


@translated
def remember(
    environment: Environment,
    model: str,
    as_of: datetime,
    numbers: Mapping[str, float],
    decision: Decision,
    files: Sequence[Path],
) -> str:
    """Keep one look as a finished run of the experiment `<model>-monitoring`; returns its id.

    Looking again as of the same instant writes into the same run.
    """
    from mlflow.entities import Metric, RunTag

    mlflow = client(environment)
    place = experiment(mlflow, environment, f"{model}-monitoring")
    now, then = int(datetime.now(UTC).timestamp() * 1000), as_of.isoformat()
    found = mlflow.search_runs([place], f"tags.`{AS_OF}` = '{then}'", max_results=1)
    run = found[0] if found else mlflow.create_run(place, run_name=f"as-of-{as_of:%Y-%m-%dT%H%M}")
    tags = {AS_OF: then, ACTION: decision.action, "mlflow.note.content": "\n\n".join(decision.reasons)}
    mlflow.log_batch(
        run.info.run_id,
        metrics=[Metric(name, value, now, 0) for name, value in numbers.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    for path in files:
        mlflow.log_artifact(run.info.run_id, str(path))
    mlflow.set_terminated(run.info.run_id)
    return str(run.info.run_id)
