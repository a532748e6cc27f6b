"""Both registries, for the laws that hold for each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from evergrow.environment import Environment
from evergrow.integrations.memory import FixedClock, MemoryRegistry
from evergrow.integrations.mlflow import MlflowRegistry
from tests.unit.integrations.builders import AS_OF


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database after its migrations, which take seconds: made once and copied."""
    home = tmp_path_factory.mktemp("mlflow")
    registry = MlflowRegistry(Environment.read({"EVERGROW_HOME": str(home)}))
    registry._client.search_registered_models()
    return home / "mlflow" / "mlflow.db"


@pytest.fixture
def mlflow_registry(empty_mlflow: Path, tmp_path: Path) -> MlflowRegistry:
    environment = Environment.read({"EVERGROW_HOME": str(tmp_path / "home")})
    (tmp_path / "home" / "mlflow").mkdir(parents=True)
    shutil.copy(empty_mlflow, tmp_path / "home" / "mlflow" / "mlflow.db")
    return MlflowRegistry(environment, actor="ada")


@pytest.fixture
def memory_registry(tmp_path: Path) -> MemoryRegistry:
    return MemoryRegistry(tmp_path / "memory", FixedClock(AS_OF), actor="ada")


@pytest.fixture(params=["mlflow_registry", "memory_registry"])
def registry(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)
