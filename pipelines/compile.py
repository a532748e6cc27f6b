"""Compile pipelines to KFP's intermediate representation: what a cluster is given.

python -m pipelines.compile [FOLDER]        for no environment; the default folder is the tests' golden one
python -m pipelines.compile FOLDER --environment values.yaml --model NAME     as `evergrow submit` submits them
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from kfp import compiler
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from evergrow.integrations.kubeflow_compile import Compiled, compile_for
from evergrow.integrations.labels import MODEL, PIPELINE
from evergrow.spec.environment import EnvironmentSpec
from pipelines.backtest import backtest
from pipelines.batch_scoring import batch_scoring
from pipelines.materialization import materialization
from pipelines.monitoring import monitoring
from pipelines.training import training

PIPELINES = {
    "training": training,
    "materialization": materialization,
    "batch_scoring": batch_scoring,
    "monitoring": monitoring,
    "backtest": backtest,
}
GOLDEN = Path("tests/pipelines/golden")


def without_cache(spec: PipelineSpec) -> None:
    """Switch KFP's cache off: its key sees neither the package's code nor the lake, the registry and the stores.

    A step finds out itself, by the identity of its work, whether that is done already.
    """
    for dag in (spec.root.dag, *(component.dag for component in spec.components.values())):
        for task in dag.tasks.values():
            task.caching_options.enable_cache = False


def for_environment(name: str, environment: EnvironmentSpec, model: str) -> Compiled:
    """A pipeline as it is submitted to an environment for a model."""
    pipeline = PIPELINES[name]
    without_cache(pipeline.pipeline_spec)
    return compile_for(pipeline, environment, {MODEL: model, PIPELINE: name})


def compile_all(folder: Path) -> list[Path]:
    """Write one YAML file a pipeline into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, pipeline in PIPELINES.items():
        without_cache(pipeline.pipeline_spec)
        files.append(folder / f"{name}.yaml")
        compiler.Compiler().compile(pipeline, str(files[-1]))
    return files


def compile_all_for(environment: EnvironmentSpec, model: str, folder: Path) -> list[Path]:
    """Write one YAML file of two documents a pipeline into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in PIPELINES:
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(for_environment(name, environment, model).to_yaml(), encoding="utf-8")
    return files


def main(arguments: Sequence[str]) -> int:
    """Compile into the folder given."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description="Compile every pipeline.")
    parser.add_argument("folder", nargs="?", type=Path, default=GOLDEN)
    parser.add_argument("--environment", type=Path, help="an EnvironmentSpec, such as the chart's values")
    parser.add_argument("--model", help="the model whose pipelines they are")
    given = parser.parse_args(arguments)
    if (given.environment is None) != (given.model is None):
        parser.error("--environment and --model belong together")
    if given.environment is None:
        files = compile_all(given.folder)
    else:
        environment = EnvironmentSpec.model_validate(yaml.safe_load(given.environment.read_text(encoding="utf-8")))
        files = compile_all_for(environment, given.model, given.folder)
    print(*files, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
