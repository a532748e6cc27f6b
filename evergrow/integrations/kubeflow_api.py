"""The API of Kubeflow Pipelines: how it is reached, and what its refusals mean."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from evergrow.errors import ClusterError, SpecError
from evergrow.spec.environment import EnvironmentSpec

TIMEOUT = (5, 60)
"""Seconds to connect, and to answer."""
ENDPOINT = "KF_PIPELINES_ENDPOINT"
"""KFP's own variable for its endpoint."""
TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
"""Where a pod has the token that is meant for KFP, if its service account is given one."""
SERVICE = r"^(?P<service>[a-z0-9-]+)\.(?P<namespace>[a-z0-9-]+)(\.svc(\.cluster\.local)?)?$"


class Unreachable(ClusterError):
    """Kubeflow Pipelines does not answer, or says that it cannot just now: asking again may help."""


@dataclass(frozen=True)
class Access:
    """How to reach Kubeflow Pipelines, where it is not what the environment says.

    Attributes:
        endpoint: its base URL. Default: KF_PIPELINES_ENDPOINT; within a cluster the environment's; else through the
            Kubernetes API server, with what `kubectl` has of credentials.
        token_file: holds a bearer token; read again for each request, so that it may be renewed.
        ca_cert: certificates that its TLS certificate may be signed with.
        verify: whether its TLS certificate is checked.
        context: of the kubeconfig.
    """

    endpoint: str | None = None
    token_file: Path | None = None
    ca_cert: Path | None = None
    verify: bool = True
    context: str | None = None


@dataclass(frozen=True)
class Way:
    """How Kubeflow Pipelines is reached, for what is said of it.

    Attributes:
        name: in messages.
        base: of links, if the environment names no user interface.
        hints: by HTTP status; 0 where nobody answers.
    """

    name: str
    base: str
    hints: Mapping[int, str]


class Kubeflow:
    """A connection."""

    def __init__(self, client: Any, place: EnvironmentSpec, way: Way) -> None:
        self.client = client
        self.place = place
        self.way = way

    @property
    def namespace(self) -> str:
        """Where its runs' pods are. A multi-user installation keeps runs by it, any other does not look."""
        return self.place.execution.pipelines.kubeflow.namespace

    def link(self, run_id: str) -> str:
        """Where people see a run."""
        base = self.place.execution.pipelines.kubeflow.ui or self.way.base
        return f"{base.rstrip('/')}/#/runs/details/{run_id}"

    def call(self, request: Callable[..., Any], **given: Any) -> Any:
        """Make a request of kfp_server_api.

        Raises:
            Unreachable: nobody answers.
            ClusterError: it was refused.
        """
        with translated(self.way):
            return request(**given, _request_timeout=TIMEOUT)

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is made if there is none."""
        api = self.client.experiments
        found = self.call(
            api.experiment_service_list_experiments, namespace=self.namespace, filter=where(display_name=name)
        )
        if found.experiments:
            return str(found.experiments[0].experiment_id)
        body = self.client.api_models.V2beta1Experiment(display_name=name, namespace=self.namespace)
        return str(self.call(api.experiment_service_create_experiment, experiment=body).experiment_id)


def connect(place: EnvironmentSpec, access: Access) -> Kubeflow:
    """Connect to the Kubeflow Pipelines of an environment, and see that it is there.

    Raises:
        ClusterError: it is not.
    """
    endpoint = access.endpoint or os.environ.get(ENDPOINT) or _within_cluster(place)
    if access.token_file and not endpoint:
        raise SpecError(
            "--token-file: needs --endpoint: through the Kubernetes API server, Kubernetes' own credentials count",
            hint="such as --endpoint https://kubeflow.example.com/pipeline",
        )
    way = _way(place, endpoint)
    with translated(way):
        client = _client(place, access, endpoint)
        health = client.healthzs.healthz_service_get_healthz(_request_timeout=TIMEOUT)
    if health.multi_user is None:
        raise ClusterError(
            f"{way.name}: answers, but not as Kubeflow Pipelines does: perhaps that is a login page",
            hint=way.hints[401],
        )
    return Kubeflow(client, place, way)


def _within_cluster(place: EnvironmentSpec) -> str | None:
    """The environment's endpoint where it can be reached: in a pod, or if it is no Service's name."""
    endpoint = place.execution.pipelines.kubeflow.endpoint
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    return endpoint if in_pod or not re.match(SERVICE, urlsplit(endpoint).hostname or "") else None


def _api_namespace(place: EnvironmentSpec) -> str:
    """Where the API server is: by its name, for runs' pods may be elsewhere."""
    pipelines = place.execution.pipelines.kubeflow
    found = re.match(SERVICE, urlsplit(pipelines.endpoint).hostname or "")
    return found["namespace"] if found else pipelines.namespace


def _client(place: EnvironmentSpec, access: Access, endpoint: str | None) -> Any:
    import kfp

    class Client(kfp.Client):  # type: ignore[misc]  # KFP has no types
        def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
            """Not while it is made: KFP asks five times, five seconds apart, and logs tracebacks."""
            return SimpleNamespace(multi_user=False)

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        client = Client(
            host=endpoint,
            namespace=_api_namespace(place),
            credentials=_credentials(access),
            ssl_ca_cert=str(access.ca_cert) if access.ca_cert else None,
            verify_ssl=None if access.verify else False,
            kube_context=access.context,
        )
    _hold_host(client._existing_config)
    return client


def _hold_host(config: Any) -> None:
    """Keep a client's requests on their way through the Kubernetes API server.

    KFP's path there ends in a slash and its requests begin with one: two of them are answered with a redirect, which
    loses what is posted. And where kubectl has a token, renewing it puts the server's bare address in the path's place.
    """
    host, renew = config.host.rstrip("/"), config.refresh_api_key_hook

    def refresh(config: Any) -> None:
        renew(config)
        config.host, config.refresh_api_key_hook = host, refresh

    config.host = host
    if renew is not None:
        config.refresh_api_key_hook = refresh


def _credentials(access: Access) -> Any:
    from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

    path = access.token_file or (TOKEN if TOKEN.exists() else None)
    for option, file in (("--token-file", access.token_file), ("--ca-cert", access.ca_cert)):
        if file is not None and not file.is_file():
            raise SpecError(f"{option}: {file} does not exist")
    if path is None:
        return None
    return ServiceAccountTokenVolumeCredentials(str(path))


def where(**equal: str) -> str:
    """KFP's filter: each of these fields has that value.

    >>> where(display_name="training")
    '{"predicates": [{"key": "display_name", "operation": "EQUALS", "string_value": "training"}]}'
    """
    return _filter("EQUALS", equal)


def containing(**parts: str) -> str:
    """KFP's filter: each of these fields contains that text."""
    return _filter("IS_SUBSTRING", parts)


def _filter(operation: str, fields: Mapping[str, str]) -> str:
    predicates = [{"key": key, "operation": operation, "string_value": value} for key, value in fields.items()]
    return json.dumps({"predicates": predicates})


@contextlib.contextmanager
def translated(way: Way) -> Iterator[None]:
    """Every error of kfp, kfp_server_api and urllib3 becomes one of ours, which says what to do.

    Raises:
        Unreachable: nobody answers, or not now.
        ClusterError: the request was refused, or the answer not understood.
    """
    import kfp_server_api
    import urllib3.exceptions

    hints = way.hints
    try:
        yield
    except kfp_server_api.ApiException as error:
        kind = Unreachable if error.status in (None, 0, 429, 502, 503, 504) else ClusterError
        hint = hints.get(error.status or 0, hints[0] if kind is Unreachable else "")
        raise kind(f"{way.name}: {error.status}: {_message(error)}", hint=hint) from error
    except kfp_server_api.OpenApiException as error:
        raise ClusterError(f"{way.name}: its answer is not understood: {error}") from error
    except (urllib3.exceptions.HTTPError, urllib3.exceptions.ProxySchemeUnsupported, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, urllib3.exceptions.SSLError):
            raise ClusterError(f"{way.name}: its TLS certificate is not trusted: {reason}", hint=CERTIFICATE) from error
        raise Unreachable(f"{way.name}: does not answer: {_first(error)}", hint=hints[0]) from error


CERTIFICATE = "give the certificate of the authority that signed it: --ca-cert FILE"


def _way(place: EnvironmentSpec, endpoint: str | None) -> Way:
    namespace, kubeflow = _api_namespace(place), place.execution.pipelines.kubeflow
    # Not the API server itself: the user interface hands requests on to it, and links open.
    forward = f"kubectl --namespace {namespace} port-forward svc/ml-pipeline-ui 8888:80"
    hints = {
        0: f"is it running? kubectl --namespace {namespace} get pods\n"
        f"from outside of the cluster: {forward}, and then --endpoint http://localhost:8888",
    }
    if endpoint:
        token = (
            "give a token: --token-file FILE; of a service account: kubectl create token NAME "
            f"--namespace {kubeflow.namespace} --audience pipelines.kubeflow.org > FILE"
        )
        there = "is that the address of Kubeflow Pipelines 2, without /apis? A run may have been deleted, too"
        return Way(endpoint, endpoint, {**hints, 401: token, 403: token, 404: there})
    allowed = (
        f"your user of the cluster needs the rights get, create and delete on services/proxy in {namespace}; "
        f"or: {forward}, and then --endpoint http://localhost:8888"
    )
    there = (
        f"is it installed? kubectl --namespace {namespace} get services ml-pipeline. A run may have been deleted, too"
    )
    name = f"Kubeflow Pipelines in namespace {namespace}"
    return Way(name, f"http://ml-pipeline-ui.{namespace}", {**hints, 401: allowed, 403: allowed, 404: there})


def _message(error: Any) -> str:
    try:
        told = json.loads(error.body)
        return _first(told.get("message") or told.get("error") or error.reason)
    except (TypeError, ValueError, AttributeError):
        return str(error.reason or error)


def _first(text: object) -> str:
    return (str(text).splitlines() or [""])[0]
