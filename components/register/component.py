"""KFP interface of register."""

from kfp.dsl import Dataset, Input, Model

from evergrow.integrations.kubeflow import component


@component
def register(spec: str, as_of: str, model: Input[Model], report: Input[Dataset]) -> str:
    """Store model and evaluation in the registry as a challenger; returns the version."""
    from components.register.step import main

    return main(spec, as_of, model.path, report.path)
