"""What the code of an image imports when it starts is in the image's lock."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("evergrow", "components", "pipelines")
STEPS = [
    *(f"components.{path.parent.name}.step" for path in sorted((ROOT / "components").glob("*/step.py"))),
    "components.shipper.__main__",
    "evergrow.cli.app",
    "evergrow.integrations.pod_step",
]
STARTS = {
    "steps": STEPS,
    "operator": [*STEPS, "components.operator.run", "components.operator.aside"],
    "server": ["components.server.process"],
    "feast": ["components.feast.__main__"],
}
"""Per image the modules that its containers run."""


def module_file(name: str) -> Path | None:
    path = ROOT / name.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports whenever it is imported itself."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached(starts: list[str]) -> set[str]:
    """Packages of others that are imported, by ours, from some modules on."""
    seen: set[str] = set()
    found: set[str] = set()
    todo = list(starts)
    while todo:
        name = todo.pop()
        top = name.partition(".")[0]
        if top not in OURS:
            found.add(top)
        elif name not in seen:
            seen.add(name)
            parents = [name.rpartition(".")[0]] if "." in name else []
            todo += [*parents, *(imports(path) if (path := module_file(name)) else [])]
    return found - set(sys.stdlib_module_names)


BUILT_ON = {"operator": "steps"}
"""The image that an image is made from, whose packages it has, too."""


def locked(image: str) -> set[str]:
    locks = [ROOT / f"requirements/{name}.txt" for name in (image, BUILT_ON.get(image)) if name]
    text = "".join(lock.read_text() for lock in locks)
    names = re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


@pytest.mark.parametrize("image", STARTS)
def test_what_an_image_imports_is_in_its_lock(image):
    distributions = packages_distributions()
    for package in sorted(reached(STARTS[image])):
        names = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions[package]}
        assert names & locked(image), f"{package} is not in requirements/{image}.txt"


def test_an_import_is_found_through_modules_of_ours():
    assert {"pyarrow", "obstore", "pydantic"} <= reached(["components.shipper.__main__"])
    assert "pyarrow" not in reached(["components.server.process"])
