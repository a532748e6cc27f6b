"""KFP interface of build_training_set."""

from kfp.dsl import HTML, Dataset, Input, Output

from evergrow.integrations.kubeflow import component


@component
def build_training_set(
    spec: str,
    as_of: str,
    snapshot: Input[Dataset],
    training_set: Output[Dataset],
    exploration: Output[HTML],
):
    """Join labels and features as they were known at `as_of`; `exploration` shows what came out."""
    from components.build_training_set.step import main

    main(spec, as_of, snapshot.path, training_set.path, exploration.path)
