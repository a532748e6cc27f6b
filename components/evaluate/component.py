"""KFP interface of evaluate."""

from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from evergrow.integrations.kubeflow import component


@component
def evaluate(
    spec: str,
    training_set: Input[Dataset],
    model: Input[Model],
    rivals: Input[Artifact],
    report: Output[Dataset],
    page: Output[HTML],
    metrics: Output[Metrics],
    classification: Output[ClassificationMetrics],
) -> str:
    """Judge the model against the champion on the same held-out rows; returns the verdict's outcome."""
    from components.evaluate.step import main

    return main(spec, training_set.path, model.path, rivals.path, report.path, page.path, metrics, classification)
