"""What a server is given: `bundle/`, `features.json` (the feature plan) and `serving.json`, checked before use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from evergrow.contracts import TrainedModel
from evergrow.errors import ServingError
from evergrow.learning import requirements
from evergrow.learning.bundle import INFO, Bundle
from evergrow.spec.model import PredictionLogSpec

# What a caller must send for a model input that the feature service does not provide.
_TYPES = {"numeric": "DOUBLE", "categorical": "STRING"}


@dataclass(frozen=True)
class ServingDirectory:
    """A version ready to be served.

    Attributes:
        model: name of the model.
        version: its version, as the registry counts.
        fields: type per field of a request row: entity keys, request-time values, and inputs of the model that the
            feature service does not provide.
        log: how answered predictions are recorded.
    """

    model: str
    version: str
    on_missing: Literal["flag", "reject"]
    max_batch: int
    bundle: Bundle
    plan: Mapping[str, Any]
    fields: Mapping[str, str]
    log: PredictionLogSpec

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the directory and put the golden rows to the model.

        Raises:
            ServingError: a file is missing or broken, or a golden row is answered wrongly.
        """
        # `current` is a link that is replaced by the next deployment: all files must be of one version.
        path = path.resolve()
        about, plan = _read(path / "serving.json"), _read(path / "features.json")
        check_installed(path / "bundle")
        bundle = Bundle.load(path / "bundle")
        check_golden(bundle)
        try:
            return cls(
                model=about["model"],
                version=str(about["version"]),
                on_missing=about["serving"]["onMissing"],
                max_batch=about["serving"]["maxBatch"],
                bundle=bundle,
                plan=plan,
                fields=request_fields(plan, bundle),
                log=PredictionLogSpec.model_validate(about["serving"].get("log", {})),
            )
        except KeyError as error:
            raise ServingError(f"{path}: serving.json or features.json lacks {error}") from error


def request_fields(plan: Mapping[str, Any], bundle: Bundle) -> dict[str, str]:
    """Type per field that a request row must have."""
    fields = {**plan["keys"], **plan["request"]}
    provided = {*fields, *plan["features"]}
    for feature in bundle.info.features:
        if feature.name not in provided:
            fields[feature.name] = _TYPES[feature.kind]
    return fields


def check_installed(bundle: Path) -> None:
    """Compare what the model was made with and what is installed, before a library of another version loads it.

    Raises:
        ServingError: names each that differs, with both versions.
    """
    requirements.check(TrainedModel.model_validate(_read(bundle / INFO)))


def check_golden(bundle: Bundle) -> None:
    """Put the golden rows to the model.

    Raises:
        ServingError: names the first row answered wrongly, what was expected and what came.
    """
    golden = bundle.golden
    scores = bundle.predict(bundle.vector(golden.features))
    for index, (expected, score) in enumerate(zip(golden.scores, scores.tolist(), strict=True)):
        if not abs(score - expected) <= golden.tolerance:
            raise ServingError(
                f"{bundle.path}: golden row {index} must score {expected!r} within {golden.tolerance:g}, got {score!r}",
                hint="install the versions that the bundle's `requirements` name, or deploy the version again",
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ServingError(f"{path}: cannot be read: {error}", hint="deploy the version again") from error
    if not isinstance(read, dict):
        raise ServingError(f"{path}: must hold an object, found {type(read).__name__}")
    return read
