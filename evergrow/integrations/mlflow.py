"""The model registry: MLflow, on a SQLite file here and on a server on a cluster.

Works with mlflow-skinny. MLflow takes CPU seconds to import, so it is imported when first asked something.
"""

from __future__ import annotations

import functools
import getpass
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from evergrow.audit import AuditLog, Promotion
from evergrow.contracts import EvaluationReport, ModelVersion, TrainedModel, instant
from evergrow.environment import Environment
from evergrow.errors import EvergrowError, RegistryError
from evergrow.integrations.object_store import mirrored
from evergrow.integrations.sqlite_converters import import_ipython_harmlessly
from evergrow.learning.bundle import bundle_digest
from evergrow.learning.search import read_trials
from evergrow.triggers.history import Champion

CHAMPION, CHALLENGER = "champion", "challenger"
LOADER = "evergrow.learning.bundle"
CARD = "card.md"
# Tags by which a version is found again; MLflow keeps no other place for them.
IDENTITY, DIGEST, VERDICT, JUDGED = "identity", "model_digest", "verdict", "judged_against"

# What MLflow says when the server or its database does not answer.
SILENT = ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED")
# As much of a model card as the registry's databases hold.
DESCRIPTION = 5000

P = ParamSpec("P")
R = TypeVar("R")


def translated(method: Callable[P, R]) -> Callable[P, R]:
    """Turn what MLflow raises into RegistryError, here and nowhere else."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except EvergrowError:
            raise
        except Exception as error:
            from mlflow.exceptions import MlflowException

            if not isinstance(error, MlflowException):
                raise
            silent = error.error_code in SILENT
            raise RegistryError(f"MLflow: {error.message}", hint=_hint(error.error_code), retriable=silent) from error

    return call


def _hint(code: str) -> str:
    return {
        "RESOURCE_DOES_NOT_EXIST": "`evergrow models list` shows what there is",
        "TEMPORARILY_UNAVAILABLE": "is the server that MLFLOW_TRACKING_URI names running?",
        "INTERNAL_ERROR": "is the server or the file that MLFLOW_TRACKING_URI names reachable?",
        "PERMISSION_DENIED": "the user of this process may not do that",
    }.get(code, "")


def client(environment: Environment) -> Any:
    """MLflow's client of an environment's server or file, which is made if it is not there."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import_ipython_harmlessly()
    from mlflow.tracking.client import MlflowClient

    uri = environment.tracking_uri
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment(mlflow: Any, environment: Environment, name: str) -> str:
    """Id of the experiment of a name, which is made if it is not there."""
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = environment.tracking_uri.startswith("sqlite:")
    artifacts = (environment.home / "mlflow" / "artifacts" / name).as_uri() if local else None
    return str(mlflow.create_experiment(name, artifact_location=artifacts))


class MlflowRegistry:
    """`evergrow.ports.ModelRegistry` on MLflow. Versions are immutable: only aliases and verdict tags change."""

    def __init__(self, environment: Environment, actor: str | None = None) -> None:
        self.environment = environment
        self.audit = AuditLog(environment.audit)
        self.actor = actor or os.environ.get("EVERGROW_ACTOR") or getpass.getuser()

    @functools.cached_property
    def _client(self) -> Any:
        return client(self.environment)

    # -- reading ----------------------------------------------------------------------------------------------------

    @translated
    def find(self, model: str, identity: str) -> ModelVersion | None:
        """The version of that identity, if there is one."""
        return next((v for v in self.versions(model) if v.identity == identity), None)

    @translated
    def resolve(self, model: str, reference: str) -> ModelVersion | None:
        """The version an alias or a number names."""
        matches = (v for v in self.versions(model) if reference in (*v.aliases, str(v.version)))
        return next(matches, None)

    @translated
    def versions(self, model: str | None = None) -> list[ModelVersion]:
        """All versions, newest first."""
        if not self._exists():
            return []
        filters = f"name = '{model}'" if model else ""
        aliases = self._aliases(model)
        found = [_version(v, aliases.get((v.name, int(v.version)), ())) for v in self._search(filters)]
        return sorted(found, key=lambda v: (v.model, -v.version))

    @translated
    def fetch(self, version: ModelVersion, to: Path) -> Path:
        """Copy a version's bundle into the directory `to` and check its digest.

        Raises:
            RegistryError: what is stored is not what was registered.
        """
        with tempfile.TemporaryDirectory() as scratch:
            stored = self._download(f"models:/{version.model}/{version.version}", Path(scratch))
            shutil.copytree(stored / "data" / "bundle", to, dirs_exist_ok=True)
        found = bundle_digest(to)
        if found != version.model_digest:
            raise RegistryError(
                f"{version.model} version {version.version}: its files have digest {found[:12]}, "
                f"registered was {version.model_digest[:12]}",
                hint="the artifact store was changed or is incomplete; train again or restore it",
            )
        return to

    @translated
    def evaluation(self, version: ModelVersion, to: Path) -> Path:
        """Copy a version's newest evaluation (report.json, pages) into the directory `to`."""
        against = version.tags[JUDGED]
        with tempfile.TemporaryDirectory() as scratch:
            stored = self._download(f"runs:/{version.run_id}/{_evaluation_path(against)}", Path(scratch))
            shutil.copytree(stored, to, dirs_exist_ok=True)
        return to

    @translated
    def card(self, version: ModelVersion) -> str:
        """A version's model card, Markdown; empty if it has none."""
        if all(file.path != CARD for file in self._client.list_artifacts(version.run_id)):
            return ""
        with tempfile.TemporaryDirectory() as scratch:
            return self._download(f"runs:/{version.run_id}/{CARD}", Path(scratch)).read_text(encoding="utf-8")

    @translated
    def as_of(self, version: ModelVersion) -> datetime:
        """As of when a version's training data was known."""
        parameters = self._client.get_run(version.run_id).data.params
        return instant(parameters["as_of"])

    def champion(self, model: str, now: datetime) -> Champion | None:
        """Who serves, by the alias. Who was promoted later than now, where time is replayed, serves since its cut."""
        found = self.resolve(model, CHAMPION)
        if found is None:
            return None
        cut = self.as_of(found)
        promoted = [one.at for one in self.audit.records() if (one.model, one.version) == (model, found.version)]
        return Champion(found.version, cut, promoted[-1] if promoted and promoted[-1] <= now else cut)

    # -- writing ----------------------------------------------------------------------------------------------------

    @translated
    def register(
        self,
        bundle: Path,
        report: EvaluationReport,
        evaluation: Path,
        document: Mapping[str, Any] | None = None,
        card: str = "",
    ) -> ModelVersion:
        """Store a bundle with its evaluation as a new version; of a known identity, only the evaluation."""
        trained = TrainedModel.model_validate_json((bundle / "bundle.json").read_text(encoding="utf-8"))
        version = self.find(trained.model, trained.identity.digest)
        if version is None:
            version = self._create(bundle, trained, report, document or {}, card)
        self._client.log_artifacts(version.run_id, str(evaluation), _evaluation_path(report.champion))
        self._judge(version, report)
        return self._again(version)

    @translated
    def known(self, model: str, version: int | str) -> ModelVersion:
        """The version of a number.

        Raises:
            RegistryError: there is none.
        """
        found = self.resolve(model, str(version))
        if found is None:
            raise RegistryError(f"{model} has no version {version}", hint="`evergrow models list` shows all")
        return found

    def promote(self, version: ModelVersion, reason: str, now: datetime) -> ModelVersion:
        """Make a version the champion; the audit record is on disk before the alias moves."""
        champion = self.resolve(version.model, CHAMPION)
        if champion is not None and champion.version == version.version:
            return champion
        with mirrored(self.environment, "audit"):
            record = self.audit.append(Promotion.of(version, champion, self.actor, reason, now))
        self._client.set_model_version_tag(version.model, str(version.version), "audit", record)
        self._client.set_registered_model_alias(version.model, CHAMPION, str(version.version))
        if CHALLENGER in self._again(version).aliases:
            self._client.delete_registered_model_alias(version.model, CHALLENGER)
        return self._again(version)

    # -- how --------------------------------------------------------------------------------------------------------

    def _exists(self) -> bool:
        """Asking MLflow would make a missing SQLite file, at the price of all its migrations."""
        uri = self.environment.tracking_uri
        return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()

    def _search(self, filters: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_model_versions(filters, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _aliases(self, model: str | None) -> dict[tuple[str, int], tuple[str, ...]]:
        """MLflow's search leaves a version's aliases out on some stores; the registered model always has them."""
        found: dict[tuple[str, int], tuple[str, ...]] = {}
        for registered in self._client.search_registered_models(f"name = '{model}'" if model else ""):
            for alias, number in sorted(registered.aliases.items()):
                key = (registered.name, int(number))
                found[key] = (*found.get(key, ()), alias)
        return found

    def _again(self, version: ModelVersion) -> ModelVersion:
        found = self.resolve(version.model, str(version.version))
        if found is None:
            raise RegistryError(f"{version.model} version {version.version} does not exist")
        return found

    def _download(self, uri: str, to: Path) -> Path:
        import mlflow.artifacts

        self._become_mlflows_default()
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(to)))

    def _become_mlflows_default(self) -> None:
        """MLflow's functions that take no client ask the process-wide place; "models:/" URIs do in any case."""
        import mlflow

        self._client  # noqa: B018 - makes the folder of a SQLite file
        mlflow.set_tracking_uri(self.environment.tracking_uri)
        mlflow.set_registry_uri(self.environment.tracking_uri)

    def _create(
        self, bundle: Path, trained: TrainedModel, report: EvaluationReport, document: Mapping[str, Any], card: str
    ) -> ModelVersion:
        with self._run(trained) as run_id:
            self._log(run_id, trained, report, document)
            self._log_search(run_id, bundle)
            uri = self._log_model(bundle, trained)
            if card:
                self._client.log_text(run_id, card, CARD)
        self._ensure_registered(trained.model)
        created = self._client.create_model_version(
            trained.model,
            source=uri,
            run_id=run_id,
            description=described(card),
            tags={IDENTITY: trained.identity.digest, DIGEST: bundle_digest(bundle), **_identity_tags(trained)},
            model_id=uri.removeprefix("models:/"),
        )
        return _version(created, ())

    @contextmanager
    def _run(self, trained: TrainedModel) -> Iterator[str]:
        """An MLflow run, active in this process, in the experiment of the model's name."""
        import mlflow

        self._become_mlflows_default()
        with mlflow.start_run(
            experiment_id=experiment(self._client, self.environment, trained.model),
            run_name=f"as-of-{trained.as_of:%Y-%m-%d}-{trained.identity.digest[:8]}",
        ) as run:
            yield run.info.run_id

    def _ensure_registered(self, model: str) -> None:
        if not self._client.search_registered_models(f"name = '{model}'"):
            self._client.create_registered_model(model)

    def _log(self, run_id: str, trained: TrainedModel, report: EvaluationReport, document: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        now = int(datetime.now(UTC).timestamp() * 1000)
        metrics = dict(_metrics(report))
        parameters = {"as_of": trained.as_of.isoformat(), "rows": trained.rows, "backend": trained.backend}
        parameters |= dict(_flat(document.get("spec", {})))
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in parameters.items()],
            tags=[RunTag(name, value) for name, value in _identity_tags(trained).items()],
        )
        rows = Dataset(
            name=f"{trained.model}-training-set",
            digest=trained.identity.data[:36],
            source_type="evergrow",
            source=f'{{"as_of": "{trained.as_of.isoformat()}", "data": "{trained.identity.data}"}}',
            profile=f'{{"num_rows": {trained.rows}}}',
        )
        self._client.log_inputs(run_id, [DatasetInput(rows, tags=[InputTag("mlflow.data.context", "training")])])

    def _log_search(self, run_id: str, bundle: Path) -> None:
        """A hyper-parameter search as nested runs, one a trial."""
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        experiment = self._client.get_run(run_id).info.experiment_id
        for trial in read_trials(bundle):
            run = self._client.create_run(
                experiment, run_name=f"trial-{trial.number}", tags={MLFLOW_PARENT_RUN_ID: run_id}
            ).info.run_id
            for name, value in trial.parameters.items():
                self._client.log_param(run, name, value)
            if trial.loss is not None:
                self._client.log_metric(run, "loss", trial.loss)
            self._client.set_terminated(run, "FINISHED" if trial.loss is not None else "FAILED")

    def _log_model(self, bundle: Path, trained: TrainedModel) -> str:
        import mlflow.pyfunc

        with tempfile.TemporaryDirectory() as scratch:
            # MLflow keeps the folder's name below data/; fetch looks for "bundle".
            copy = shutil.copytree(bundle, Path(scratch) / "bundle")
            info = mlflow.pyfunc.log_model(
                name="model",
                loader_module=LOADER,
                data_path=str(copy),
                # Given, not inferred: inference loads the model in another process, for CPU seconds.
                pip_requirements=list(trained.requirements),
                signature=_signature(trained),
            )
        return str(info.model_uri)

    def _judge(self, version: ModelVersion, report: EvaluationReport) -> None:
        name, number = version.model, str(version.version)
        self._client.set_model_version_tag(name, number, VERDICT, report.verdict.outcome)
        self._client.set_model_version_tag(name, number, JUDGED, report.champion)
        if CHAMPION not in version.aliases:
            self._client.set_registered_model_alias(name, CHALLENGER, number)


def described(card: str) -> str | None:
    """A model card as a version's description: whole, or its beginning and where the rest is; None if empty.

    >>> described("short"), len(described("long " * 2000)) <= DESCRIPTION
    ('short', True)
    """
    rest = "\n\n(The whole card is the run's artifact card.md.)"
    return (card if len(card) <= DESCRIPTION else card[: DESCRIPTION - len(rest)] + rest) or None


def _version(found: Any, aliases: Iterable[str]) -> ModelVersion:
    tags = dict(found.tags)
    return ModelVersion(
        model=found.name,
        version=int(found.version),
        identity=tags.get(IDENTITY, ""),
        model_digest=tags.get(DIGEST, ""),
        run_id=found.run_id or "",
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        aliases=tuple(aliases),
        tags=tags,
    )


def _evaluation_path(champion: str) -> str:
    return f"evaluation/against-{champion}"


def _identity_tags(trained: TrainedModel) -> dict[str, str]:
    return {f"identity.{part}": str(value) for part, value in trained.identity.model_dump().items()}


def _metrics(report: EvaluationReport) -> Iterator[tuple[str, float]]:
    for metric in report.metrics:
        yield metric.name, metric.value
        yield f"{metric.name}/low", metric.low
        yield f"{metric.name}/high", metric.high
    for metric in report.champion_metrics:
        yield f"champion/{metric.name}", metric.value
    if report.backward_transfer is not None:
        yield "backward_transfer", report.backward_transfer


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a document by their path; lists are leaves."""
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{path}.{key}" if path else str(key))


def _signature(trained: TrainedModel) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    kinds = {"numeric": "double", "categorical": "string"}
    inputs = [ColSpec(kinds[f.kind], f.name, required=False) for f in trained.features]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec("double", "score")]))
