import sys

import pytest

from benchmarks import __main__ as harness
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
    assert "| a<br><sub>detail</sub> | 3 × | ≤ 2 | **no** | `make bench ONLY=join` |" in harness.figures(again)


def test_the_readme_keeps_what_is_around_the_figures(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- figures -->\nyesterday\n<!-- /figures -->\nafter\n")
    monkeypatch.setattr(harness, "README", readme)
    harness.write_readme(harness.record("join", [Result("a", 1, "×", "≤ 2", True)], []))
    text = readme.read_text()
    assert text.startswith("before\n<!-- figures -->\n| what")
    assert text.endswith("<!-- /figures -->\nafter\n")
    assert "yesterday" not in text
