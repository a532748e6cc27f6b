"""KFP interfaces of batch scoring: plan the shards, score one, commit them all."""

from kfp.dsl import Dataset, Input, Output

from evergrow.integrations.kubeflow import component


@component
def plan_shards(spec: str, as_of: str, snapshot: Input[Dataset], plan: Output[Dataset]) -> list[int]:
    """Fix which rows are scored, by which version, in which shards; returns the shards' numbers."""
    from components.score.step import plan_shards

    return plan_shards(spec, as_of, plan.path)


@component
def score(spec: str, shard: int, plan: Input[Dataset]) -> int:
    """Score one shard and put its part in place; returns its rows."""
    from components.score.step import score

    return score(spec, shard, plan.path)


@component
def commit(spec: str, plan: Input[Dataset], rows: list[int]) -> str:
    """Check that every planned row was scored once and mark the predictions complete; returns their folder."""
    from components.score.step import commit

    return commit(spec, plan.path)
