"""KFP interface of materialize."""

from kfp.dsl import Dataset, Input

from evergrow.integrations.kubeflow import component


@component
def materialize(spec: str, as_of: str, snapshot: Input[Dataset]):
    """Bring the online store up to `as_of` for the document's feature service."""
    from components.materialize.step import main

    main(spec, as_of)
