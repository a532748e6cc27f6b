"""Replay a model's past under many retraining policies, in shares side by side."""

from kfp import dsl

from components.backtest.component import plan_backtest, recommend, replay
from components.ingest.component import ingest


@dsl.pipeline(name="backtest")
def backtest(spec: str, policies: str, as_of: str, shares: int = 4):
    """Compare the policies of a PolicySet on what was known until an instant, and recommend one."""
    snapshot = ingest(spec=spec, as_of=as_of).outputs["snapshot"]
    planned = plan_backtest(spec=spec, policies=policies, as_of=as_of, shares=shares, snapshot=snapshot)
    plan = planned.outputs["plan"]
    with dsl.ParallelFor(planned.outputs["Output"]) as share:
        replayed = replay(spec=spec, policies=policies, share=share, plan=plan)
    recommend(spec=spec, policies=policies, plan=plan, replayed=dsl.Collected(replayed.output))
