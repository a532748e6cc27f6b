"""How the Gateway is reached from here."""

from __future__ import annotations

import urllib.error
import urllib.request

from manifests.installer.cluster import Cluster
from manifests.installer.commands import Commands
from manifests.installer.errors import InstallError

SECONDS = 10.0


def gateway_url(cluster: Cluster, commands: Commands) -> str:
    """The URL of the Gateway: what the cluster's document says, or the address it was given.

    Raises:
        InstallError: it has no address.
    """
    if cluster.gateway:
        return cluster.gateway
    path = "jsonpath={.status.addresses[0].value}"
    command = ["kubectl", "--namespace", "kserve", "get", "gateways", "kserve-ingress-gateway", "-o", path]
    address = commands.ask(command).strip()
    if not address:
        raise InstallError("Gateway kserve/kserve-ingress-gateway has no address", "has the cluster a load balancer?")
    return f"http://{address}"


def ask(url: str, host: str, body: bytes) -> str:
    """Post JSON to a host behind the Gateway; returns the answer.

    Raises:
        InstallError: the answer is an error, or there is none.
    """
    request = urllib.request.Request(url, body, {"Host": host, "Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 - http or https, of ours
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace").strip()
        raise InstallError(f"{host} at {url} answers {error.code}: {said}") from error
    except OSError as error:
        raise InstallError(f"{host} at {url} does not answer: {error}") from error
