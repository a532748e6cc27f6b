"""What must be there before anything is begun. All that is missing is told at once."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from manifests.installer.cluster import Cluster, Docker
from manifests.installer.commands import Commands
from manifests.installer.errors import InstallError

GIGABYTE = 10**9
START_DOCKER = "start Docker Desktop, or `sudo systemctl start docker`"


@dataclass(frozen=True)
class Tool:
    """A program.

    Attributes:
        where: how to get it.
        version: the command that tells its version, and the oldest that will do; None if any does.
    """

    where: str
    version: tuple[str, tuple[int, int]] | None = None


TOOLS: Mapping[str, Tool] = {
    "docker": Tool("https://docs.docker.com/get-started/get-docker/"),
    "git": Tool("https://git-scm.com/downloads; kustomize fetches with it"),
    # Charts are checked by schemas of a kind that older ones do not know.
    "helm": Tool("https://helm.sh/docs/intro/install/", ("helm version --template {{.Version}}", (3, 18))),
    "kind": Tool("https://kind.sigs.k8s.io/docs/user/quick-start/#installation", ("kind version", (0, 30))),
    "kubectl": Tool("https://kubernetes.io/docs/tasks/tools/", ("kubectl version --client", (1, 31))),
    "minikube": Tool("https://minikube.sigs.k8s.io/docs/start/", ("minikube version --short", (1, 37))),
}


def check(cluster: Cluster, commands: Commands) -> None:
    """See that everything is there.

    Raises:
        InstallError: something is not; says of each thing what, and how to get it.
    """
    missing = [*_missing_tools(cluster, commands), *_missing_docker(cluster, commands)]
    if missing:
        raise InstallError(
            "\n".join([f"{len(missing)} missing, nothing was begun:", *(f"  {each}" for each in missing)])
        )


def _missing_tools(cluster: Cluster, commands: Commands) -> Iterator[str]:
    for name in cluster.tools:
        tool = TOOLS[name]
        if shutil.which(name, path=commands.path()) is None:
            yield f"{name}: is not installed; get it from {tool.where}"
        elif tool.version is not None:
            yield from _too_old(name, tool.where, *tool.version, commands)


def _too_old(name: str, where: str, command: str, oldest: tuple[int, int], commands: Commands) -> Iterator[str]:
    answer = commands.ask(command)
    found = re.search(r"v?(\d+)\.(\d+)", answer)
    if found and (int(found[1]), int(found[2])) < oldest:
        yield f"{name}: must be {oldest[0]}.{oldest[1]} or newer, found {found[0]}; get it from {where}"


def _missing_docker(cluster: Cluster, commands: Commands) -> Iterator[str]:
    if cluster.docker is None or shutil.which("docker", path=commands.path()) is None:
        return
    try:
        cpus, memory = map(int, commands.ask("docker info --format '{{.NCPU}} {{.MemTotal}}'").split())
    except InstallError as error:
        yield f"docker: its engine does not answer ({error}); {START_DOCKER}"
    except ValueError:
        yield f"docker: its engine does not run; {START_DOCKER}"
    else:
        yield from _too_small(cluster.docker, cpus, memory)


def _too_small(needed: Docker, cpus: int, memory: int) -> Iterator[str]:
    where = "give it more in Docker Desktop under Settings, Resources; without Docker Desktop, the machine is too small"
    if cpus < needed.cpus:
        yield f"CPUs: Docker must have {needed.cpus}, found {cpus}; {where}"
    if memory < needed.memory_gb * GIGABYTE:
        yield f"memory: Docker must have {needed.memory_gb} GB, found {memory / GIGABYTE:.1f}; {where}"
