"""KFP interface of decide."""

from kfp.dsl import HTML, Artifact, Input, Metrics, Output

from evergrow.integrations.kubeflow import component


@component
def decide(spec: str, watch: Input[Artifact], page: Output[HTML], metrics: Output[Metrics]) -> str:
    """Decide what is to be done, and tell everyone; returns the action."""
    from components.decide.step import main

    return main(spec, watch.path, page.path, metrics)
