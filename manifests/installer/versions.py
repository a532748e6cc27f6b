"""Versions of upstream: chosen in manifests/versions.yaml, written where they are named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from manifests.installer.cluster import ROOT

MANIFESTS = ROOT / "manifests"
KIND = ROOT / "kind-config.yaml"
# https://github.com/<owner>/<name>/releases/download/<version>/..., https://github.com/<owner>/<name>//...?ref=<version>&...
RELEASE = re.compile(r"https://github\.com/(?P<name>[\w.-]+/[\w.-]+)/releases/download/(?P<version>[^/\s]+)/")
REFERENCE = re.compile(r"https://github\.com/(?P<name>[\w.-]+/[\w.-]+)//\S+\?ref=(?P<version>[^&\s]+)")
IMAGE = re.compile(r"image: (?P<name>[\w.-]+/[\w.-]+):(?P<version>\S+)")


def chosen() -> dict[str, str]:
    """The version of each repository."""
    return dict(yaml.safe_load((MANIFESTS / "versions.yaml").read_text(encoding="utf-8")))


def files() -> list[Path]:
    """The files in which versions are named."""
    return [*sorted(MANIFESTS.glob("*/**/kustomization.yaml")), KIND]


def named(text: str) -> Iterator[re.Match[str]]:
    """Each place of a text that names a version of a repository."""
    for pattern in (RELEASE, REFERENCE, IMAGE):
        yield from pattern.finditer(text)


def pin() -> None:
    """Write the chosen versions into every file that names one, and print which files changed."""
    versions = chosen()
    for file in files():
        text = file.read_text(encoding="utf-8")
        changed = pinned(text, versions)
        if changed != text:
            file.write_text(changed, encoding="utf-8")
            print(file.relative_to(ROOT))


def pinned(text: str, versions: dict[str, str]) -> str:
    """A text with the chosen versions in the place of those it names."""
    for found in sorted(named(text), key=lambda each: each.start(), reverse=True):
        begin, end = found.span("version")
        text = text[:begin] + versions[found["name"]] + text[end:]
    return text
