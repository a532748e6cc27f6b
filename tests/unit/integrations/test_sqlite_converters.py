"""Feast reads its online store as before, whoever looks whether this is a notebook."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FEAST = "import sqlite3, feast.infra.online_stores.sqlite; before = dict(sqlite3.converters); "


def converters_are_the_same(script):
    """Whether, in a process of its own: only a first import changes anything."""
    script = f"{FEAST}{script}; import IPython.core.history; print(sqlite3.converters == before)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "True"


@pytest.mark.skipif(not find_spec("IPython"), reason="IPython is not installed")
def test_after_mlflows_client_was_made_ipython_changes_nothing_and_before_it_would(tmp_path):
    made = (
        "from evergrow.environment import Environment; from evergrow.integrations.mlflow import client; "
        f"client(Environment.read({{'EVERGROW_HOME': {str(tmp_path)!r}}}))"
    )
    assert converters_are_the_same(made)
    assert not converters_are_the_same("pass")


@pytest.mark.skipif(not (find_spec("IPython") and find_spec("evidently")), reason="Evidently is not installed")
def test_after_evidently_was_asked_ipython_changes_nothing():
    asked = (
        "import pandas as pd; from evergrow.contracts import Feature; "
        "from evergrow.integrations.evidently import EvidentlyDrift; "
        "rows = pd.DataFrame({'wind': [1.0, 2.0, 3.0] * 50}); "
        "assert EvidentlyDrift().compare(rows, rows, [Feature(name='wind', kind='numeric')])"
    )
    assert converters_are_the_same(asked)
