"""Conversion to ONNX, kept only where it is proved to answer as scikit-learn does.

The proof is needed: skl2onnx converts some estimators without complaint into models that answer differently
(boosted trees that split on categories, for one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Newest operator set that every ONNX Runtime we allow can run.
OPSET = 21
TOLERANCE = 1e-5
"""Largest difference between ONNX and scikit-learn: in probability, or in standard deviations of the label."""


@dataclass(frozen=True)
class Conversion:
    """The converted model if it may be used, and why it may or may not."""

    model: bytes | None
    reason: str


def convert(estimator: Any, features: int, output: str) -> bytes:
    """ONNX bytes of a fitted estimator: input "X" float32 [n, features], the single output named `output`.

    Raises whatever skl2onnx raises on what it cannot convert.
    """
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

    options = {id(estimator): {"zipmap": False}} if output == "probabilities" else None
    graph = to_onnx(
        estimator,
        initial_types=[("X", FloatTensorType([None, features]))],
        options=options,
        target_opset=OPSET,
        name="model",
    )
    graph = select_model_inputs_outputs(graph, outputs=[output])
    return bytes(graph.SerializeToString(deterministic=True))


def prove(
    model: bytes,
    run: Callable[[bytes], Callable[[NDArray[np.float32]], NDArray[np.float64]]],
    expected: NDArray[np.float64],
    X: NDArray[np.float32],
    scale: float,
) -> Conversion:
    """Keep a conversion if its scores on `X` are within TOLERANCE × `scale` of `expected`.

    Args:
        model: ONNX bytes.
        run: opens a model and gives its scoring function.
        expected: scikit-learn's scores, [n].
        X: vectors, [n, k]; hold missing values and unseen levels.
        scale: what a difference is measured in: 1 for probabilities, else the label's standard deviation.
    """
    score = run(model)
    one_by_one = np.concatenate([score(row[None]) for row in X[:64]])
    difference = max(
        float(np.max(np.abs(score(X) - expected), initial=0.0)),
        float(np.max(np.abs(one_by_one - expected[:64]), initial=0.0)),
    )
    tolerance = TOLERANCE * scale
    reason = f"ONNX differs from scikit-learn by up to {difference:.1e} on {len(X):,} rows, tolerance {tolerance:.1e}"
    return Conversion(model if difference <= tolerance else None, reason)  # a NaN is within no tolerance
