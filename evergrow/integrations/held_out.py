"""What the registry keeps of the versions that answer: above all, what each was held to be good on."""

from __future__ import annotations

from pathlib import Path

from evergrow.contracts import ModelVersion
from evergrow.errors import RegistryError
from evergrow.evaluation.evaluate import BASELINE
from evergrow.monitoring.baseline import Baseline
from evergrow.ports import ModelRegistry


def answering(registry: ModelRegistry, model: str, version: int) -> ModelVersion:
    """The version of a number that answers, or has answered.

    Raises:
        RegistryError: the registry does not have it.
    """
    found = registry.resolve(model, str(version))
    if found is None:
        raise RegistryError(
            f"{model}: predictions were logged by version {version}, which the registry does not have",
            hint="was it deleted, or is MLFLOW_TRACKING_URI another environment's?",
        )
    return found


def held_out(registry: ModelRegistry, model: str, version: int, scratch: Path) -> Baseline:
    """The held-out rows of a version.

    Args:
        registry: where versions are.
        model: its name.
        version: its number.
        scratch: a directory for what is fetched.

    Raises:
        RegistryError: the registry does not have it.
        DataError: it was judged by an evergrow that kept no baseline.
    """
    found = answering(registry, model, version)
    return Baseline.load(registry.evaluation(found, scratch / f"evaluation-{version}") / BASELINE)
