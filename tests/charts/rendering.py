"""Charts as Helm renders them, and golden files that say when what is rendered has changed."""

from __future__ import annotations

import base64
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

Object = dict[str, Any]
"""One Kubernetes object."""

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "charts"
GOLDEN = Path(__file__).parent / "golden"
EXTERNAL = Path(__file__).parent / "external"
# The one in C is ten times as fast, where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Variant:
    """A chart with the values of one environment: charts/<chart>/values-<environment>.yaml."""

    chart: str
    environment: str

    def __str__(self) -> str:
        return f"{self.chart}-{self.environment}"

    @property
    def values(self) -> Path:
        """The environment's values file."""
        return CHARTS / self.chart / f"values-{self.environment}.yaml"

    @property
    def golden(self) -> Path:
        """What it is known to render to."""
        return GOLDEN / self.chart / f"{self.environment}.yaml"

    @property
    def external(self) -> frozenset[str]:
        """What its objects refer to and someone else makes, "Kind/name" each, declared in external/<chart>.yaml."""
        file = EXTERNAL / f"{self.chart}.yaml"
        declared = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
        return frozenset((declared or {}).get(self.environment) or ())


def chart_names() -> list[str]:
    """Every chart of the repository."""
    return sorted(file.parent.name for file in CHARTS.glob("*/Chart.yaml"))


def variants() -> list[Variant]:
    """Every chart with each of its environments."""
    files = [file for name in chart_names() for file in sorted((CHARTS / name).glob("values-*.yaml"))]
    return [Variant(file.parent.name, file.stem.removeprefix("values-")) for file in files]


@functools.cache
def _found_helm() -> str | None:
    return shutil.which("helm")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm; without it, skip the test, or fail it where EVERGROW_REQUIRE_HELM=1 says that Helm must be there."""
    binary = _found_helm()
    if binary is None:
        reason = "helm is not on PATH (version 3.18 or newer is needed)"
        if os.environ.get("EVERGROW_REQUIRE_HELM") == "1":
            pytest.fail(f"{reason}, and EVERGROW_REQUIRE_HELM=1")
        pytest.skip(reason)
    return subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)


def render(
    chart: str,
    values_files: Sequence[Path] = (),
    set: Mapping[str, Any] | None = None,
    release: str = "evergrow",
    namespace: str = "evergrow-platform",
) -> list[Object]:
    """The objects that `helm template` makes of charts/<chart>; fails the test with Helm's message if it refuses.

    Args:
        set: values laid over the files', nested as in a values file: {"redis": {"mode": "external"}}.
    """
    done = _template(chart, values_files, set, release, namespace)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.load_all(done.stdout, Loader=_LOADER) if each]


def render_error(
    chart: str,
    values_files: Sequence[Path] = (),
    set: Mapping[str, Any] | None = None,
    release: str = "evergrow",
    namespace: str = "evergrow-platform",
) -> str:
    """What Helm says when it refuses; fails the test if it renders."""
    done = _template(chart, values_files, set, release, namespace)
    assert done.returncode != 0, f"charts/{chart} rendered, although it should be refused with {set}"
    return done.stderr


def lint(chart: str, values_files: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
    """`helm lint --strict`."""
    return helm("lint", "--strict", str(CHARTS / chart), *_values(values_files))


def _template(
    chart: str, values_files: Sequence[Path], over: Mapping[str, Any] | None, release: str, namespace: str
) -> subprocess.CompletedProcess[str]:
    text = None if over is None else yaml.safe_dump(dict(over))
    return _template_once(chart, tuple(values_files), text, release, namespace)


@functools.cache
def _template_once(
    chart: str, values_files: tuple[Path, ...], over: str | None, release: str, namespace: str
) -> subprocess.CompletedProcess[str]:
    """Many tests look at the same rendering; charts do not change while tests run."""
    with tempfile.TemporaryDirectory() as folder:
        files = list(values_files)
        if over is not None:
            # A file and not --set, so that keys with dots and values of every type need no quoting.
            files.append(Path(folder) / "set.yaml")
            files[-1].write_text(over, encoding="utf-8")
        return helm("template", release, str(CHARTS / chart), "--namespace", namespace, *_values(files))


def _values(files: Sequence[Path]) -> list[str]:
    return [argument for file in files for argument in ("--values", str(file))]


@functools.cache
def rendered(variant: Variant) -> tuple[Object, ...]:
    """A variant's objects, rendered once in a process. Not to be changed."""
    return tuple(render(variant.chart, [variant.values], namespace=namespace_of(variant)))


def namespace_of(variant: Variant) -> str:
    """Where a variant is installed: an environment has a namespace of its own, the platform is shared."""
    return variant.chart if variant.chart.endswith("-platform") else f"{variant.chart}-{variant.environment}"


def assert_golden(objects: Sequence[Object], golden: Path) -> None:
    """Objects are what the golden file holds; EVERGROW_UPDATE_GOLDEN=1 writes it instead."""
    text = golden_text(objects)
    if os.environ.get("EVERGROW_UPDATE_GOLDEN") == "1":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text, encoding="utf-8")
        return
    known = golden.read_text(encoding="utf-8") if golden.exists() else ""
    hint = (
        f"{golden.relative_to(ROOT)}: write it with `EVERGROW_UPDATE_GOLDEN=1 pytest tests/charts -k golden`, and look"
    )
    assert text == known, hint


def golden_text(objects: Sequence[Object]) -> str:
    """Objects as YAML, sorted, with Secrets decoded and what differs between two renderings masked."""
    ordered = sorted(map(_decoded, objects), key=lambda o: (o["kind"], _namespace(o), o["metadata"]["name"]))
    text = yaml.dump_all(ordered, Dumper=_Dumper, width=120, allow_unicode=True)
    return _masked(text)


def _namespace(each: Object) -> str:
    return str(each["metadata"].get("namespace", ""))


def _decoded(each: Object) -> Object:
    """A Secret's data as text, so that a golden file shows its form."""
    if each["kind"] != "Secret" or "data" not in each:
        return each
    data = {key: base64.b64decode(value).decode() for key, value in each["data"].items()}
    return {**each, "data": data}


def _masked(text: str) -> str:
    """Checksums are 64 hexadecimal digits; generated passwords a p and 31 letters and digits, whichever come.

    Generated keys are 20 to 40 letters and digits of all kinds.
    """
    text = re.sub(r"\b[0-9a-f]{64}\b", "<checksum>", text)
    text = re.sub(r"\bp[A-Za-z0-9]{31}\b", "<generated>", text)
    return re.sub(r"\b(?=\w*[0-9])(?=\w*[a-z])(?=\w*[A-Z])[A-Za-z0-9]{20,40}\b", "<generated>", text)


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block, as a person would write it."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
# Objects that share a part are written out, not as anchors.
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]
