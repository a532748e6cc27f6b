"""KFP interface of train."""

from kfp.dsl import Artifact, Dataset, Input, Model, Output

from evergrow.integrations.kubeflow import component


@component
def train(spec: str, training_set: Input[Dataset], model: Output[Model], rivals: Output[Artifact]) -> str:
    """Fit the document's estimator, or fetch the model that has the same identity; returns the identity.

    `rivals` holds the champion that the model will be judged against, and the control of an update that has one.
    """
    from components.train.step import main

    return main(spec, training_set.path, model.path, rivals.path)
