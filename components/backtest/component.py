"""KFP interfaces of a backtest: fix the past and who replays which policies, replay some, compare all."""

from kfp.dsl import HTML, Dataset, Input, Metrics, Output

from evergrow.integrations.kubeflow import component


@component
def plan_backtest(
    spec: str, policies: str, as_of: str, shares: int, snapshot: Input[Dataset], plan: Output[Dataset]
) -> list[int]:
    """Keep the model's past as of an instant, and deal the policies out; returns the shares' numbers."""
    from components.backtest.step import plan_backtest

    return plan_backtest(spec, policies, as_of, shares, plan.path)


@component
def replay(spec: str, policies: str, share: int, plan: Input[Dataset]) -> int:
    """Replay the policies of one share; returns how many."""
    from components.backtest.step import replay

    return replay(spec, policies, share, plan.path)


@component
def recommend(
    spec: str, policies: str, plan: Input[Dataset], replayed: list[int], page: Output[HTML], metrics: Output[Metrics]
) -> str:
    """Compare all policies, and recommend one; returns the folder of the results."""
    from components.backtest.step import recommend

    return recommend(spec, policies, plan.path, page.path, metrics)
