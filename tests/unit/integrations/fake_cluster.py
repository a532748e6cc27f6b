"""A stand-in of an API server that writes, too: revisions, generations, statuses, finalizers, owners and watches.

What it does is what a real one does as far as `Kubernetes`, kopf and the operator use it. Controllers of others
(KServe, a gateway) are played by tests, which `put` what these would write.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonpatch
import yaml
from kubernetes.client import ApiException

from evergrow.integrations.kubernetes import (
    CONFIG_MAP,
    CONTINUAL_MODEL,
    DEPLOYMENT,
    EVENT,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    LEASE,
    MODEL_ROLLOUT,
    POD,
    Kind,
    Kubernetes,
)

KINDS = (CONTINUAL_MODEL, MODEL_ROLLOUT, INFERENCE_SERVICE, HTTP_ROUTE, DEPLOYMENT, POD, EVENT, LEASE, CONFIG_MAP)
NAMESPACE = Kind("Namespace", "namespaces", "v1")
WITH_STATUS = frozenset({CONTINUAL_MODEL.plural, MODEL_ROLLOUT.plural, INFERENCE_SERVICE.plural, HTTP_ROUTE.plural})
PATH = re.compile(
    r"^/(?:api|apis/[^/]+)/[^/]+/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<part>\w+))?$"
)
Object = dict[str, Any]


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str, causes: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
        self.body["details"] = {"causes": [*causes]}


class FakeCluster:
    """One namespace. Used as a context manager it listens on a free port.

    Attributes:
        asked: methods and paths of all requests, those of watches as WATCH.
        is_away: connections are closed without an answer.
        seconds: of the clock that objects are made by, moved by tests.
    """

    def __init__(self, namespace: str = "evergrow-dev") -> None:
        self.namespace = namespace
        self.objects: dict[tuple[str, str], Object] = {}
        self.asked: list[tuple[str, str]] = []
        self.is_away = False
        self.seconds = 0
        self._revisions = itertools.count(1)
        self._revision = 0
        self._events: list[tuple[int, str, str, Object]] = []
        self._changed = threading.Condition(threading.RLock())
        self._server: ThreadingHTTPServer | None = None

    # -- as tests use it --

    def __enter__(self) -> FakeCluster:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cluster": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        assert self._server is not None
        self.is_away = True
        with self._changed:
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def kubernetes(self) -> Kubernetes:
        """A client of it, without a network between."""
        return Kubernetes(_Client(self), self.namespace, patience=0)

    def kubeconfig(self, path: Path) -> Path:
        """Write one whose current context is this."""
        about = {
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "ada", "user": {"token": "adas"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "ada"}}],
        }
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "fake", **about}))
        return path

    def put(self, kind: Kind, body: Mapping[str, Any]) -> Object:
        """Have an object be so, status and all, whatever was there."""
        with self._changed:
            before = self.objects.get((kind.plural, body["metadata"]["name"]))
            made = self._born(kind, copy.deepcopy(dict(body)))
            if before is not None:
                kept = {key: before["metadata"][key] for key in ("uid", "creationTimestamp", "generation")}
                made["metadata"] |= kept
            return self._stored(kind.plural, made, "ADDED" if before is None else "MODIFIED")

    def get(self, kind: Kind, name: str) -> Object | None:
        """An object as it is."""
        with self._changed:
            return copy.deepcopy(self.objects.get((kind.plural, name)))

    def all(self, kind: Kind) -> list[Object]:
        """All objects of a kind."""
        with self._changed:
            return [copy.deepcopy(o) for (plural, _), o in self.objects.items() if plural == kind.plural]

    def remove(self, kind: Kind, name: str) -> None:
        """Delete an object, as `kubectl delete` does."""
        self._delete(kind.plural, name)

    def lose(self, kind: Kind, name: str) -> None:
        """Have an object be gone without any watch being told."""
        with self._changed:
            self.objects.pop((kind.plural, name))
            self._revision = next(self._revisions)

    # -- as clients see it --

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any, form: str) -> Any:
        if method == "GET" and (found := discovery(path)) is not None:
            return found
        at = PATH.match(path)
        if not at or at["namespace"] != self.namespace or at["plural"] not in {kind.plural for kind in KINDS}:
            raise Refused(404, "NotFound", f"the server could not find {method} {path}")
        plural, name, part = at["plural"], at["name"], at["part"] or ""
        kind = next(kind for kind in KINDS if kind.plural == plural)
        with self._changed:
            if method == "GET":
                return self._one(plural, name) if name else self._list(kind, query.get("labelSelector", ""))
            if method == "POST":
                return self._create(kind, body)
            if method == "DELETE":
                return self._delete(plural, name)
            if method == "PUT":
                return self._update(plural, name, body, part)
            return self._patch(kind, name, body, part, form)

    def events(self, plural: str, since: int, selector: str) -> Iterator[Object | None]:
        """Events of a watch; None where nothing happened for a while."""
        at, wanted = since, _wanted(selector)
        while not self.is_away:
            with self._changed:
                news = [e for e in self._events if e[0] > at and e[1] == plural]
                if not news:
                    self._changed.wait(0.2)
            for revision, _, happened, found in news:
                at = revision
                if wanted <= found["metadata"].get("labels", {}).items():
                    yield {"type": happened, "object": found}
            if not news:
                yield None

    def _one(self, plural: str, name: str) -> Object:
        found = self.objects.get((plural, name))
        if found is None:
            raise Refused(404, "NotFound", f'{plural} "{name}" not found')
        return copy.deepcopy(found)

    def _list(self, kind: Kind, selector: str) -> Object:
        wanted = _wanted(selector)
        items = [o for (plural, _), o in self.objects.items() if plural == kind.plural]
        items = [copy.deepcopy(o) for o in items if wanted <= o["metadata"].get("labels", {}).items()]
        about = {"kind": f"{kind.name}List", "apiVersion": kind.api_version}
        return {**about, "metadata": {"resourceVersion": str(self._revision)}, "items": items}

    def _create(self, kind: Kind, body: Object) -> Object:
        name = body["metadata"]["name"]
        if (kind.plural, name) in self.objects:
            raise Refused(409, "AlreadyExists", f'{kind.plural} "{name}" already exists')
        made = self._born(kind, copy.deepcopy(body))
        if kind.plural in WITH_STATUS:
            made.pop("status", None)
        return self._stored(kind.plural, made, "ADDED")

    def _born(self, kind: Kind, body: Object) -> Object:
        at = f"2026-01-01T{self.seconds // 3600:02d}:{self.seconds // 60 % 60:02d}:{self.seconds % 60:02d}Z"
        metadata = {"creationTimestamp": at, **body["metadata"]}
        metadata |= {"uid": str(uuid.uuid4()), "generation": 1, "namespace": self.namespace}
        metadata["managedFields"] = [{"manager": "test"}]
        return {"apiVersion": kind.api_version, "kind": kind.name, **body, "metadata": metadata}

    def _stored(self, plural: str, found: Object, happened: str) -> Object:
        with self._changed:
            self._revision = next(self._revisions)
            found["metadata"]["resourceVersion"] = str(self._revision)
            name = found["metadata"]["name"]
            gone = "deletionTimestamp" in found["metadata"] and not found["metadata"].get("finalizers")
            if gone or happened == "DELETED":
                happened = "DELETED"
                self.objects.pop((plural, name), None)
            else:
                self.objects[plural, name] = found
            self._events.append((self._revision, plural, happened, copy.deepcopy(found)))
            self._changed.notify_all()
            if happened == "DELETED":
                self._collect(found["metadata"]["uid"])
            return copy.deepcopy(found)

    def _collect(self, uid: str) -> None:
        """What belonged to one that is gone goes, too."""
        for (plural, name), found in list(self.objects.items()):
            if uid in {owner["uid"] for owner in found["metadata"].get("ownerReferences", [])}:
                self._delete(plural, name)

    def _delete(self, plural: str, name: str) -> Object:
        with self._changed:
            found = self._one(plural, name)
            if not found["metadata"].get("finalizers"):
                return self._stored(plural, found, "DELETED")
            if "deletionTimestamp" not in found["metadata"]:
                found["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
                found["metadata"]["generation"] += 1
                return self._stored(plural, found, "MODIFIED")
            return found

    def _update(self, plural: str, name: str, body: Object, part: str) -> Object:
        before = self._one(plural, name)
        revision = body["metadata"].get("resourceVersion", before["metadata"]["resourceVersion"])
        if revision != before["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", f'Operation cannot be fulfilled on {plural} "{name}": it has been modified')
        after = copy.deepcopy(before)
        if part == "status":
            after["status"] = body.get("status", {})
        else:
            after = copy.deepcopy(dict(body))
            if plural in WITH_STATUS:
                after.pop("status", None)
                after |= {"status": before["status"]} if "status" in before else {}
            own = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "managedFields", "namespace")
            after["metadata"] |= {key: before["metadata"][key] for key in own if key in before["metadata"]}
            if after.get("spec") != before.get("spec"):
                after["metadata"]["generation"] += 1
        after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
        _without_nulls(after.get("status"))
        return before if after == before else self._stored(plural, after, "MODIFIED")

    def _patch(self, kind: Kind, name: str, body: Any, part: str, form: str) -> Object:
        plural = kind.plural
        if form == "application/apply-patch+yaml":
            if (plural, name) not in self.objects:
                return self._create(kind, body)
            before = self._one(plural, name)
            return self._update(plural, name, {**before, **_merged(before, body), "spec": body["spec"]}, part)
        before = self._one(plural, name)
        if form == "application/json-patch+json":
            try:
                after = jsonpatch.apply_patch(before, body)
            except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
                told = "the server rejected our request due to an error in our request"
                raise Refused(422, "Invalid", told) from error
        else:
            after = _merged(before, body)
        return self._update(plural, name, after, part)


class _Client:
    """What `Kubernetes` has of the real client."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster

    def call_api(self, path: str, method: str, **given: Any) -> Any:
        if self.cluster.is_away:
            raise ConnectionRefusedError("nobody listens")
        self.cluster.asked.append((method, path))
        body, form = json.loads(json.dumps(given["body"])), given["header_params"]["Content-Type"]
        try:
            answer = self.cluster.answer(method, path, dict(given["query_params"]), body, form)
        except Refused as refused:
            error = ApiException(status=refused.code, reason=refused.body["reason"])
            error.body = json.dumps(refused.body)
            raise error from None
        return SimpleNamespace(data=json.dumps(answer).encode())


def discovery(path: str) -> Object | None:
    """What the server says that it has."""
    versions = {(kind.group, kind.version) for kind in KINDS}
    if path == "/api":
        return {"versions": ["v1"]}
    if path == "/apis":
        groups = sorted((group, version) for group, version in versions if group)
        return {
            "groups": [
                {
                    "name": group,
                    "preferredVersion": {"version": version},
                    "versions": [{"version": version, "groupVersion": f"{group}/{version}"}],
                }
                for group, version in groups
            ]
        }
    for group, version in versions:
        if path == (f"/apis/{group}/{version}" if group else f"/api/{version}"):
            kinds = [kind for kind in (*KINDS, NAMESPACE) if (kind.group, kind.version) == (group, version)]
            return {"resources": [_resource(kind) for kind in kinds]}
    return None


def _resource(kind: Kind) -> Object:
    verbs = ["get", "list", "watch", "create", "update", "patch", "delete"]
    return {
        "name": kind.plural,
        "singularName": kind.name.lower(),
        "namespaced": kind != NAMESPACE,
        "kind": kind.name,
        "verbs": verbs,
    }


def _wanted(selector: str) -> Any:
    return dict(part.split("=") for part in selector.split(",") if part).items()


def _merged(base: Any, over: Any) -> Any:
    """RFC 7396."""
    if not isinstance(over, Mapping):
        return copy.deepcopy(over)
    merged = dict(base) if isinstance(base, Mapping) else {}
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _without_nulls(value: Any) -> None:
    if isinstance(value, dict):
        for key in [key for key, found in value.items() if found is None]:
            del value[key]
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _without_nulls(below)


class _Handler(BaseHTTPRequestHandler):
    cluster: FakeCluster
    protocol_version = "HTTP/1.1"

    def _do(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if self.cluster.is_away:
            self.close_connection = True
            return
        is_watch = query.get("watch") == "true"
        self.cluster.asked.append(("WATCH" if is_watch else self.command, url.path))
        if is_watch:
            self._watch(url.path, query)
            return
        try:
            code, answer = 200, self.cluster.answer(self.command, url.path, query, body, self.headers["Content-Type"])
        except Refused as refused:
            code, answer = refused.code, refused.body
        sent = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def _watch(self, path: str, query: Mapping[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        plural = path.rpartition("/")[2]
        with suppress(OSError):
            for event in self.cluster.events(
                plural, int(query.get("resourceVersion", 0)), query.get("labelSelector", "")
            ):
                if event is not None:
                    self.wfile.write(json.dumps(event).encode() + b"\n")
                    self.wfile.flush()

    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def do_PUT(self) -> None:
        self._do()

    def do_PATCH(self) -> None:
        self._do()

    def do_DELETE(self) -> None:
        self._do()

    def log_message(self, format: str, *args: Any) -> None:
        pass
