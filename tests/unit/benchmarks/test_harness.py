import sys

import pytest

from benchmarks import __main__ as harness
from benchmarks import figures
from benchmarks.measure import Result, alternate, cpu_of, ratio


def test_a_childs_cpu_and_memory_are_its_own():
    small = cpu_of([sys.executable, "-c", "print('done')"])
    large = cpu_of([sys.executable, "-c", "x = b'1' * 200_000_000; sum(range(5_000_000)); print('done')"])
    assert small.stdout == "done\n"
    assert large.peak_mb > small.peak_mb + 150
    again = cpu_of([sys.executable, "-c", "print('done')"])
    assert again.peak_mb < large.peak_mb - 150


def test_a_failing_child_shows_its_error():
    with pytest.raises(RuntimeError, match="boom"):
        cpu_of([sys.executable, "-c", "raise SystemExit('boom')"])


def test_a_child_that_prints_a_lot_does_not_block():
    assert len(cpu_of([sys.executable, "-c", "print('x' * 1_000_000)"]).stdout) == 1_000_001


def test_arms_take_turns_and_their_medians_are_compared():
    order = []
    samples = alternate(3, a=lambda: order.append("a") or 4.0, b=lambda: order.append("b") or 2.0)
    assert order == ["a", "b"] * 3
    assert ratio(samples, "a", "b") == 2.0


def test_a_new_measurement_replaces_the_old_one_of_its_benchmark_only():
    first = harness.record("join", [Result("a", 1, "×", "≤ 2", True)], [])
    both = harness.record("serve", [Result("b", 1, "×", "≤ 2", True)], first)
    again = harness.record("join", [Result("a", 3, "×", "≤ 2", False, "detail")], both)
    assert [(r["name"], r["value"]) for r in again] == [("a", 3), ("b", 1)]
    assert "| a<br><sub>detail</sub> | 3 × | ≤ 2 | **no** | `make bench ONLY=join` |" in figures.table(again)


def rows(*names, short=()):
    return harness.record("join", [Result(name, 1, "×", "≤ 2", name not in short) for name in names], [])


def test_a_page_keeps_what_is_around_the_figures():
    text = figures.between_markers("before\n<!-- figures -->\nyesterday\n<!-- /figures -->\nafter\n", rows("a"))
    assert text.startswith("before\n<!-- figures -->\n| what")
    assert text.endswith("<!-- /figures -->\nafter\n")
    assert "yesterday" not in text


def test_in_short_are_headlines_in_their_order_and_whatever_falls_short():
    first, second = figures.HEADLINES[:2]
    found = rows("other", second, "bad", first, short=("bad", second))
    assert [row["name"] for row in figures.in_short(found)] == [first, second, "bad"]


def test_every_headline_was_measured_and_both_pages_show_what_was():
    found = harness.known()
    assert set(figures.HEADLINES) <= {row["name"] for row in found}
    for page, shown in ((figures.README, figures.in_short(found)), (figures.PAGE, found)):
        text = page.read_text(encoding="utf-8")
        assert figures.between_markers(text, shown) == text
