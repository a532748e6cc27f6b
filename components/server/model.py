"""The model that KServe serves: rows in, online features looked up, scores with flags out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from grpc import StatusCode  # type: ignore[import-untyped]
from grpc_interceptor.exceptions import GrpcException
from kserve.model import InferenceVerb, Model
from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse

from components.server import metrics
from components.server.recording import Recorder, asked_by
from components.server.refusal import Refusal
from components.server.request import Row, Schema, Tensor, json_tensors
from components.server.serving_directory import ServingDirectory
from components.server.unanswered import log_fault, log_refusal
from evergrow.errors import RequestError
from evergrow.integrations.feast_online import FeatureRow, OnlineReader
from evergrow.integrations.online_stores import StoreUnavailable
from evergrow.prediction_log.records import Asked, views

# Sampled Shapley values score hundreds of rows per row explained.
MAX_EXPLAINED = 100

_GRPC_STATUS = {
    404: StatusCode.NOT_FOUND,
    413: StatusCode.RESOURCE_EXHAUSTED,
    422: StatusCode.FAILED_PRECONDITION,
    503: StatusCode.UNAVAILABLE,
}


logger = logging.getLogger("evergrow.server")


class Predicted(NamedTuple):
    """The answer for some rows: one score and the flags of each."""

    scores: list[float]
    flags: list[tuple[str, ...]]


class PredictionModel(Model):  # type: ignore[misc]  # KServe has no types
    """One version of one model.

    It is ready while its online store answers and the server is not draining; see `healthy`.
    """

    def __init__(
        self,
        served: ServingDirectory,
        reader: OnlineReader,
        offset: timedelta = timedelta(),
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(served.model)
        self.version = served.version
        self.bundle = served.bundle
        self.schema = Schema(served.fields, served.max_batch)
        self.reject_missing = served.on_missing == "reject"
        self.reader = reader
        self.recorder = recorder
        self.draining = False
        self.store_failure: str | None = "the online store was not asked yet"
        self._offset = offset
        self._views = views(served.plan)
        self._answering = 0
        self._last: tuple[datetime, Sequence[float | None]] = (datetime.now(UTC), ())
        self.ready = True
        metrics.MODEL.labels(self.name, self.version, served.bundle.info.backend).set(1)

    # -- readiness --

    def start(self) -> None:
        """Nothing is left to do: what is served was loaded and checked before."""

    def load(self) -> bool:
        """Nothing is left to do."""
        return True

    async def healthy(self) -> bool:
        """Whether to send requests here. Answers never depend on it: who asks while we drain is still answered."""
        return self.is_ready()

    def is_ready(self) -> bool:
        """The same, at once."""
        return bool(self.ready) and not self.draining and self.store_failure is None

    async def probe(self) -> None:
        """Ask the online store whether it is there."""
        try:
            await self.reader.store.ping()
        except StoreUnavailable as error:
            self.note_store(str(error))
        else:
            self.note_store(None)

    def note_store(self, failure: str | None) -> None:
        """Remember how the online store last answered."""
        if (failure is None) != (self.store_failure is None):
            metrics.STORE_UP.set(failure is None)
            if failure is None:
                logger.info("the online store answers")
            else:
                logger.warning("%s; not ready until it is back", failure)
        self.store_failure = failure

    # -- the work --

    def now(self) -> datetime:
        """The present, or the replayed one."""
        return datetime.now(UTC) + self._offset

    async def predict_rows(self, rows: Sequence[Row], asked: Asked) -> Predicted:
        """Scores and flags, in the rows' order, recorded.

        Raises:
            Refusal: the store is away (503); a row lacks something and that is to be refused (422); an on-demand
                function cannot use a row (400); what is answered cannot be recorded, and must be (503).
        """
        self._answering += 1
        try:
            return await self._predicted(rows, asked)
        finally:
            self._answering -= 1

    async def _predicted(self, rows: Sequence[Row], asked: Asked) -> Predicted:
        started, now = time.perf_counter(), self.now()
        found = await self._features(rows, now)
        looked_up = time.perf_counter()
        scores = self._scores(found)
        ended = time.perf_counter()
        flags = [row.flags for row in found]
        self._last = (now, found[-1].times)
        self._observe(flags, looked_up - started, ended - looked_up)
        if self.recorder is not None:
            alone = self._answering == 1
            waiting = self.recorder.keep(asked, now.timestamp(), ended - started, found, scores, alone=alone)
            if waiting is not None:
                await waiting
        return Predicted(scores, flags)

    async def explain_rows(self, rows: Sequence[Row], asked: Asked) -> list[dict[str, Any]]:
        """Per row its score, the base score, and how much each feature moved it from there to here."""
        if len(rows) > MAX_EXPLAINED:
            raise Refusal(413, f"instances: at most {MAX_EXPLAINED} rows are explained at once, found {len(rows)}")
        started, now = time.perf_counter(), self.now()
        found = await self._features(rows, now)
        X = self._vector(found)
        scores: list[float] = self.bundle.predict(X).tolist()
        shares = await asyncio.to_thread(self.bundle.explain, X)
        if self.recorder is not None:
            waiting = self.recorder.keep(asked, now.timestamp(), time.perf_counter() - started, found, scores)
            if waiting is not None:
                await waiting
        names = [feature.name for feature in self.bundle.info.features]
        return [
            {
                "prediction": score,
                "base": self.bundle.base_score,
                "attributions": dict(zip(names, share, strict=True)),
                "flags": row.flags,
            }
            for score, share, row in zip(scores, shares.tolist(), found, strict=True)
        ]

    async def _features(self, rows: Sequence[Row], now: datetime) -> list[FeatureRow]:
        try:
            found = await self.reader.read_async(rows, now)
        except StoreUnavailable as error:
            self.note_store(str(error))
            raise Refusal(503, f"{error}; try again", "store") from error
        except RequestError as error:
            raise Refusal(400, str(error)) from error
        if self.reject_missing:
            for index, row in enumerate(found):
                if row.flags:
                    lacks = ", ".join(row.flags)
                    raise Refusal(422, f"instances[{index}]: {lacks}; `serving.onMissing` is reject", "missing", lacks)
        return found

    def _scores(self, found: Sequence[FeatureRow]) -> list[float]:
        scores: list[float] = self.bundle.predict(self._vector(found)).tolist()
        return scores

    def _vector(self, found: Sequence[FeatureRow]) -> Any:
        try:
            return self.bundle.vector([row.values for row in found])
        except RequestError as error:
            raise Refusal(400, str(error)) from error

    def _observe(self, flags: list[tuple[str, ...]], features: float, model: float) -> None:
        metrics.FEATURES_SECONDS.observe(features)
        metrics.MODEL_SECONDS.observe(model)
        metrics.ROWS.inc(len(flags))
        if any(flags):
            metrics.count_flags(flags)

    def feature_ages(self) -> dict[str, float]:
        """Seconds by view, of the row predicted last: from the event time of what was found to its prediction."""
        now, times = self._last
        return {view: now.timestamp() - at for view, at in zip(self._views, times, strict=False) if at is not None}

    # -- the protocols --

    async def answer_v1(self, body: Any, asked: Asked) -> dict[str, Any]:
        """A V1 prediction: parallel lists of predictions and flags."""
        predicted = await self.predict_rows(self.schema.v1(body), asked)
        return {
            "predictions": predicted.scores,
            "flags": predicted.flags,
            "model_name": self.name,
            "model_version": self.version,
            "id": asked.request_id,
        }

    async def answer_explain(self, body: Any, asked: Asked) -> dict[str, Any]:
        """A V1 explanation."""
        explanations = await self.explain_rows(self.schema.v1(body), asked)
        return {
            "explanations": explanations,
            "model_name": self.name,
            "model_version": self.version,
            "id": asked.request_id,
        }

    async def answer_v2(self, body: Any, asked: Asked) -> dict[str, Any]:
        """A V2 prediction: tensors `score` (FP64) and `flags` (BYTES, joined by commas)."""
        rows = self.schema.v2(json_tensors(body))
        named = body.get("id")
        if isinstance(named, str) and named:
            asked = asked._replace(request_id=named)
        predicted = await self.predict_rows(rows, asked)
        return {
            "model_name": self.name,
            "model_version": self.version,
            "id": asked.request_id,
            "outputs": [
                _tensor("score", "FP64", predicted.scores),
                _tensor("flags", "BYTES", [",".join(flags) for flags in predicted.flags]),
            ],
        }

    async def __call__(
        self, body: Any, headers: dict[str, str] | None = None, verb: InferenceVerb = InferenceVerb.PREDICT
    ) -> Any:
        """KServe's own way in, which gRPC takes: an InferRequest (V2), or a dict (V1)."""
        asked = asked_by("grpc", headers or {}, self.version)
        if not isinstance(body, InferRequest):
            answer = self.answer_explain if verb is InferenceVerb.EXPLAIN else self.answer_v1
            return await answer(body, asked), {}
        if body.id:
            asked = asked._replace(request_id=body.id)
        started = time.perf_counter()
        try:
            rows = self.schema.v2([_from_infer_input(tensor) for tensor in body.inputs])
            predicted = await self.predict_rows(rows, asked)
        except Exception as error:
            raise _unanswered(error, asked.request_id) from error
        metrics.count_request("grpc", 200)
        metrics.TOTAL_SECONDS.observe(time.perf_counter() - started)
        return self._infer_response(predicted, asked.request_id), {}

    def _infer_response(self, predicted: Predicted, request_id: str) -> InferResponse:
        score = InferOutput("score", [len(predicted.scores)], "FP64")
        score.set_data_from_numpy(np.array(predicted.scores, dtype=np.float64), binary_data=False)
        flags = InferOutput("flags", [len(predicted.flags)], "BYTES")
        flags.set_data_from_numpy(np.array([",".join(f) for f in predicted.flags], dtype=object), binary_data=False)
        return InferResponse(
            response_id=request_id, model_name=self.name, model_version=self.version, infer_outputs=[score, flags]
        )

    def get_input_types(self) -> list[dict[str, Any]]:
        """The V2 metadata of the inputs."""
        return self.schema.tensors()

    def get_output_types(self) -> list[dict[str, Any]]:
        """The V2 metadata of the outputs."""
        return [
            {"name": "score", "datatype": "FP64", "shape": [-1]},
            {"name": "flags", "datatype": "BYTES", "shape": [-1]},
        ]


def _unanswered(error: Exception, request_id: str) -> GrpcException:
    """What a gRPC caller is told, having counted and logged it."""
    if isinstance(error, Refusal):
        log_refusal("grpc", error, request_id)
        metrics.count_request("grpc", error.status)
        status = _GRPC_STATUS.get(error.status, StatusCode.INVALID_ARGUMENT)
        return GrpcException(status_code=status, details=error.message)
    log_fault("grpc", error, request_id)
    metrics.count_request("grpc", 500)
    said = f"{type(error).__name__}: a fault of the server's, logged there"
    return GrpcException(status_code=StatusCode.INTERNAL, details=said)


def _tensor(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": datatype, "data": data}


def _from_infer_input(tensor: Any) -> Tensor:
    """A gRPC input; raw contents are little-endian bytes."""
    try:
        data = tensor.data if tensor.data is not None and len(tensor.data) else tensor.as_numpy().reshape(-1).tolist()
    except Exception as error:
        message = f"input {tensor.name}: contents must be {tensor.datatype} of shape {tensor.shape}: {error}"
        raise Refusal(400, message) from error
    return Tensor(tensor.name, tensor.datatype, tensor.shape, data)
