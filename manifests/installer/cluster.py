"""What is particular to one cluster: manifests/clusters/<name>.yaml."""

from __future__ import annotations

import os
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from evergrow.spec.base import Part
from manifests.installer.errors import InstallError

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "manifests" / "clusters"


class Docker(Part):
    """What Docker must have to give."""

    cpus: int
    memory_gb: int


class Apply(Part):
    """A kustomization, or a file, to be applied."""

    apply: str
    """Its path, below the repository."""


class Run(Part):
    """A command to be run."""

    run: str


class Cluster(Part):
    """How a cluster comes into being, gets its platform and its images, and is reached."""

    tools: Sequence[Literal["docker", "git", "helm", "kind", "kubectl", "minikube"]]
    """Programs that must be there."""
    docker: Docker | None = None
    """For a cluster that runs in Docker."""
    exists: str
    """A command that succeeds if the cluster is there."""
    create: str = ""
    """A command that makes it; empty if only its owner does."""
    delete: str = ""
    """A command that removes it."""
    context: str = ""
    """Its name in the kubeconfig; the current one if empty."""
    platform: Sequence[Apply | Run]
    """What the environments stand on, in order."""
    images: str = ""
    """A command that builds the images and loads them; empty where they are pulled."""
    variables: Mapping[str, str] = {}
    """Environment variables of every command."""
    runner: Literal["kubeflow", "pods"]
    """What runs pipelines."""
    storage_class: str = ""
    """Of the volumes of bundled stores; the cluster's default if empty."""
    gateway: str = ""
    """URL at which the Gateway answers from here; its own address if empty."""


def names() -> list[str]:
    """The clusters there are."""
    return sorted(file.stem for file in CLUSTERS.glob("*.yaml"))


def load(name: str, variables: Mapping[str, str] | None = None) -> Cluster:
    """Read a cluster; ${NAME} in it stands for an environment variable.

    Raises:
        InstallError: there is none of that name, a variable is not set, or a key is wrong; says which.
    """
    file = CLUSTERS / f"{name}.yaml"
    if not file.exists():
        raise InstallError(f"cluster {name!r}: must be one of {', '.join(names())}")
    where = f"manifests/clusters/{file.name}"
    text = _filled(file.read_text(encoding="utf-8"), os.environ if variables is None else variables, where)
    return read(yaml.safe_load(text), where)


def _filled(text: str, variables: Mapping[str, str], where: str) -> str:
    try:
        return string.Template(text).substitute(variables)
    except KeyError as error:
        raise InstallError(
            f"{where}: the environment variable {error.args[0]} must be set", "its comment says to what"
        ) from error


def read(document: Any, where: str) -> Cluster:
    """Check a cluster's document.

    Raises:
        InstallError: a key is wrong; says which.
    """
    try:
        return Cluster.model_validate(document)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise InstallError(f"{where}: {'; '.join(problems)}") from error
