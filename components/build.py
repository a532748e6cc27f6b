"""Build evergrow's images with docker, podman or buildah, whichever is there, and load them into a cluster.

python -m components.build                      all images, but for those that are built on request
python -m components.build steps --load kind    one, loaded into the kind cluster
python -m components.build steps-drift          on request: the steps with Evidently and whylogs
python -m components.build server --bundle .evergrow/serving/arrival-delay/current/bundle
                                                the server of one model, on the model's own requirements

Where something else builds and loads, EVERGROW_BUILD_COMMAND is it: a command that takes
`build -t NAME -f FILE --iidfile FILE --build-arg KEY=VALUE ... CONTEXT` and `load NAME`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from evergrow.errors import EvergrowError, exit_code_of

ROOT = Path(__file__).parents[1]
COMMAND = "EVERGROW_BUILD_COMMAND"


class BuildError(EvergrowError):
    """An image cannot be built or loaded."""


@dataclass(frozen=True)
class Image:
    """One image: what it is called, and what it is made by."""

    name: str
    dockerfile: str
    target: str = ""
    """A stage of the Dockerfile; the last if empty."""


IMAGES: Mapping[str, Image] = {
    "steps": Image("evergrow/steps-python", "components/Dockerfile"),
    "operator": Image("evergrow/operator-python", "components/Dockerfile", "operator"),
    "server": Image("evergrow/server-python", "components/server/Dockerfile", "server"),
    "mlflow": Image("evergrow/mlflow", "components/mlflow/Dockerfile"),
    "feast": Image("evergrow/feast", "components/feast/Dockerfile"),
}
ON_REQUEST: Mapping[str, Image] = {
    "steps-drift": Image("evergrow/steps-drift-python", "components/Dockerfile", "drift"),
    "steps-drift-alibi": Image("evergrow/steps-drift-alibi-python", "components/Dockerfile", "drift-alibi"),
}
"""What few need, and is built where it is asked for by name. Alibi Detect's licence restricts use in production."""
ALL = {**IMAGES, **ON_REQUEST}

# As `make lock` does.
LOCK = (
    *("pip", "compile", "-q", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url"),
    *("--no-annotate", "--custom-compile-command", "python -m components.build server --bundle ..."),
)
# How each tool writes an image, under its name, to a file that clusters can load.
TOOLS: Mapping[str, Sequence[str]] = {
    "docker": ("docker", "save", "-o", "{file}", "{name}"),
    "podman": ("podman", "push", "-q", "{name}", "docker-archive:{file}:{name}"),
    "buildah": ("buildah", "push", "-q", "{name}", "docker-archive:{file}:{name}"),
}
CLUSTERS: Mapping[str, Sequence[str]] = {
    "kind": ("kind", "load", "image-archive", "{file}"),
    "minikube": ("minikube", "image", "load", "{file}"),
}


@dataclass(frozen=True)
class Builder:
    """What builds: one of TOOLS, or a command of the user's that also loads."""

    command: tuple[str, ...]
    own: bool = False

    @classmethod
    def find(cls, tool: str | None) -> Builder:
        """The tool that was asked for, else the user's command, else the first tool that works.

        Raises:
            BuildError: there is none; says of each why not.
        """
        own = shlex.split(os.environ.get(COMMAND, ""))
        if own and tool is None:
            return cls(tuple(own), own=True)
        reasons = []
        for name in [tool] if tool else TOOLS:
            reason = _why_not(name)
            if reason is None:
                return cls((name,))
            reasons.append(f"{name} {reason}")
        raise BuildError(
            f"nothing here builds images: {'; '.join(reasons)}",
            hint=f"install docker, podman or buildah, or set {COMMAND} to a command that builds",
        )

    def build(self, name: str, image: Image, arguments: Mapping[str, str]) -> str:
        """Build an image from the repository, under `name`; returns its ID, "sha256:...".

        Raises:
            BuildError: it failed; what the tool said was printed.
        """
        target = ("--target", image.target) if image.target else ()
        given = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "id"
            what = ("-t", name, "-f", image.dockerfile, *target, "--iidfile", str(written))
            _run([*self.command, "build", *what, *given, "."])
            return written.read_text(encoding="utf-8").strip()

    def load(self, name: str, cluster: str) -> None:
        """Hand a built image to a cluster.

        Raises:
            BuildError: the image cannot be written or the cluster does not take it.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "image.tar")
            commands = [[*self.command, "load", name]] if self.own else [TOOLS[self.command[0]], CLUSTERS[cluster]]
            for command in commands:
                _run([word.format(name=name, file=file) for word in command])


def _why_not(tool: str) -> str | None:
    """None if the tool can be used. Docker's client may be there without the engine that it is a client of."""
    if shutil.which(tool) is None:
        return "is not installed"
    asked = subprocess.run([tool, "version"], capture_output=True, text=True, check=False)  # noqa: S603 - one of TOOLS
    if asked.returncode == 0:
        return None
    return f"does not work: {(asked.stderr.strip().splitlines() or ['it says nothing'])[-1]}"


def _run(command: Sequence[str]) -> None:
    """Run in the repository. Standard output stays free for what this command itself answers."""
    print("$", shlex.join(command), file=sys.stderr, flush=True)
    try:
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)  # noqa: S603 - a tool the user chose
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is not installed", hint=f"needed for: {shlex.join(command)}") from error
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{shlex.join(command[:3])} failed with exit code {error.returncode}; see above") from error


def revision() -> str:
    """The commit that is built from, marked where the files differ from it; "unknown" outside Git."""
    asked = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def model_requirements(bundle: Path) -> tuple[str, str]:
    """Lock what a server of this bundle runs on; returns the model's name and the lock's path in the repository.

    The bundle's pins decide; whatever they leave open is as the server's and the steps' locks have it.

    Raises:
        BuildError: there is no whole bundle, uv is missing, or no server runs on what the bundle pins.
    """
    from evergrow.contracts import TrainedModel
    from evergrow.learning.requirements import pin

    try:
        model = TrainedModel.model_validate_json((bundle / "bundle.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BuildError(f"--bundle: {bundle} is no bundle: {error}") from error
    pins = "".join("{}=={}\n".format(*pin(requirement)) for requirement in model.requirements)
    lock = f"requirements/server-{model.model}.txt"
    with tempfile.TemporaryDirectory() as folder:
        (asked := Path(folder) / "model.in").write_text(pins, encoding="utf-8")
        written = Path(folder) / "model.txt"
        # uv keeps the versions that it finds where it is to write, as far as they fit.
        written.write_text("".join((ROOT / f"requirements/{name}.txt").read_text() for name in ("server", "steps")))
        uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
        _run([uv or "uv", *LOCK, "requirements/server.in", str(asked), "-o", str(written)])
        shutil.copyfile(written, ROOT / lock)
    return model.model, lock


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m components.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help=f"which of {', '.join(IMAGES)} (default: all of these); on request {', '.join(ON_REQUEST)}",
    )
    p.add_argument("--tag", default="0.1.0", help="tag of each (default: 0.1.0); give code that changed another one")
    p.add_argument("--python-image", metavar="IMAGE", help="what they are built on (default: that of the Dockerfile)")
    p.add_argument("--build-arg", action="append", default=[], metavar="KEY=VALUE", type=_pair, help="as docker's")
    p.add_argument("--bundle", type=Path, metavar="DIR", help="build the server of this bundle's own requirements")
    p.add_argument("--load", choices=[*CLUSTERS, "none"], default="none", help="the cluster to load into")
    p.add_argument(
        "--jobs", type=_positive, default=1, metavar="N", help="build so many at once, loaded one by one (default: 1)"
    )
    p.add_argument("--tool", choices=[*TOOLS], help="what builds (default: the first that works)")
    return p


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, found {text!r}")
    return key, value


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"must be a positive number, found {text!r}")
    return int(text)


def build(options: argparse.Namespace) -> None:
    """Build and load what the command line asks for; prints one line an image: its name and its ID."""
    builder = Builder.find(options.tool)
    arguments = {"VERSION": options.tag, "REVISION": revision(), **dict(options.build_arg)}
    if options.python_image:
        arguments["PYTHON_IMAGE"] = options.python_image
    images = {f"{image.name}:{options.tag}": image for image in (ALL[name] for name in options.images or IMAGES)}
    if options.bundle:
        model, arguments["REQUIREMENTS"] = model_requirements(options.bundle)
        server = IMAGES["server"]
        images = {f"{server.name}:{options.tag}-{model}": replace(server, target="model-server")}
    loading, failed = threading.Lock(), threading.Event()

    def made(item: tuple[str, Image]) -> str:
        (name, image), started = item, time.monotonic()
        if failed.is_set():
            return ""  # that of the one that failed is raised before this is looked at
        try:
            identifier = builder.build(name, image, arguments)
            if options.load != "none":
                with loading:
                    builder.load(name, options.load)
        except BaseException:
            failed.set()
            raise
        print(f"{name} done in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return f"{name} {identifier}"

    with ThreadPoolExecutor(max_workers=options.jobs) as executor:
        for line in executor.map(made, images.items()):
            print(line, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or that of the error."""
    p = parser()
    options = p.parse_args(arguments)
    unknown = [name for name in options.images if name not in ALL]
    if unknown:
        p.error(f"IMAGE must be one of {', '.join(ALL)}, found {unknown[0]!r}")
    if options.bundle and options.images != ["server"]:
        p.error(f"--bundle is of the image server alone, found {' '.join(options.images) or 'all images'}")
    return exit_code_of(lambda: build(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
