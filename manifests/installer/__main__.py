"""Put evergrow on a cluster.

up CLUSTER        make the cluster, install the platform, build and load the images, then as `install`
platform CLUSTER  install the platform alone: certificates, Gateway, KServe, Kubeflow Pipelines
install CLUSTER   on a cluster with a platform: namespaces, charts, a model trained, its features online, a prediction
down CLUSTER      delete the cluster
pin               write manifests/versions.yaml wherever a version is named

Every command may be run again: what is done is kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from manifests.installer import environment, platform, prerequisites, versions
from manifests.installer.cluster import Cluster, load, names
from manifests.installer.commands import Commands
from manifests.installer.environment import Environment
from manifests.installer.errors import InstallError
from manifests.installer.steps import Step, run

INTERRUPTED = 130
CREATE_SECONDS = 900.0
BUILD_SECONDS = 3600.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="python -m manifests.installer", description=__doc__, formatter_class=form)
    p.add_argument("command", choices=["up", "platform", "install", "down", "pin"])
    p.add_argument("cluster", nargs="?", choices=names(), help="which of manifests/clusters/")
    p.add_argument("--environment", default="dev", help="charts/*/values-<environment>.yaml are its values (dev)")
    p.add_argument("--namespace", help="the environment's (evergrow-<environment>)")
    p.add_argument("--platform-namespace", default="evergrow-platform", help="of what environments share")
    p.add_argument("--model", type=Path, default=Path("models/arrival_delay/model.yaml"), help="the document to train")
    p.add_argument("--as-of", default="2013-10-01", help="train as if it were then (2013-10-01)")
    request = Path("manifests/serving/arrival-delay/request.json")
    p.add_argument("--request", type=Path, default=request, help="what to ask the model")
    return p


def main(arguments: Sequence[str]) -> int:
    """Exit code 0; 1 with an error that says what to do; 130 after Ctrl-C."""
    p = parser()
    options = p.parse_args(arguments)
    if options.command != "pin" and options.cluster is None:
        p.error(f"{options.command} needs a CLUSTER: one of {', '.join(names())}")
    try:
        _do(options)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        for line in error.hint.splitlines():
            print(f"  hint: {line}", file=sys.stderr)
        return 1
    return 0


def _do(options: argparse.Namespace) -> None:
    if options.command == "pin":
        versions.pin()
        return
    cluster = load(options.cluster)
    commands = Commands(cluster.variables)
    if options.command == "down":
        _down(cluster, commands)
        return
    environment.check(_environment(options), cluster)
    prerequisites.check(cluster, commands)
    with tempfile.TemporaryDirectory() as folder:
        _install(options, cluster, commands, Path(folder) / "kubeconfig")


def _install(options: argparse.Namespace, cluster: Cluster, commands: Commands, kubeconfig: Path) -> None:
    """Do the steps. All but the first act on the cluster of `kubeconfig`, whatever kubectl's current one is."""
    inside = commands.with_variables(KUBECONFIG=str(kubeconfig))
    first = _cluster(cluster, commands, kubeconfig, create=options.command == "up")
    run([first, *_steps(options, cluster, inside)], _say)
    if options.command != "platform":
        _tell(_environment(options), cluster, inside)


def _steps(options: argparse.Namespace, cluster: Cluster, commands: Commands) -> list[Step]:
    prepared = [platform.step(part, commands) for part in cluster.platform]
    images = [_images(cluster, commands)] if cluster.images else []
    installed = environment.steps(_environment(options), cluster, commands)
    return {"up": [*prepared, *images, *installed], "platform": prepared, "install": installed}[options.command]


def _environment(options: argparse.Namespace) -> Environment:
    return Environment(
        name=options.environment,
        namespace=options.namespace or f"evergrow-{options.environment}",
        platform=options.platform_namespace,
        model=options.model,
        as_of=options.as_of,
        request=options.request,
    )


def _cluster(cluster: Cluster, commands: Commands, kubeconfig: Path, create: bool) -> Step:
    """The step that sees that the cluster is there, makes it if it may, and notes how it is reached."""

    def action() -> None:
        if not commands.succeeds(cluster.exists):
            if not (create and cluster.create):
                raise InstallError(f"`{cluster.exists}` fails: there is no cluster")
            commands.run(cluster.create, CREATE_SECONDS)
        context = ["--context", cluster.context] if cluster.context else []
        view = ["kubectl", "config", "view", "--raw", "--minify", "--flatten", *context]
        kubeconfig.write_text(commands.ask(view), encoding="utf-8")
        kubeconfig.chmod(0o600)

    hint = "`up` makes it; one that was half made is removed by `down`" if cluster.create else "KUBECONFIG must name it"
    return Step("cluster", f"it is there, at most {CREATE_SECONDS / 60:.0f} minutes", action, hint)


def _images(cluster: Cluster, commands: Commands) -> Step:
    waits_for = f"all are built and loaded, at most {BUILD_SECONDS / 60:.0f} minutes"
    return Step("images", waits_for, lambda: commands.run(cluster.images, BUILD_SECONDS), "see what the build says")


def _down(cluster: Cluster, commands: Commands) -> None:
    if not cluster.delete:
        raise InstallError("this cluster is not ours to delete", "`helm uninstall` removes the charts")
    if commands.succeeds(cluster.exists):
        commands.run(cluster.delete, CREATE_SECONDS)


def _tell(installed: Environment, cluster: Cluster, commands: Commands) -> None:
    lines = list(environment.look_around(installed, cluster, commands))
    if cluster.context:
        lines = ["# kubectl's current cluster", f"kubectl config use-context {cluster.context}", *lines]
    print("\nLook around:\n\n" + "\n".join(lines))


def _say(line: str) -> None:
    # At once, so that it stands before what a command says.
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
