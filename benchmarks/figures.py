"""Figures as Markdown: all of them on a page of their own, and in the README those that say most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
README, PAGE = ROOT / "README.md", ROOT / "docs/reference/figures.md"
START, END = "<!-- figures -->", "<!-- /figures -->"

Row = Mapping[str, object]
"""A line of results.json."""

HEADLINES = (
    "backtest of 144 policies on flights 2013",
    "CPU of the same without shared work, over that with it",
    "memory of that backtest",
    "loop of a quarter, killed again and again: files that differ from those of one that was not",
    "world sudden: excess loss of the best policy over that of monthly on everything",
    "make demo, first run after set-up",
    "false promotions, correlation 0.6 from day to day",
    "false promotions of a version that is equal, at alpha 0.05, looked at after every request",
    "requests until a gain of 2 x the planned one is found, at 50% of the traffic, over a test of fixed size",
    "a version that fails 5 % of its requests: from enough evidence until it is sent back",
    "false alarms in 1,000 quiet months, 0.5 a month accepted",
    "drift of 330,000 rows × 100 columns: Evidently's preset, its CPU over ours",
    "point-in-time join: Feast's duckdb store's CPU over ours",
    "point-in-time join: our CPU over pandas merge_asof's, 3,000,000 rows",
    "one row with online features (SQLite): CPU per request against KServe returning a constant",
    "throughput against KServe with Feast's SDK and scikit-learn, as documented",
    "a week of flights served: values that are not those recomputed offline",
    "acknowledged predictions lost, servers killed under load",
    "rolling upgrade at 200 requests/s: failed requests",
    "trigger → model serving, beyond the computing of its steps: in total",
    "100 rollouts at 50 requests/s, the operator killed in 20: failed requests",
)
"""Names of the rows that the README shows, whatever they came to."""


def in_short(rows: Sequence[Row]) -> list[Row]:
    """The headlines in their order, and then all others that fall short."""
    shown = sorted((row for row in rows if row["name"] in HEADLINES), key=lambda row: HEADLINES.index(str(row["name"])))
    return [*shown, *(row for row in rows if not row["holds"] and row not in shown)]


def number(value: float) -> str:
    """Three significant digits, thousands grouped."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """Of rows, with what they were measured on."""
    lines = ["| what | measured | should reach | holds | reproduce with |", "|---|---|---|---|---|"]
    for row in rows:
        value = f"{number(float(str(row['value'])))} {row['unit']}".strip()
        detail = f"<br><sub>{row['detail']}</sub>" if row["detail"] else ""
        holds = "yes" if row["holds"] else "**no**"
        lines.append(f"| {row['name']}{detail} | {value} | {row['reach']} | {holds} | `{row['command']}` |")
    machines = sorted({f"{row['machine']} ({row['measured']})" for row in rows})
    return "\n".join([*lines, "", f"Measured on: {'; '.join(machines)}."])


def between_markers(text: str, rows: Sequence[Row]) -> str:
    """A page with the table of rows between its markers; what is around them is kept."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{table(rows)}\n{END}{rest.partition(END)[2]}"


def write(rows: Sequence[Row]) -> None:
    """Bring both pages up to date."""
    for page, shown in ((README, in_short(rows)), (PAGE, rows)):
        page.write_text(between_markers(page.read_text(encoding="utf-8"), shown), encoding="utf-8")
