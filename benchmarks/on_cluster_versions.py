"""Versions to roll out on a cluster: version 1 of a model once more, registered and published under another number."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.serving import SERVING


def another(variables: Mapping[str, str], store: ObjectStore, model: str, **log: Any) -> int:
    """Register and publish version 1 once more; its number.

    Args:
        variables: that lead to MLflow and the object store.
        store: the environment's.
        model: its name.
        log: settings of the prediction log that are other than version 1's.
    """
    version = _register(variables, model)
    with TemporaryDirectory() as name:
        _publish(store, Path(name) / "version", model, version, log)
    return version


def _register(variables: Mapping[str, str], model: str) -> int:
    """As the register step does."""
    from mlflow import MlflowClient

    os.environ.update({name: value for name, value in variables.items() if name.startswith(("AWS_", "MLFLOW_"))})
    client = MlflowClient(variables["MLFLOW_TRACKING_URI"])
    first = client.get_model_version(model, "1")
    logged = first.source.removeprefix("models:/")
    return int(client.create_model_version(model, first.source, first.run_id, tags=first.tags, model_id=logged).version)


def _publish(store: ObjectStore, directory: Path, model: str, version: int, log: Mapping[str, Any]) -> None:
    """As the deploy step does."""
    store.download(f"serving/{model}/versions/1", directory)
    about = json.loads((directory / SERVING).read_text())
    about["serving"]["log"] |= log
    (directory / SERVING).write_text(json.dumps({**about, "version": version}))
    store.upload(directory, f"serving/{model}/versions/{version}", last=SERVING)
