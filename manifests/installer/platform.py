"""The platform: manifests are applied, and waited for, by what is in them."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from manifests.installer.cluster import ROOT, Apply, Run
from manifests.installer.commands import Commands
from manifests.installer.errors import InstallError
from manifests.installer.steps import Step

# Fetching a repository of upstream's and pulling its images take most of the time.
FETCH_SECONDS = 1200.0
READY_SECONDS = 900
LIMIT = f"--timeout={READY_SECONDS}s"
# A webhook answers some seconds after its pods are ready.
ADMISSION_SECONDS = 120.0
PAUSE_SECONDS = 3.0
# What other objects are in, or of.
FIRST = ("Namespace", "CustomResourceDefinition")
# What is waited for beside workloads, and until when.
CONDITIONS = {"CustomResourceDefinition": "Established", "Gateway": "Programmed", "APIService": "Available"}
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
# PyYAML's own parser takes a minute for KServe's definitions.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Document:
    """One object, and its text as it was written: what is read and written again may not be the same."""

    content: dict[str, Any]
    text: str

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.content["kind"])

    def named(self) -> list[str]:
        """The arguments that kubectl knows it by."""
        group, slash, _ = self.content["apiVersion"].partition("/")
        name = f"{self.kind.lower()}{'.' + group if slash else ''}/{self.content['metadata']['name']}"
        namespace = self.content["metadata"].get("namespace")
        return [name, *(["--namespace", namespace] if namespace else [])]


def step(part: Apply | Run, commands: Commands) -> Step:
    """The step of one part of the platform."""
    if isinstance(part, Run):
        command = part.run
        return Step(
            f"platform: {Path(command).name}",
            f"the command ends, at most {FETCH_SECONDS / 60:.0f} minutes",
            lambda: commands.run(command, FETCH_SECONDS),
            "see what the command says",
        )
    path = part.apply
    return Step(
        f"platform: {path.removeprefix('manifests/')}",
        f"what is applied is ready, at most {READY_SECONDS // 60} minutes",
        lambda: apply(path, commands),
        "see `kubectl get pods --all-namespaces`, and of a pod that does not run `kubectl describe`",
    )


def apply(path: str, commands: Commands) -> None:
    """Apply a kustomization or a file, definitions first, and wait until it is ready.

    Raises:
        InstallError: it cannot be fetched, is refused, or is not ready in time.
    """
    documents = list(read(render(path, commands)))
    first = [each for each in documents if each.kind in FIRST]
    submit(first, commands)
    wait(first, commands)
    rest = [each for each in documents if each.kind not in FIRST]
    submit(rest, commands)
    wait(rest, commands)


def render(path: str, commands: Commands) -> str:
    """The text of a kustomization, with what it fetches; or of a file."""
    if (ROOT / path).is_dir():
        return commands.ask(["kubectl", "kustomize", path], FETCH_SECONDS)
    return (ROOT / path).read_text(encoding="utf-8")


def read(text: str) -> Iterable[Document]:
    """The documents of a text of YAML."""
    for part in re.split(r"^---\s*$", text, flags=re.MULTILINE):
        content = yaml.load(part, _LOADER)  # noqa: S506 - a safe loader, in C where that is there
        if content:
            yield Document(content, part)


def submit(documents: Sequence[Document], commands: Commands) -> None:
    """Apply documents, and again while a webhook that was just installed does not answer yet.

    On the server's side, for KServe's definitions are larger than what kubectl can note beside an object. What others
    hold of an object, such as a webhook's certificate, stays theirs; where both say something, these manifests win.
    """
    if documents:
        command = ["kubectl", "apply", "--server-side", "--force-conflicts", "--field-manager=evergrow-installer"]
        text = "---\n".join(each.text.strip("\n") + "\n" for each in documents)
        patiently(lambda: commands.run([*command, "--filename=-"], FETCH_SECONDS, text))


def wait(documents: Sequence[Document], commands: Commands) -> None:
    """Wait until definitions are known, workloads run, Gateways have an address and APIs answer.

    Raises:
        InstallError: something is not ready in time.
    """
    for each in documents:
        if each.kind in WORKLOADS:
            commands.run(["kubectl", "rollout", "status", *each.named(), LIMIT], READY_SECONDS + 30)
        if each.kind in CONDITIONS:
            # An object that has no conditions at all yet is an error to kubectl.
            patiently(functools.partial(_wait_for, CONDITIONS[each.kind], each, commands))


def _wait_for(condition: str, document: Document, commands: Commands) -> None:
    commands.run(["kubectl", "wait", f"--for=condition={condition}", *document.named(), LIMIT], READY_SECONDS + 30)


def patiently(action: Callable[[], None], seconds: float | None = None) -> None:
    """Try until it succeeds, or time is up: the last error is raised then."""
    end = time.monotonic() + (ADMISSION_SECONDS if seconds is None else seconds)
    while True:
        try:
            return action()
        except InstallError:
            if time.monotonic() > end:
                raise
        time.sleep(PAUSE_SECONDS)
