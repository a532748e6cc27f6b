"""Kustomizations without a network: what they fetch is replaced by files.

The tests build with `excerpts/`, which hold, per release, the objects and fields that we change or count on, and no
more. Whether the releases really have them is for

    python -m tests.manifests.upstream [--from DIR]

to say: it compares the excerpts with the releases, and builds every kustomization with these. It downloads them, or
takes them from DIR/<owner>.<repository>/<name>.yaml. It is to be run after each change of manifests/versions.yaml.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
EXCERPTS = Path(__file__).parent / "excerpts"
REMOTE = re.compile(r"https://\S+")

Object = dict[str, Any]
# A release's text has megabytes, for which PyYAML's own parser takes minutes.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def kustomizations() -> list[Path]:
    """Every folder with a kustomization of ours."""
    return sorted(file.parent for file in MANIFESTS.rglob("kustomization.yaml"))


def remotes(folder: Path = MANIFESTS) -> list[str]:
    """Every URL that kustomizations below a folder fetch."""
    files = sorted(folder.rglob("kustomization.yaml"))
    resources = [each for file in files for each in yaml.safe_load(file.read_text(encoding="utf-8"))["resources"]]
    return [each for each in resources if REMOTE.match(each)]


def place(url: str) -> Path:
    """Where a file for a URL is, below the folder of excerpts: <owner>.<repository>/<name>.yaml.

    >>> place("https://github.com/kserve/kserve/releases/download/v1/kserve.yaml").as_posix()
    'kserve.kserve/kserve.yaml'
    >>> place("https://github.com/kubeflow/pipelines//manifests/env/plain?ref=2").as_posix()
    'kubeflow.pipelines/plain.yaml'
    """
    path = Path(urlsplit(url).path)
    _, owner, repository = path.parts[:3]
    return Path(f"{owner}.{repository}", f"{path.stem}.yaml")


def build(
    folder: Path, source: Callable[[str], Path], change: Callable[[Path], None] = lambda copy: None
) -> list[Object]:
    """What `kubectl kustomize` makes of a folder of manifests/, with files in place of what it would fetch.

    Args:
        folder: the kustomization's.
        source: the file for a URL.
        change: what to change in a copy of the folder before.
    """
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "manifests")
        shutil.copytree(MANIFESTS, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        change(copy / folder.relative_to(MANIFESTS))
        for file in copy.rglob("kustomization.yaml"):
            _localize(file, source)
        return kustomize(copy / folder.relative_to(MANIFESTS))


def _localize(file: Path, source: Callable[[str], Path]) -> None:
    def local(found: re.Match[str]) -> str:
        name = place(found[0]).name
        shutil.copy(source(found[0]), file.parent / name)
        return name

    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(REMOTE.sub(local, each) if each.startswith("- ") else each for each in lines))


def kustomize(folder: Path) -> list[Object]:
    """The objects of a kustomization; what it cannot find or patch fails, with kubectl's words."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return read(done.stdout)


def read(text: str) -> list[Object]:
    """The objects of a text."""
    return [each for each in yaml.load_all(text, _LOADER) if each]


def excerpt(url: str) -> Path:
    """The excerpt of the release that a URL names."""
    return EXCERPTS / place(url)


def key(each: Object) -> tuple[str, str]:
    """Kind and name, by which an object is known here: no name is in two namespaces."""
    return each["kind"], each["metadata"]["name"]


def differences(ours: Any, theirs: Any, where: str) -> Iterator[str]:
    """What is in ours and is not in theirs, or differs. Items are matched by their names; text that is YAML is read."""
    if isinstance(ours, str) and isinstance(theirs, str) and ours != theirs:
        ours, theirs = _read_text(ours), _read_text(theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            yield from differences(value, theirs.get(name), f"{where}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        for value in ours:
            yield from differences(value, _same(value, theirs), f"{where}[{_name(value)}]")
    elif ours != theirs:
        yield f"{where}: the excerpt has {ours!r}, the release {theirs!r}"


def _read_text(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _name(item: Any) -> Any:
    return item.get("name", item) if isinstance(item, dict) else item


def _same(item: Any, items: list[Any]) -> Any:
    return next((each for each in items if _name(each) == _name(item)), None)


def compare(url: str, release: Path) -> list[str]:
    """What the excerpt has that the release does not have."""
    theirs = {key(each): each for each in read(release.read_text(encoding="utf-8"))}
    ours = read(excerpt(url).read_text(encoding="utf-8"))
    return [
        line
        for each in ours
        for line in differences(each, theirs.get(key(each)), f"{place(url)}: {'/'.join(key(each))}")
    ]


def download(url: str, into: Path) -> None:
    """What kustomize makes of a URL, into a file."""
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary, "kustomization.yaml").write_text(f"resources:\n- {url}\n", encoding="utf-8")
        with into.open("w", encoding="utf-8") as output:
            subprocess.run(["kubectl", "kustomize", temporary], stdout=output, check=True)


def verify(releases: Path) -> int:
    """Compare every excerpt, build everything; the number of differences."""
    wrong = [line for url in remotes() for line in compare(url, releases / place(url))]
    for line in wrong:
        print(line)
    for folder in kustomizations():
        objects = build(folder, lambda url: releases / place(url))
        print(f"{folder.relative_to(ROOT)}: {len(objects)} objects")
    return len(wrong)


def main() -> int:
    """Verify; the exit code says whether the excerpts hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.manifests.upstream", description=__doc__)
    parser.add_argument("--from", dest="folder", type=Path, help="take the releases from here")
    folder = parser.parse_args().folder
    if folder is not None:
        return min(verify(folder), 1)
    with tempfile.TemporaryDirectory() as temporary:
        for url in remotes():
            print(f"downloading {url}", file=sys.stderr)
            download(url, Path(temporary) / place(url))
        return min(verify(Path(temporary)), 1)


if __name__ == "__main__":
    sys.exit(main())
