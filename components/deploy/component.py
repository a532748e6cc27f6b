"""KFP interface of deploy."""

from kfp.dsl import Dataset, Input, Model

from evergrow.integrations.kubeflow import component


@component
def deploy(spec: str, version: str, training_set: Input[Dataset], model: Input[Model], report: Input[Dataset]) -> str:
    """Make the version the champion and the one served; returns where it is served from."""
    from components.deploy.step import main

    return main(spec, version, training_set.path, model.path, report.path)
