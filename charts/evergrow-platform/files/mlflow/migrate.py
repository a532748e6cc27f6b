"""Brings the database to this MLflow's version, before its server starts.

`mlflow server` makes the tables of an empty database, but takes turns only with processes on its own machine: two pods
that start at once would both make them. Here they take turns with a lock of PostgreSQL. A database of an older version,
which `mlflow server` refuses, is migrated; one that is as it should be is left alone.
"""

import os
import sys
import time

import sqlalchemy
from mlflow.store.db import utils

# Any number that nobody else uses as a lock: the letters "mlflow".
LOCK = int.from_bytes(b"mlflow", "big")
PATIENCE = 120
"""Seconds to wait for a database that does not answer."""


def connect(engine):
    """A connection, as soon as the database answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        except sqlalchemy.exc.OperationalError as error:
            if time.monotonic() > deadline:
                sys.exit(f"no connection to {engine.url!r} within {PATIENCE} seconds: {error.orig}")
            time.sleep(1)


def migrate(engine):
    """Make the tables, or bring them up to date."""
    with connect(engine) as connection:
        # Held until the connection is closed.
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        if utils._is_empty_database(engine):
            utils._initialize_tables(engine)
        else:
            utils._upgrade_db(engine)


if __name__ == "__main__":
    migrate(sqlalchemy.create_engine(os.environ["MLFLOW_BACKEND_STORE_URI"], poolclass=sqlalchemy.pool.NullPool))
