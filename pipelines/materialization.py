"""Bring the online store up to an instant."""

from kfp import dsl

from components.ingest.component import ingest
from components.materialize.component import materialize


@dsl.pipeline(name="materialization")
def materialization(spec: str, as_of: str):
    """Ingest what became known by `as_of` and materialize the features of a document's model."""
    materialize(spec=spec, as_of=as_of, snapshot=ingest(spec=spec, as_of=as_of).outputs["snapshot"])
