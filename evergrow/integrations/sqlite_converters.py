"""How this process reads SQLite's timestamps: Feast's own way, which IPython would change for everybody."""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
from collections.abc import Iterator


@contextlib.contextmanager
def sqlite_as_it_was() -> Iterator[None]:
    """Undo, at the end, what was registered with sqlite3 meanwhile to read its columns."""
    before = dict(sqlite3.converters)
    try:
        yield
    finally:
        sqlite3.converters.clear()
        sqlite3.converters.update(before)


def import_ipython_harmlessly() -> None:
    """Import IPython where it is installed, so that whoever imports it later changes nothing any more.

    Its history registers a converter of timestamps for the whole process. MLflow imports it to find out whether it runs
    in a notebook, drift tools to be shown in one; and Feast, which keeps seconds since 1970, could then read its online
    store no more.
    """
    with sqlite_as_it_was(), contextlib.suppress(ImportError):
        importlib.import_module("IPython.core.history")
