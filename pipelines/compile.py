"""Compile every pipeline to KFP's intermediate representation: what a cluster is given.

python -m pipelines.compile [FOLDER]     writes FOLDER/<pipeline>.yaml; the default folder is the tests' golden one
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from kfp import compiler
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from pipelines.batch_scoring import batch_scoring
from pipelines.materialization import materialization
from pipelines.training import training

PIPELINES = {"training": training, "materialization": materialization, "batch_scoring": batch_scoring}
GOLDEN = Path("tests/pipelines/golden")


def without_cache(spec: PipelineSpec) -> None:
    """Switch KFP's cache off: its key sees neither the package's code nor the lake, the registry and the stores.

    A step finds out itself, by the identity of its work, whether that is done already.
    """
    for dag in (spec.root.dag, *(component.dag for component in spec.components.values())):
        for task in dag.tasks.values():
            task.caching_options.enable_cache = False


def compile_all(folder: Path) -> list[Path]:
    """Write one YAML file a pipeline into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, pipeline in PIPELINES.items():
        without_cache(pipeline.pipeline_spec)
        files.append(folder / f"{name}.yaml")
        compiler.Compiler().compile(pipeline, str(files[-1]))
    return files


def main(arguments: Sequence[str]) -> int:
    """Compile into the folder given."""
    for file in compile_all(Path(arguments[0]) if arguments else GOLDEN):
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
