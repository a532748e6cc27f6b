"""Train, judge, register and, if the gate passes, deploy."""

from kfp import dsl

from components.build_training_set.component import build_training_set
from components.deploy.component import deploy
from components.evaluate.component import evaluate
from components.ingest.component import ingest
from components.register.component import register
from components.train.component import train


@dsl.pipeline(name="training")
def training(spec: str, as_of: str):
    """Train the model of a document as of an instant; a verdict that is no pass leaves the champion serving."""
    snapshot = ingest(spec=spec, as_of=as_of).outputs["snapshot"]
    training_set = build_training_set(spec=spec, as_of=as_of, snapshot=snapshot).outputs["training_set"]
    trained = train(spec=spec, training_set=training_set).outputs
    model = trained["model"]
    judged = evaluate(spec=spec, training_set=training_set, model=model, rivals=trained["rivals"])
    report = judged.outputs["report"]
    registered = register(spec=spec, as_of=as_of, model=model, report=report)
    with dsl.If(judged.outputs["Output"] == "pass"):
        deploy(spec=spec, version=registered.output, training_set=training_set, model=model, report=report)
