"""A version is served by what it was made with, or not at all."""

import json
import shutil

import numpy as np
import pytest

from components.server.serving_directory import ServingDirectory
from evergrow.errors import ServingError
from tests.unit.server.test_server import sqlite_directory  # noqa: F401 - a fixture


@pytest.fixture
def made_with(sqlite_directory, tmp_path):  # noqa: F811
    """The directory of a version that says to have been made with these versions."""

    def directory(**versions: str):
        copy = shutil.copytree(sqlite_directory, tmp_path / "copy")
        path = copy / "bundle/bundle.json"
        about = json.loads(path.read_text())
        about["requirements"] = [f"{name}=={version}" for name, version in versions.items()]
        path.write_text(json.dumps(about))
        return copy

    return directory


def test_a_version_made_with_what_is_installed_is_served(made_with):
    assert ServingDirectory.load(made_with(numpy=np.__version__)).model


def test_a_version_made_with_another_numpy_is_not_served_and_both_versions_are_named(made_with):
    with pytest.raises(ServingError, match=r"numpy 1\.0\.0 is required, \d+\.\d+\.\d+ is installed"):
        ServingDirectory.load(made_with(numpy="1.0.0"))
