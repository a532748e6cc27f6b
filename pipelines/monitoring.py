"""Look at a model in service, and decide whether anyone needs to know."""

from kfp import dsl

from components.decide.component import decide
from components.ingest.component import ingest
from components.observe.component import observe


@dsl.pipeline(name="monitoring")
def monitoring(spec: str, as_of: str):
    """Judge what was answered until an instant by the labels that are known then."""
    snapshot = ingest(spec=spec, as_of=as_of).outputs["snapshot"]
    watch = observe(spec=spec, as_of=as_of, snapshot=snapshot).outputs["watch"]
    decide(spec=spec, watch=watch)
