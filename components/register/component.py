"""KFP interface of register."""

from kfp.dsl import Dataset, Input, Model

from evergrow.integrations.kubeflow import component


@component
def register(spec: str, model: Input[Model], report: Input[Dataset]) -> str:
    """Store model and evaluation in the registry as a challenger; returns the version."""
    from components.register.step import main

    return main(spec, model.path, report.path)
