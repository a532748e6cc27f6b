"""Documentation: links lead somewhere, commands exist, documents are valid, decisions are listed."""

import re
import shlex
from typing import get_args

import pytest
import yaml
from pydantic import TypeAdapter
from typer.main import get_command

from evergrow.cli import app
from evergrow.spec import parse
from evergrow.spec.retraining import Retraining, Trigger
from evergrow.spec.windows import Window
from tests.docs.blocks import ROOT, blocks

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^(?:\$ )?(evergrow(?: .*)?|make .*)$", re.M)


def name(page):
    return str(page.relative_to(ROOT))


def anchors(page):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in LINK.findall(text):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{name(page)} links to {link}"
        assert not anchor or anchor in anchors(place), f"{name(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_their_options_exist(page):
    for block in blocks(page):
        for line in COMMAND.findall(block.text) if block.language in ("sh", "console") else ():
            check(line.split(" #")[0].split(" | ")[0].removesuffix("&").strip(), name(page))


def check(line, page):
    """A make target is there; an evergrow command parses, without being run."""
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), f"{page}: {line}"
        return
    command, context, words = get_command(app), None, words[1:]
    while hasattr(command, "commands"):
        if not words or words[0].startswith("-"):
            return
        assert words[0] in command.commands, f"{page}: {line}"
        command, words = command.commands[words[0]], words[1:]
    if "--help" not in words:
        context = command.make_context(command.name, words, resilient_parsing=False)
        assert context.params, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_yaml_and_json_blocks_can_be_read(page):
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, name(page), "exec")
        if block.language in ("yaml", "json"):
            assert yaml.safe_load(block.text) is not None


def test_documents_on_pages_are_valid():
    documents = [
        yaml.safe_load(block.text)
        for page in PAGES
        for block in blocks(page)
        if block.language == "yaml" and "kind: ContinualModel" in block.text
    ]

    assert [parse(document).name for document in documents]


def test_windows_on_pages_are_valid_and_each_kind_is_shown():
    page = ROOT / "docs/how-to/choose-a-window.md"
    shown = [yaml.safe_load(block.text)["window"] for block in blocks(page) if block.language == "yaml"]
    kinds = [TypeAdapter(Window).validate_python(window).kind for window in shown]
    assert sorted(kinds) == sorted(kind.model_fields["kind"].default for kind in get_args(get_args(Window)[0]))


def test_triggers_on_pages_are_valid_and_each_kind_is_shown():
    page = ROOT / "docs/how-to/run-the-loop.md"
    shown = [yaml.safe_load(block.text)["retraining"] for block in blocks(page) if block.language == "yaml"]
    kinds = [one.kind for policy in shown for one in Retraining.model_validate(policy).triggers]
    assert sorted(kinds) == sorted(kind.model_fields["kind"].default for kind in get_args(get_args(Trigger)[0]))


def test_every_decision_is_listed_with_its_title():
    index = (ROOT / "docs/decisions/README.md").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs/decisions").glob("[0-9]*.md")):
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        number, _, rest = title.partition(" ")
        assert f"[{number.rstrip('.')}]({page.name})" in index, page.name
        assert rest in index, page.name


def test_every_page_is_reached_from_the_index():
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8")))
        ahead += [
            place
            for link in links
            if link and "://" not in link and (place := (page.parent / link).resolve()).is_file()
        ]

    assert {name(page) for page in PAGES} == {name(page) for page in reached if page in PAGES}
