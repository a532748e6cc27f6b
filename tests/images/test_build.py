"""The build command, with tools on PATH that write down what they are asked and do what a test wants of them."""

import json
import os
import re
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from components import build as build_module
from components.build import COMMAND, IMAGES, ON_REQUEST, TOOLS, main, revision
from tests.unit.integrations.builders import make_bundle

# Writes its command line down, and the ID or the lock that it is asked for; ends with the code that a file names.
TOOL = f"""#!{sys.executable}
import json, os, pathlib, sys, time
here, name, arguments = pathlib.Path(__file__).parent, pathlib.Path(__file__).name, sys.argv[1:]
with (here / "calls.jsonl").open("a") as calls:
    print(json.dumps([name, *arguments, "in " + os.getcwd()]), file=calls)
print(name, "says something")
if "build" in arguments and (here / "together").exists():
    until = time.monotonic() + 20
    while (here / "calls.jsonl").read_text().count('"build"') < 2:
        if time.monotonic() > until:
            sys.exit("nobody builds beside this")
        time.sleep(0.01)
if "load" in arguments:
    try:
        (here / "loading").touch(exist_ok=False)
    except FileExistsError:
        sys.exit("somebody loads beside this")
    time.sleep(0.05)
    (here / "loading").unlink()
broken = here / (name + ".broken")
if broken.exists():
    words = broken.read_text().split(";")
    if words[0] in arguments:
        sys.exit(words[1])
if "--iidfile" in arguments:
    pathlib.Path(arguments[arguments.index("--iidfile") + 1]).write_text("sha256:" + name * 2 + "\\n")
if "-o" in arguments and name == "uv":
    written = pathlib.Path(arguments[arguments.index("-o") + 1])
    asked = pathlib.Path(arguments[arguments.index("-o") - 1]).read_text()
    (here / "asked").write_text(asked)
    (here / "preferred").write_text(written.read_text())
    written.write_text("a-lock==1 --hash=sha256:0\\n")
"""


@dataclass(frozen=True)
class Machine:
    """A folder that is all of PATH."""

    bin: Path

    def install(self, *tools):
        for tool in tools:
            (self.bin / tool).write_text(TOOL)
            (self.bin / tool).chmod(0o755)

    def breaks(self, tool, on, saying="no luck"):
        """`tool` fails when one of its arguments is `on`."""
        (self.bin / f"{tool}.broken").write_text(f"{on};{saying}")

    def calls(self, tool=None):
        """Command lines in order, without where they ran."""
        path = self.bin / "calls.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line[:-1] for line in lines if tool in (None, line[0])]

    def builds(self):
        """Name → the arguments of its build."""
        lines = [line for line in self.calls() if line[1] == "build"]
        return {line[line.index("-t") + 1]: line for line in lines}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(COMMAND, raising=False)
    return Machine(folder)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A copy of what locks are made from, so that none is written into the real one."""
    root = tmp_path / "repository"
    (root / "requirements").mkdir(parents=True)
    for name in ("server.in", "server.txt", "steps.txt"):
        shutil.copy(build_module.ROOT / "requirements" / name, root / "requirements" / name)
    monkeypatch.setattr(build_module, "ROOT", root)
    monkeypatch.setattr(sys, "executable", str(root / "no" / "python"))
    return root


def test_every_image_is_built_from_its_dockerfile_and_told_its_version_and_revision(machine):
    machine.install("docker")
    assert main([]) == 0
    builds = machine.builds()
    assert list(builds) == [f"{image.name}:0.1.0" for image in IMAGES.values()]
    for image in IMAGES.values():
        line = builds[f"{image.name}:0.1.0"]
        assert line[line.index("-f") + 1] == image.dockerfile
        assert line[-1] == "."
        assert "VERSION=0.1.0" in line
        assert any(re.fullmatch(r"REVISION=([0-9a-f]{40}(-dirty)?|unknown)", word) for word in line)
        assert not any(word.startswith("PYTHON_IMAGE=") for word in line)
    for target in ("server", "operator"):
        line = builds[f"evergrow/{target}-python:0.1.0"]
        assert line[line.index("--target") + 1] == target


@pytest.mark.parametrize("name", ON_REQUEST)
def test_what_few_need_is_built_by_its_name_alone(name, machine):
    machine.install("docker")
    image = ON_REQUEST[name]
    assert main([]) == 0
    assert not any(known.startswith(f"{image.name}:") for known in machine.builds())
    assert main([name, "--tag", "2"]) == 0
    line = machine.builds()[f"{image.name}:2"]
    assert line[line.index("--target") + 1] == image.target
    assert line[line.index("-f") + 1] == "components/Dockerfile"


def test_the_help_tells_what_is_built_on_request(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "steps, operator, server, mlflow, feast (default: all of these); on request steps-drift, steps-" in said


def test_standard_output_holds_a_line_an_image_and_nothing_that_the_tool_says(machine, capfd):
    machine.install("docker")
    assert main(["server", "steps", "--tag", "7"]) == 0
    said = capfd.readouterr()
    assert said.out == "evergrow/server-python:7 sha256:dockerdocker\nevergrow/steps-python:7 sha256:dockerdocker\n"
    assert "$ docker build -t evergrow/server-python:7" in said.err


def test_images_are_named_with_the_tag_and_built_on_the_base_that_is_asked_for(machine):
    machine.install("docker")
    options = ["--tag", "0.2.0-rc1", "--python-image", "python:3.12-slim", "--build-arg", "EXTRA_REQUIREMENTS=a=b"]
    assert main(["steps", *options]) == 0
    line = machine.builds()["evergrow/steps-python:0.2.0-rc1"]
    given = [line[i + 1] for i, word in enumerate(line) if word == "--build-arg"]
    assert {"VERSION=0.2.0-rc1", "PYTHON_IMAGE=python:3.12-slim", "EXTRA_REQUIREMENTS=a=b"} <= set(given)


def test_builds_run_in_the_repository_wherever_they_are_called_from(machine, tmp_path, monkeypatch):
    machine.install("docker")
    monkeypatch.chdir(tmp_path)
    assert main(["steps"]) == 0
    lines = [json.loads(line) for line in (machine.bin / "calls.jsonl").read_text().splitlines()]
    assert lines[-1][-1] == f"in {build_module.ROOT}"


# -- which tool ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_the_only_tool_there_is_builds(tool, machine):
    machine.install(tool)
    assert main(["steps"]) == 0
    assert [line[0] for line in machine.builds().values()] == [tool]


def test_docker_comes_before_podman_and_podman_before_buildah(machine):
    machine.install("buildah", "podman", "docker")
    assert main(["steps"]) == 0
    machine.breaks("docker", on="version")
    assert main(["steps", "--tag", "2"]) == 0
    assert [line[0] for line in machine.builds().values()] == ["docker", "podman"]


def test_where_no_tool_works_the_error_says_of_each_why(machine, capfd):
    machine.install("docker")
    machine.breaks("docker", on="version", saying="Cannot connect to the Docker daemon")
    assert main(["steps"]) == 1
    error = capfd.readouterr().err
    assert "docker does not work: Cannot connect to the Docker daemon" in error
    assert "podman is not installed; buildah is not installed" in error
    assert "install docker, podman or buildah, or set EVERGROW_BUILD_COMMAND" in error
    assert machine.builds() == {}


def test_a_tool_that_is_asked_for_is_not_replaced_by_another(machine, capfd):
    machine.install("docker")
    assert main(["steps", "--tool", "podman"]) == 1
    assert "podman is not installed" in capfd.readouterr().err
    assert machine.builds() == {}


def test_a_command_of_ones_own_builds_and_loads_whatever_else_there_is(machine, monkeypatch):
    machine.install("docker", "kind", "mine")
    monkeypatch.setenv(COMMAND, "mine --quiet")
    assert main(["steps", "--load", "kind"]) == 0
    assert [line[:3] for line in machine.calls()] == [["mine", "--quiet", "build"], ["mine", "--quiet", "load"]]
    assert machine.calls()[1] == ["mine", "--quiet", "load", "evergrow/steps-python:0.1.0"]


def test_several_are_built_at_once_and_loaded_one_by_one(machine, monkeypatch, capfd):
    machine.install("mine")
    monkeypatch.setenv(COMMAND, "mine")
    (machine.bin / "together").touch()
    assert main(["--load", "kind", "--jobs", "2"]) == 0
    names = [f"{image.name}:0.1.0" for image in IMAGES.values()]
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()] == names
    assert sorted(line[2] for line in machine.calls() if line[1] == "load") == sorted(names)


def test_one_that_fails_beside_another_is_the_commands_error_and_no_more_are_begun(machine, capfd):
    machine.install("docker")
    machine.breaks("docker", on="evergrow/steps-python:0.1.0")
    assert main(["--jobs", "2"]) != 0
    assert "docker build -t failed" in capfd.readouterr().err
    assert len(machine.builds()) < len(IMAGES)


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_no_jobs_are_refused(jobs, machine, capsys):
    with pytest.raises(SystemExit):
        main(["--jobs", jobs])
    assert f"must be a positive number, found {jobs!r}" in capsys.readouterr().err


def test_a_tool_that_is_asked_for_goes_before_a_command_of_ones_own(machine, monkeypatch):
    machine.install("docker", "mine")
    monkeypatch.setenv(COMMAND, "mine")
    assert main(["steps", "--tool", "docker"]) == 0
    assert machine.calls("mine") == []
    assert len(machine.builds()) == 1


# -- loading ---------------------------------------------------------------------------------------------------------

WRITES = {
    "docker": "docker save -o {file} evergrow/steps-python:0.1.0",
    "podman": "podman push -q evergrow/steps-python:0.1.0 docker-archive:{file}:evergrow/steps-python:0.1.0",
    "buildah": "buildah push -q evergrow/steps-python:0.1.0 docker-archive:{file}:evergrow/steps-python:0.1.0",
}
READS = {"kind": "kind load image-archive {file}", "minikube": "minikube image load {file}"}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("cluster", READS)
def test_an_image_goes_to_a_cluster_as_an_archive_that_bears_its_name(tool, cluster, machine):
    machine.install(tool, cluster)
    assert main(["steps", "--load", cluster]) == 0
    written, read = machine.calls()[-2:]
    file = read[-1]
    assert " ".join(written) == WRITES[tool].format(file=file)
    assert " ".join(read) == READS[cluster].format(file=file)
    assert not Path(file).exists(), "the archive is as large as the image, and of no more use"


def test_nothing_is_loaded_unless_a_cluster_is_named(machine):
    machine.install("docker", "kind", "minikube")
    assert main(["steps"]) == 0
    assert [line[1] for line in machine.calls()] == ["version", "build"]


def test_a_cluster_whose_command_is_missing_is_named(machine, capfd):
    machine.install("docker")
    assert main(["steps", "--load", "kind"]) == 1
    said = capfd.readouterr()
    assert "error: kind is not installed" in said.err
    assert said.out == ""


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_failed_build_ends_the_command_and_is_no_success(machine, capfd):
    machine.install("docker")
    machine.breaks("docker", on="components/server/Dockerfile", saying="no space left on device")
    assert main(["steps", "server", "mlflow"]) == 1
    said = capfd.readouterr()
    assert said.out == "evergrow/steps-python:0.1.0 sha256:dockerdocker\n"
    assert "error: docker build -t failed with exit code 1; see above" in said.err
    assert list(machine.builds()) == ["evergrow/steps-python:0.1.0", "evergrow/server-python:0.1.0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["stpes"],
            "IMAGE must be one of steps, operator, server, mlflow, feast, steps-drift, steps-drift-alibi, found",
        ),
        (["steps", "--build-arg", "EXTRA"], "must be KEY=VALUE, found 'EXTRA'"),
        (["steps", "--build-arg", "=x"], "must be KEY=VALUE, found '=x'"),
        (["steps", "--load", "k3s"], "invalid choice: 'k3s'"),
        (["steps", "--tool", "kaniko"], "invalid choice: 'kaniko'"),
        (["steps", "--bundle", "x"], "--bundle is of the image server alone, found steps"),
        (["--bundle", "x"], "--bundle is of the image server alone, found all images"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong_and_builds_nothing(arguments, message, machine, capfd):
    machine.install("docker")
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capfd.readouterr().err
    assert machine.calls() == []


def test_the_revision_is_unknown_outside_git_and_a_commit_within(tmp_path, monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", revision()) or not (build_module.ROOT / ".git").exists()
    monkeypatch.setattr(build_module, "ROOT", tmp_path)
    assert revision() == "unknown"


# -- the server of one model -----------------------------------------------------------------------------------------


def bundle_requiring(folder, *requirements):
    path = make_bundle(folder)
    about = json.loads((path / "bundle.json").read_text()) | {"requirements": requirements}
    (path / "bundle.json").write_text(json.dumps(about))
    return path


def test_the_server_of_a_bundle_runs_on_the_lock_of_the_bundles_own_requirements(machine, repository, tmp_path):
    machine.install("docker", "uv")
    bundle = bundle_requiring(tmp_path / "bundle", "scikit-learn==1.9.1", "numpy==2.4.6")
    assert main(["server", "--tag", "3", "--bundle", str(bundle)]) == 0
    (name, line), *more = machine.builds().items()
    assert more == []
    assert name == "evergrow/server-python:3-bikes"
    assert line[line.index("--target") + 1] == "model-server"
    assert "REQUIREMENTS=requirements/server-bikes.txt" in line
    assert (repository / "requirements/server-bikes.txt").read_text() == "a-lock==1 --hash=sha256:0\n"
    assert (machine.bin / "asked").read_text() == "scikit-learn==1.9.1\nnumpy==2.4.6\n"


def test_what_a_bundle_leaves_open_is_as_the_locks_of_server_and_steps_have_it(machine, repository, tmp_path):
    machine.install("docker", "uv")
    assert main(["server", "--bundle", str(bundle_requiring(tmp_path / "bundle", "numpy==2.4.6"))]) == 0
    preferred = (machine.bin / "preferred").read_text()
    for lock in ("server.txt", "steps.txt"):
        assert (repository / "requirements" / lock).read_text() in preferred
    (asked,) = machine.calls("uv")
    assert {"--generate-hashes", "--universal", "--no-emit-index-url", "requirements/server.in"} <= set(asked)


def test_a_lock_that_cannot_be_made_leaves_the_one_that_is_there(machine, repository, tmp_path, capfd):
    machine.install("docker", "uv")
    machine.breaks("uv", on="compile")
    (repository / "requirements/server-bikes.txt").write_text("the old one\n")
    assert main(["server", "--bundle", str(bundle_requiring(tmp_path / "bundle", "numpy==0.1"))]) == 1
    assert "uv pip compile failed with exit code 1" in capfd.readouterr().err
    assert (repository / "requirements/server-bikes.txt").read_text() == "the old one\n"
    assert machine.builds() == {}


@pytest.mark.parametrize("requirement", ["-r /etc/passwd", "--index-url=x", "numpy>=2", "numpy"])
def test_what_a_bundle_requires_is_pins_and_cannot_be_options(requirement, machine, repository, tmp_path, capfd):
    machine.install("docker", "uv")
    assert main(["server", "--bundle", str(bundle_requiring(tmp_path / "bundle", requirement))]) != 0
    assert f"each must be name==version, found {requirement!r}" in capfd.readouterr().err
    assert machine.calls("uv") == []
    assert machine.builds() == {}


def test_a_folder_that_is_no_bundle_is_refused_with_its_path(machine, repository, tmp_path, capfd):
    machine.install("docker", "uv")
    assert main(["server", "--bundle", str(tmp_path)]) == 1
    assert f"--bundle: {tmp_path} is no bundle" in capfd.readouterr().err


def test_the_fake_tools_are_what_ran(machine):
    """PATH held nothing else, or the tests above would be of what this machine has."""
    machine.install("docker")
    assert os.environ["PATH"] == str(machine.bin)
    assert (machine.bin / "docker").stat().st_mode & stat.S_IXUSR
