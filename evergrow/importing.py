"""Turning "package.module:name" of a document into the object it names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from evergrow.errors import SpecError


def load_object(entrypoint: str, path: str = "entrypoint") -> Any:
    """The object an entrypoint names; the working directory is searched too.

    Args:
        entrypoint: "package.module:name".
        path: where in the document it stands, for the error.

    Raises:
        SpecError: the module or the name does not exist, or the module fails while importing.

    >>> load_object("math:pi")
    3.141592653589793
    """
    module_name, _, name = entrypoint.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SpecError(
            f"{path}: module {error.name!r} does not exist, found {entrypoint!r}",
            hint=f"run from the folder that holds {module_name.split('.', maxsplit=1)[0]}/, or install it",
        ) from error
    except Exception as error:
        raise SpecError(f"{path}: importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise SpecError(f"{path}: module {module_name!r} has no {name!r}, found {entrypoint!r}") from error
