"""The one definition of the documents users write; schemas and the reference page are generated from it."""

from evergrow.spec.load import load, parse, stored
from evergrow.spec.model import ContinualModel
from evergrow.spec.rollout import ModelRollout

__all__ = ["ContinualModel", "ModelRollout", "load", "parse", "stored"]
