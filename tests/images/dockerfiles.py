"""Dockerfiles as lists of instructions by stage, and what is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "components").rglob("Dockerfile"))
LABELS = ("title", "description", "version", "revision", "base.name")


@dataclass(frozen=True)
class Stage:
    """What follows one FROM.

    Attributes:
        base: what FROM names.
        name: what AS names; "" if nothing does.
        instructions: (keyword, argument) in order, those of a base that is a stage before its own.
    """

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def last(self, keyword: str) -> str:
        """The argument of the last such instruction; "" if there is none."""
        return next((argument for kind, argument in reversed(self.instructions) if kind == keyword), "")


def lines(text: str) -> Iterator[tuple[str, str]]:
    """Instructions, continued lines joined and comments left out."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", kept).splitlines():
        if line.strip():
            keyword, _, argument = line.strip().partition(" ")
            yield keyword.upper(), argument.strip()


def stages(text: str) -> list[Stage]:
    """The stages of a Dockerfile."""
    found: list[Stage] = []
    for keyword, argument in lines(text):
        if keyword == "FROM":
            base, _, name = argument.partition(" AS ")
            below = next((s.instructions for s in found if s.name and s.name == base), [])
            found.append(Stage(base, name, list(below)))
        elif found:
            found[-1].instructions.append((keyword, argument))
    return found


def violations(text: str) -> list[str]:
    """What is wrong with a Dockerfile, a sentence each; empty if nothing is."""
    return [*_bases(text), *_commands(text), *_copies(text), *_result(stages(text)[-1])]


def _bases(text: str) -> Iterator[str]:
    default = next((a for k, a in lines(text) if k == "ARG" and a.startswith("PYTHON_IMAGE=")), "")
    if not re.fullmatch(r"PYTHON_IMAGE=[\w./-]+:[\w.-]+", default) or default.endswith(":latest"):
        yield f"PYTHON_IMAGE must default to an image with a tag other than latest, found {default!r}"
    named: set[str] = set()
    for stage in stages(text):
        if stage.base != "${PYTHON_IMAGE}" and stage.base not in named:
            yield f"FROM must name ${{PYTHON_IMAGE}} or an earlier stage, found {stage.base!r}"
        named.add(stage.name)


def _commands(text: str) -> Iterator[str]:
    for keyword, argument in lines(text):
        if keyword == "ADD":
            yield "ADD must not be used: it fetches and unpacks"
        if keyword in ("ENTRYPOINT", "CMD") and not argument.startswith("["):
            yield f"{keyword} must be a list: a shell in between keeps signals to itself"
        if keyword == "ENV" and re.search(r"(?i)password|secret|token|access_key", argument):
            yield "ENV must not hold a secret"
        if keyword == "RUN":
            yield from _run(argument)


def _run(command: str) -> Iterator[str]:
    if re.search(r"\b(curl|wget|apt-get|git clone)\b", command):
        yield f"RUN must download by pip alone, found {command!r}"
    if "<<" in command:
        yield "RUN must not use a here-document: buildah 1.28 has none"
    mounts = re.findall(r"--mount=(\S+)", command)
    if any(not mount.startswith("type=cache,") for mount in mounts):
        yield f"RUN must mount caches only, found {mounts}"
    for pip in re.findall(r"\bpip\b[^&|;]*\b(?:install|wheel|download)\b[^&|;]*", command):
        if "--no-deps" not in pip or not ("--require-hashes" in pip or "--no-index" in pip):
            yield f"pip must take --no-deps, and --require-hashes or --no-index, found {pip.strip()!r}"


def _copies(text: str) -> Iterator[str]:
    for _, argument in (line for line in lines(text) if line[0] == "COPY"):
        if "--link" in argument:
            yield "COPY must not use --link: buildah 1.28 does not know it"
        if argument.split()[0] in (".", "./", "*"):
            yield "COPY must name what it copies, found the whole context"
    for stage in stages(text):
        code = [i for i, (k, a) in enumerate(stage.instructions) if k == "COPY" and not _is_lock(a)]
        downloads = [i for i, (k, a) in enumerate(stage.instructions) if k == "RUN" and "--require-hashes" in a]
        if code and downloads and code[0] < downloads[-1]:
            yield "code must be copied after requirements are installed: a change of it would install them again"


def _is_lock(argument: str) -> bool:
    return argument.startswith(("requirements/", "${EXTRA_REQUIREMENTS}", "${REQUIREMENTS}"))


def _result(image: Stage) -> Iterator[str]:
    user = image.last("USER")
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        yield f"USER must be numbers other than 0: Kubernetes cannot tell whether a name is root, found {user!r}"
    labels = " ".join(argument for keyword, argument in image.instructions if keyword == "LABEL")
    yield from (f"label {name} is missing" for name in LABELS if f"org.opencontainers.image.{name}=" not in labels)
    if not (image.last("ENTRYPOINT") or image.last("CMD")):
        yield "ENTRYPOINT or CMD must say what runs"
