"""Kubernetes: objects read, made and removed, whatever the API server's connection does in between."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from evergrow.errors import ClusterError, ConflictError, EvergrowError

# How long a server that does not answer is asked again: a control plane that restarts is back by then.
PATIENCE = 120.0
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Kind:
    """A kind of object, as its path in the API."""

    name: str
    plural: str
    version: str
    group: str = ""

    @property
    def api_version(self) -> str:
        """As objects give it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str) -> str:
        """Where its objects are."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}"


POD = Kind("Pod", "pods", "v1")
CONFIG_MAP = Kind("ConfigMap", "configmaps", "v1")
EVENT = Kind("Event", "events", "v1")
JOB = Kind("Job", "jobs", "v1", "batch")
CRON_JOB = Kind("CronJob", "cronjobs", "v1", "batch")
DEPLOYMENT = Kind("Deployment", "deployments", "v1", "apps")
LEASE = Kind("Lease", "leases", "v1", "coordination.k8s.io")
CONTINUAL_MODEL = Kind("ContinualModel", "continualmodels", "v1alpha1", "evergrow.dev")
MODEL_ROLLOUT = Kind("ModelRollout", "modelrollouts", "v1alpha1", "evergrow.dev")
INFERENCE_SERVICE = Kind("InferenceService", "inferenceservices", "v1beta1", "serving.kserve.io")
HTTP_ROUTE = Kind("HTTPRoute", "httproutes", "v1", "gateway.networking.k8s.io")

Object = Mapping[str, Any]


class Kubernetes:
    """One namespace of a cluster."""

    def __init__(self, client: Any, namespace: str, patience: float = PATIENCE) -> None:
        self.client = client
        self.namespace = namespace
        self.patience = patience

    @classmethod
    def open(cls, namespace: str | None = None, context: str | None = None, patience: float = PATIENCE) -> Self:
        """Connect from within a pod, else as kubectl does.

        Args:
            namespace: default: the pod's own.
            context: of the kubeconfig; default: its current one.
            patience: for how many seconds a server that does not answer is asked again.

        Raises:
            ClusterError: there is neither; or no namespace is given outside of a pod.
        """
        from kubernetes import client, config

        try:
            if _NAMESPACE_FILE.exists() and not os.environ.get("KUBECONFIG"):
                config.load_incluster_config()
                namespace = namespace or _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
            else:
                config.load_kube_config(context=context)
        except config.ConfigException as error:
            raise ClusterError(
                f"no Kubernetes cluster is configured: {error}",
                hint="set KUBECONFIG, or choose a context that `kubectl config get-contexts` lists",
            ) from error
        if namespace is None:
            raise ClusterError("no namespace is given", hint="give one, or an environment with --env")
        return cls(client.ApiClient(), namespace, patience)

    def get(self, kind: Kind, name: str) -> Object | None:
        """An object; None if there is none."""
        found: Object | None = self._call("GET", f"{kind.path(self.namespace)}/{name}", absent_is_none=True)
        return found

    def search(self, kind: Kind, labels: Mapping[str, str] | None = None) -> list[Object]:
        """All objects of a kind with these labels."""
        return self.listed(kind, labels)[0]

    def listed(self, kind: Kind, labels: Mapping[str, str] | None = None) -> tuple[list[Object], str]:
        """All objects of a kind with these labels, and the revision that all of them are of."""
        selector = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        found = self._call("GET", kind.path(self.namespace), query=[("labelSelector", selector)] if selector else [])
        return list(found.get("items", [])), str(found.get("metadata", {}).get("resourceVersion", ""))

    def create(self, kind: Kind, body: Object) -> Object | None:
        """Make an object; None if one of its name exists already."""
        made: Object | None = self._call("POST", kind.path(self.namespace), _whole(kind, body), exists_is_none=True)
        return made

    def apply(self, kind: Kind, body: Object) -> Object:
        """Make an object what `body` says of it: server-side apply, as the field manager `evergrow`."""
        name = body["metadata"]["name"]
        applied = self._call(
            "PATCH",
            f"{kind.path(self.namespace)}/{name}",
            _whole(kind, body),
            query=[("fieldManager", "evergrow"), ("force", "true")],
            content_type="application/apply-patch+yaml",
        )
        return applied or {}

    def patch(self, kind: Kind, name: str, changes: Object | Sequence[Object], part: str = "") -> Object | None:
        """Change an object; returns what it is then, None if there is none.

        Args:
            kind: of the object.
            name: its name.
            changes: what is different (JSON merge patch, RFC 7396) or operations (JSON patch, RFC 6902). With a
                `metadata.resourceVersion` they are of the object as it was read.
            part: "status" where that is a part of its own; empty for all but that.

        Raises:
            ConflictError: it has changed since it was read, or a `test` among the operations failed.
        """
        form = "merge-patch" if isinstance(changes, Mapping) else "json-patch"
        path = f"{kind.path(self.namespace)}/{name}" + (f"/{part}" if part else "")
        changed: Object | None = self._call(
            "PATCH", path, changes, content_type=f"application/{form}+json", absent_is_none=True
        )
        return changed

    def replace(self, kind: Kind, body: Object) -> Object | None:
        """Put an object in place of the one that was read; returns what it is then, None if there is none any more.

        Raises:
            ConflictError: it has changed since.
        """
        path = f"{kind.path(self.namespace)}/{body['metadata']['name']}"
        replaced: Object | None = self._call("PUT", path, _whole(kind, body), absent_is_none=True)
        return replaced

    def delete(self, kind: Kind, name: str) -> None:
        """Remove an object and what it owns; one that is not there is removed already."""
        options = {"propagationPolicy": "Background"}
        self._call("DELETE", f"{kind.path(self.namespace)}/{name}", options, absent_is_none=True)

    def log(self, pod: str, container: str | None = None) -> str:
        """What a pod has said so far; nothing if it has not begun or is gone."""
        query = [("container", container)] if container else []
        text = self._call("GET", f"{POD.path(self.namespace)}/{pod}/log", query=query, text=True, absent_is_none=True)
        return text or ""

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: list[tuple[str, str]] | None = None,
        content_type: str = "application/json",
        text: bool = False,
        absent_is_none: bool = False,
        exists_is_none: bool = False,
    ) -> Any:
        from kubernetes.client import ApiException

        def answer() -> bytes:  # all of it: a connection may be lost in the middle
            response = self.client.call_api(
                path,
                method,
                query_params=query or [],
                header_params={"Content-Type": content_type, "Accept": "*/*" if text else "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=(5, 30),
            )
            data: bytes = response.data
            return data

        try:
            raw = patiently(answer, self.patience)
        except ApiException as error:
            # A log that is asked for before the container runs is refused as a bad request.
            if (absent_is_none and error.status == 404) or (text and error.status == 400):
                return None
            if exists_is_none and error.status == 409 and _reason(error) == "AlreadyExists":
                return None
            raise _translated(error, method, path) from error
        return raw.decode(errors="replace") if text else json.loads(raw)


def owners(model: Object | None) -> list[dict[str, Any]]:
    """The owner references of what goes with a ContinualModel; none if there is none."""
    if model is None:
        return []
    metadata = model["metadata"]
    return [
        {
            "apiVersion": CONTINUAL_MODEL.api_version,
            "kind": CONTINUAL_MODEL.name,
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
    ]


def patiently(request: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Ask again while the server does not answer or says that it is not ready.

    Raises:
        ClusterError: it did not answer for `patience` seconds.
    """
    import urllib3.exceptions
    from kubernetes.client import ApiException

    end, pause = time.monotonic() + patience, 0.2
    while True:
        try:
            return request()
        except ApiException as error:
            if error.status not in (429, 500, 502, 503, 504) or time.monotonic() > end:
                raise
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if time.monotonic() > end:
                raise ClusterError(
                    f"the Kubernetes API server does not answer: {error}",
                    hint="is the cluster up? `kubectl get nodes`",
                    retriable=True,
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def _whole(kind: Kind, body: Object) -> dict[str, Any]:
    return {"apiVersion": kind.api_version, "kind": kind.name, **body}


def _reason(error: Any) -> str:
    return str(_status(error).get("reason", ""))


def _status(error: Any) -> Mapping[str, Any]:
    try:
        read = json.loads(error.body)
    except (TypeError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _translated(error: Any, method: str, path: str) -> EvergrowError:
    message = f"{method} {path}: {_status(error).get('message') or error.reason}"
    if method in ("PUT", "PATCH") and (error.status == 409 or _is_failed_test(error)):
        return ConflictError(message, hint="it is read again and tried again", retriable=True)
    hints = {
        401: "log in to the cluster again: its token or certificate is no longer valid",
        403: "the user or service account lacks this right, or a quota is used up: the message says which",
        404: "the namespace or the kind of object does not exist: is the environment installed?",
        422: "the object is not valid: the message says which field",
    }
    return ClusterError(message, hint=hints.get(error.status, ""))


def _is_failed_test(error: Any) -> bool:
    """A `test` of a JSON patch that fails is told as an object that is not valid, but without a field."""
    causes = (_status(error).get("details") or {}).get("causes") or []
    return error.status == 422 and not any(cause.get("field") for cause in causes)
