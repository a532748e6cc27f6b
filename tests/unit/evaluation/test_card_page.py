"""A model card as a page: its Markdown is shown, and nothing in it runs."""

from datetime import UTC, datetime

from evergrow.contracts import ModelVersion
from evergrow.evaluation.card_page import card_page

VERSION = ModelVersion(
    model="bikes",
    version=3,
    identity="a" * 64,
    model_digest="b" * 64,
    run_id="r",
    created=datetime(2024, 3, 1, tzinfo=UTC),
)


def test_headings_lists_and_tables_are_shown_below_the_pages_own_title():
    said = card_page(VERSION, "# Bikes\n\n## Limits\n\n- none\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")

    assert said.count("<h1>") == 1
    for part in ("<h2>Bikes</h2>", "<h3>Limits</h3>", "<li>none</li>", "<td>2</td>", "bikes, version 3"):
        assert part in said


def test_what_a_card_has_of_markup_is_text_and_nothing_is_fetched():
    said = card_page(VERSION, "<script>alert(1)</script> ![x](http://elsewhere/x.png) [y](javascript:alert)")

    assert "<script" not in said
    assert "<img" not in said
    assert 'href="javascript' not in said
