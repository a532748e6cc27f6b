"""A step, a branch on what it returned, and a loop."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from evergrow.integrations.kubeflow import component


@component
def work(how: str, out: Output[Dataset]) -> str:
    from tests.toy.step import work

    return work(how, out.path)


@component
def shard(number: int) -> int:
    from tests.toy.step import shard

    return shard(number)


@component
def lost() -> str:
    from tests.toy.nowhere import main

    return main()


@dsl.pipeline(name="toy")
def toy(how: str):
    worked = work(how=how)
    with dsl.If(worked.outputs["Output"] == "pass"), dsl.ParallelFor([1, 2, 3]) as number:
        shard(number=number)


@dsl.pipeline(name="unknown-step")
def unknown_step():
    lost()
