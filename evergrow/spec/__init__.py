"""The one definition of the documents users write; schemas and the reference page are generated from it."""

from evergrow.spec.load import load, parse
from evergrow.spec.model import ContinualModel

__all__ = ["ContinualModel", "load", "parse"]
