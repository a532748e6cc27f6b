"""KFP interface of observe."""

from kfp.dsl import Artifact, Dataset, Input, Output

from evergrow.integrations.kubeflow import component


@component
def observe(spec: str, as_of: str, snapshot: Input[Dataset], watch: Output[Artifact]) -> int:
    """Look at what was answered and at the labels that are known; returns how many alarms there are."""
    from components.observe.step import main

    return main(spec, as_of, watch.path)
