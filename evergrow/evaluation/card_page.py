"""A model card as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from evergrow.contracts import ModelVersion
from evergrow.pages.shell import page

TEMPLATE = Path(__file__).with_name("card_page.html")


def card_page(version: ModelVersion, card: str) -> str:
    """The page of a version's card; what its Markdown has of HTML, and of images, is shown as text.

    Args:
        version: whose card it is.
        card: Markdown.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = markdown.parse(card)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 1)}"  # the page has a title of its own
    html = markdown.renderer.render(tokens, markdown.options, {})
    return page(TEMPLATE, version=version, card=Markup(html))  # noqa: S704 - escaped by markdown-it
