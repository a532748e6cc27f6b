"""The book's tables: a cell stands where its policy's options say, and the page keeps what is around them."""

from dataclasses import replace

import pytest

from benchmarks.book_of_policies import PARTS, UPDATES, WORLDS, Mean, document, table, table_of_worlds, write
from evergrow.backtest.policies import policies, reference
from evergrow.backtest.run import checked
from evergrow.spec import parse
from evergrow.spec.policies import PolicySet

NONE = Mean(loss=0.1, trainings=0, promoted=0, rollouts=0, taken_over=0, aborted=0)


def tried(part):
    return parse(part.tried, "policies", PolicySet)


def found(part):
    """Each policy loses a thousandth more than the one before."""
    return {
        policy.name: replace(NONE, loss=0.001 * (i + 1), trainings=9, promoted=4, rollouts=4, taken_over=1)
        for i, policy in enumerate(policies(document(), tried(part)))
    }


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_policy_of_the_book_can_be_replayed(part):
    names = [policy.name for policy in checked(document(), tried(part))]
    assert len(set(names)) == len(names)
    assert reference(tried(part)) in names
    assert {name for _, *pair in part.against for name in pair} <= set(names)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_table_has_each_policy_once_and_the_best_of_each_world_is_bold(part):
    worlds = {"still": found(part)} if part.across else {"still": found(part), "sudden": found(part)}
    head, _, *rows = table(part, worlds["still"]) if part.across else table_of_worlds(part, worlds)
    cells = [cell for row in rows for cell in row.strip("| ").split(" | ")[1:]]
    losses = sorted(int(cell.strip("*").split(" ")[0]) for cell in cells)
    assert losses == sorted([*range(1, len(found(part)) + 1)] * len(worlds))
    assert [cell.split(" ")[0] for cell in cells if cell.startswith("**")] == ["**1"] * len(worlds)
    assert len({row.count("|") for row in (head, *rows)}) == 1


def test_a_cell_is_where_its_options_say_and_a_policy_that_served_nobody_is_a_dash():
    told = found(UPDATES)
    told["linear-partial-fit/monthly/strict"] = replace(NONE, loss=0.5, promoted=3)
    del told["trees-refit/weekly/lenient"]
    head, _, *rows = table(UPDATES, told)
    assert head == "| update | weekly, lenient | weekly, strict | monthly, lenient | monthly, strict |"
    assert rows[0].startswith("| trees-refit | – |")
    assert rows[-1].startswith("| linear-partial-fit |")
    assert rows[-1].endswith("| 500 (3) |")


def test_a_page_keeps_what_is_around_its_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables -->\nyesterday\n<!-- /tables -->\nafter\n", encoding="utf-8")
    write(page, {part.name: {world: found(part) for world in WORLDS} for part in PARTS})
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- tables -->\n### still\n\nNothing changes.\n\n| when | all |")
    assert text.endswith("\n<!-- /tables -->\nafter\n")
    assert "yesterday" not in text
    assert text.count("| update | ") == len(WORLDS)
    assert text.count("| world | single | ") == 1
    assert text.count("| still | ") == 1
