"""A fitted model as a directory that answers the same everywhere: training, evaluation, batch and the server.

Imports NumPy and the contracts only, so that a server starts quickly; a backend is imported when a bundle needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from evergrow.contracts import Golden, TrainedModel, digest
from evergrow.errors import ServingError
from evergrow.learning.calibrate import calibrator
from evergrow.learning.shapley import shapley_values
from evergrow.learning.vector import Vectoriser

Score = Callable[[NDArray[np.float32]], NDArray[np.float64]]

INFO, SKOPS, ONNX, GOLDEN, BACKGROUND = "bundle.json", "model.skops", "model.onnx", "golden.json", "background.npy"
FILES = (INFO, SKOPS, ONNX, GOLDEN, BACKGROUND)
"""What a bundle is made of; other files beside them (a search's trials) are no part of its digest."""


def bundle_digest(path: Path) -> str:
    """SHA-256 over the names and contents of a bundle's files.

    Raises:
        ServingError: there is no bundle.
    """
    if not (path / INFO).is_file():
        raise ServingError(f"{path}: is no bundle, it has no {INFO}")
    present = [name for name in FILES if (path / name).is_file()]
    return digest({name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in present})


class Bundle:
    """A loaded model.

    Attributes:
        info: what it is and how it came to be.
    """

    def __init__(self, path: Path, info: TrainedModel, score: Score) -> None:
        self.path = path
        self.info = info
        self._score = score
        self._calibrated = info.calibration["kind"] != "none"
        self._calibrate = calibrator(info.calibration)
        self._vectoriser = Vectoriser(info.features, info.categories, info.left_out)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open a bundle's directory.

        Raises:
            ServingError: a file is missing, broken, or of an untrusted type.
        """
        path = Path(path)
        try:
            info = TrainedModel.model_validate_json((path / INFO).read_bytes())
            if info.backend == "onnx":
                score = onnx_score((path / ONNX).read_bytes())
            else:
                score = scikit_learn_score((path / SKOPS).read_bytes(), info.package)
        except (OSError, ValidationError) as error:
            raise ServingError(f"{path}: is no whole bundle: {error}") from error
        return cls(path, info, score)

    def vector(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Named values to vectors, float32 [n, k]; absent, missing and unseen are NaN.

        Raises:
            RequestError: a value has the wrong type or is infinite; names feature and row.
        """
        return self._vectoriser.rows(rows)

    def columns(self, columns: Any) -> NDArray[np.float32]:
        """A DataFrame, or a mapping from names to columns, to vectors, float32 [n, k]."""
        return self._vectoriser.columns(columns)

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores, float64 [n]: calibrated probabilities of the positive class, or predicted numbers."""
        if len(X) == 0:
            return np.empty(0)
        scores = self._score(X)
        return self._calibrate(scores) if self._calibrated else scores

    def explain(self, X: NDArray[np.float32], permutations: int = 1, seed: int = 0) -> NDArray[np.float64]:
        """How much each feature moved each score away from `base_score`, float64 [n, k].

        Sampled Shapley values against the stored background rows, in the scores' unit. Each row sums to its
        score less `base_score`. `permutations` pairs are drawn per background row: twice as many halve the variance.
        """
        return shapley_values(self.predict, X, self.background, permutations, seed)

    @cached_property
    def background(self) -> NDArray[np.float32]:
        """Rows fitted on that stand for "the feature is not known", float32 [m, k]."""
        rows: NDArray[np.float32] = np.load(self.path / BACKGROUND, allow_pickle=False)
        return rows

    @cached_property
    def base_score(self) -> float:
        """The mean score of the background rows."""
        return float(self.predict(self.background).mean())

    @cached_property
    def golden(self) -> Golden:
        """Rows whose right scores are known."""
        return Golden.model_validate_json((self.path / GOLDEN).read_bytes())

    def check(self) -> float:
        """Score the golden rows; the largest difference from what they should score.

        Raises:
            ServingError: it is above the golden rows' tolerance, or not a number.
        """
        golden = self.golden
        scores = self.predict(self.vector(golden.features))
        difference = float(np.max(np.abs(scores - np.asarray(golden.scores)), initial=0.0))
        if not difference <= golden.tolerance:
            raise ServingError(
                f"{self.path}: golden rows are off by {difference:.2e}, which must not pass {golden.tolerance:.0e}",
                hint="run the versions that the bundle's `requirements` name",
            )
        return difference


def onnx_score(model: bytes) -> Score:
    """Open ONNX bytes on one thread: its scoring function."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        raise ServingError(f"{ONNX} cannot be opened: {error}") from error
    run, names = session.run, [session.get_outputs()[0].name]

    def score(X: NDArray[np.float32]) -> NDArray[np.float64]:
        output = run(names, {"X": X})[0]
        return output[:, -1].astype(np.float64)  # type: ignore[no-any-return]

    return score


def scikit_learn_score(model: bytes, package: str) -> Score:
    """Read a skops file: the scoring function of its estimator, on one thread."""
    from evergrow.learning.skops_file import loads

    return estimator_score(loads(model, package))


def estimator_score(estimator: Any) -> Score:
    """A fitted estimator's scoring function: P(positive) or the predicted number, on one thread.

    OpenMP's team of threads costs more than a small batch is worth, twenty times more on few cores.
    """
    from threadpoolctl import ThreadpoolController

    controller = ThreadpoolController()
    classifies = hasattr(estimator, "predict_proba")

    def score(X: NDArray[np.float32]) -> NDArray[np.float64]:
        with controller.limit(limits=1):
            output = estimator.predict_proba(X)[:, 1] if classifies else estimator.predict(X)
        return np.asarray(output, dtype=np.float64).reshape(len(X))

    return score


class _Pyfunc:
    """What MLflow calls: DataFrame in, scores out."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> NDArray[np.float64]:
        """Scores of a DataFrame that has the model's features as columns, float64 [n]."""
        return self.bundle.predict(self.bundle.columns(model_input))


def _load_pyfunc(path: str) -> _Pyfunc:
    """Open a bundle for `mlflow.pyfunc` (its `loader_module` is this module)."""
    return _Pyfunc(Bundle.load(Path(path)))


def write(path: Path, info: TrainedModel, files: Mapping[str, bytes], golden: Golden) -> None:
    """Write a bundle's directory; equal values give equal bytes."""
    path.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (path / name).unlink(missing_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    for name, value in ((GOLDEN, golden), (INFO, info)):
        text = json.dumps(value.model_dump(mode="json"), indent=1, ensure_ascii=False, sort_keys=True)
        (path / name).write_text(text + "\n", encoding="utf-8")
