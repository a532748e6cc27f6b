"""Small Feast repositories to try things on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from feast import FeatureStore, RepoConfig

ASOF = {"type": "evergrow.integrations.feast_offline.AsofOfflineStore", "memory_limit": "500MB", "threads": 1}


@pytest.fixture(scope="session")
def feature_store() -> Callable[..., FeatureStore]:
    """Makes a feature store in a folder, with the definitions applied to it."""

    def make(folder: Path, definitions: list[object], offline: dict[str, object] = ASOF) -> FeatureStore:
        config = RepoConfig(
            project="test",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store=offline,
            entity_key_serialization_version=3,
        )
        config.repo_path = folder
        store = FeatureStore(config=config)
        store.apply(definitions)
        return store

    return make


def rows(path: Path, **columns: object) -> Path:
    """Write a parquet file; timestamps may be text."""
    frame = pd.DataFrame(columns)
    for name in ("event_timestamp", "created_timestamp"):
        if name in frame:
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
    frame.to_parquet(path, index=False)
    return path


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., Path]:
    """Writes rows, given as columns, to a parquet file."""
    return rows
