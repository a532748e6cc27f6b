"""KFP interface of ingest."""

from kfp.dsl import Dataset, Output

from evergrow.integrations.kubeflow import component


@component
def ingest(spec: str, as_of: str, snapshot: Output[Dataset]):
    """Read the source up to `as_of`, check it, keep what is good; `snapshot` names what the lake then holds."""
    from components.ingest.step import main

    main(spec, as_of, snapshot.path)
