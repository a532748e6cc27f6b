"""Score the rows that come up after an instant, in shards side by side."""

from kfp import dsl

from components.ingest.component import ingest
from components.score.component import commit, plan_shards, score


@dsl.pipeline(name="batch-scoring")
def batch_scoring(spec: str, as_of: str):
    """Score with the champion what is to be predicted in (as_of, as_of + horizon], knowing what `as_of` knew."""
    snapshot = ingest(spec=spec, as_of=as_of).outputs["snapshot"]
    planned = plan_shards(spec=spec, as_of=as_of, snapshot=snapshot)
    plan = planned.outputs["plan"]
    with dsl.ParallelFor(planned.outputs["Output"]) as shard:
        scored = score(spec=spec, shard=shard, plan=plan)
    commit(spec=spec, plan=plan, rows=dsl.Collected(scored.output))
