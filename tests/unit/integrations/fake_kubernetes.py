"""A stand-in of the Kubernetes API: objects in namespaces, pods' logs, and a Service that is reached through it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evergrow.integrations.kubernetes import Kind
from tests.unit.integrations.fake_http import FakeServer, Refusal

PATH = re.compile(r"^/(?:api|apis/[^/]+)/[^/]+/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)(?:/(?P<rest>.*))?$")
PROXY = re.compile(r"^/api/v1/namespaces/(?P<namespace>[^/]+)/services/ml-pipeline:http/proxy(?P<path>/.*)$")


class FakeKubernetes(FakeServer):
    """Objects are put and logs set by tests.

    Attributes:
        forbidden: plurals ("pods", "pods/log", ...) that nobody may read.
        services: stand-ins that answer as the Service `ml-pipeline` of a namespace.
    """

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.logs: dict[tuple[str, str], str] = {}
        self.forbidden: set[str] = set()
        self.services: dict[str, FakeServer] = {}

    def put(self, kind: Kind, body: Mapping[str, Any], namespace: str | None = None) -> None:
        """Let an object be there."""
        namespace = namespace or body["metadata"].get("namespace", "default")
        self.objects[namespace, kind.plural, body["metadata"]["name"]] = dict(body)

    def kubeconfig(self, path: Path) -> Path:
        """Write one whose current context is this."""
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "fake",
                    "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                    "users": [{"name": "ada", "user": {"token": "adas"}}],
                    "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "ada"}}],
                }
            )
        )
        return path

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: dict[str, str]) -> Any:
        if proxied := PROXY.match(path):
            return self._through(proxied, method, query, body, headers)
        found = PATH.match(path)
        if not found or method != "GET":
            raise _status(404, "NotFound", f"the server could not find {method} {path}")
        namespace, plural, rest = found["namespace"], found["plural"], found["rest"]
        name, _, part = (rest or "").partition("/")
        if (f"{plural}/{part}" if part else plural) in self.forbidden:
            raise _status(403, "Forbidden", f'{plural} is forbidden: User "ada" cannot list resource "{plural}"')
        if part == "log":
            return self._log(namespace, name)
        if name:
            return self._object(namespace, plural, name)
        return {"kind": "List", "items": self._search(namespace, plural, query.get("labelSelector", ""))}

    def _through(self, found: re.Match[str], method: str, query: dict[str, str], body: Any, headers: Any) -> Any:
        """As the real proxy: credentials end here, and a path that begins with two slashes is no path of Kubeflow's."""
        service = self.services.get(found["namespace"])
        if service is None:
            raise _status(404, "NotFound", 'services "ml-pipeline" not found')
        if found["path"].startswith("//"):
            raise Refusal(301, "")
        kept = {key: value for key, value in headers.items() if key.lower() != "authorization"}
        return service.answer(method, found["path"], query, body, kept)

    def _object(self, namespace: str, plural: str, name: str) -> dict[str, Any]:
        found = self.objects.get((namespace, plural, name))
        if found is None:
            raise _status(404, "NotFound", f'{plural} "{name}" not found')
        return found

    def _search(self, namespace: str, plural: str, selector: str) -> list[dict[str, Any]]:
        wanted = dict(part.split("=") for part in selector.split(",") if part).items()
        of_kind = [o for (n, p, _), o in self.objects.items() if (n, p) == (namespace, plural)]
        return [o for o in of_kind if wanted <= o["metadata"].get("labels", {}).items()]

    def _log(self, namespace: str, pod: str) -> str:
        if (namespace, pod) not in self.logs:
            raise _status(404, "NotFound", f'pods "{pod}" not found')
        return self.logs[namespace, pod]


def _status(code: int, reason: str, message: str) -> Refusal:
    return Refusal(code, {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code})


OBJECTS: Mapping[str, Mapping[str, Any]] = json.loads(
    (Path(__file__).parent / "kubernetes_objects.json").read_text(encoding="utf-8")
)
"""Objects as a real cluster gave them, each with something wrong but for `fine` and `predictor-v2`."""
