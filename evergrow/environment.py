"""Which place we run in: read from the environment once, at the edges."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Environment(BaseModel):
    """The places of one environment. `EVERGROW_HOME` moves everything at once."""

    model_config = ConfigDict(frozen=True)

    name: str = "local"
    """Which `feature_repo/feature_store.<name>.yaml` is used: local or cluster."""
    home: Path
    """Where state lives: data, features, registry, runs, reports."""
    feature_repo: Path
    """Where the Feast declarations are."""
    tracking_uri: str
    """MLflow's tracking and registry URI."""
    store: str | None = None
    """The object store's folder that state is mirrored with, on a cluster; None if `home` is all there is."""
    document: str | None = None
    """The EnvironmentSpec of the cluster's environment that we run in, as JSON; None on one machine."""

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> Environment:
        """From EVERGROW_ENV, _HOME, _FEATURE_REPO, _STORE, _ENVIRONMENT, and MLFLOW_TRACKING_URI, each with a default.

        >>> Environment.read({"EVERGROW_HOME": "/x"}).data("bikes").as_posix()
        '/x/data/bikes'
        """
        variables = os.environ if variables is None else variables
        home = Path(variables.get("EVERGROW_HOME", ".evergrow")).absolute()
        return cls(
            name=variables.get("EVERGROW_ENV", "local"),
            home=home,
            feature_repo=Path(variables.get("EVERGROW_FEATURE_REPO", "feature_repo")).absolute(),
            tracking_uri=variables.get("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow/mlflow.db"),
            store=variables.get("EVERGROW_STORE"),
            document=variables.get("EVERGROW_ENVIRONMENT"),
        )

    def data(self, model: str) -> Path:
        """The lake of one model."""
        return self.home / "data" / model

    def backtests(self, model: str) -> Path:
        """Backtests of one model: pasts, work that was done, and results."""
        return self.home / "backtests" / model

    def loop(self, model: str) -> Path:
        """The loop of one model: its book, and who runs it."""
        return self.home / "loops" / model

    def serving(self, model: str) -> Path:
        """What is served of one model: bundle, feature plan and pointer."""
        return self.home / "serving" / model

    def predictions(self, model: str) -> Path:
        """Batch predictions of one model."""
        return self.home / "predictions" / model

    def recorded(self, model: str) -> Path:
        """What a server on this machine recorded of its answers and was not shipped yet."""
        return self.home / "recorded" / model

    @property
    def feature_store_yaml(self) -> Path:
        """Feast's configuration for this place."""
        return self.feature_repo / f"feature_store.{self.name}.yaml"

    @property
    def audit(self) -> Path:
        """The append-only record of promotions, JSON lines."""
        return self.home / "audit" / "audit.jsonl"
