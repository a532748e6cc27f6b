"""Run benchmarks, print a table of what each should reach, and keep results.json and the pages with figures current.

python -m benchmarks [--only NAME] [--list]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks import figures
from benchmarks.measure import Result, Skipped

RESULTS = Path(__file__).with_name("results.json")


def modules() -> list[str]:
    """The benchmarks there are: modules of this package that define `run`."""
    names = [
        m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in ("__main__", "figures", "measure")
    ]
    return [n for n in names if "def run(" in (Path(__file__).parent / f"{n}.py").read_text()]


def machine() -> str:
    """What the numbers were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def record(name: str, results: list[Result], earlier: list[dict[str, object]]) -> list[dict[str, object]]:
    """`earlier` with the rows of benchmark `name` replaced by `results`."""
    stamp = {
        "benchmark": name,
        "command": f"make bench ONLY={name}",
        "machine": machine(),
        "measured": datetime.now(UTC).date().isoformat(),
    }
    kept = [row for row in earlier if row["benchmark"] != name]
    return sorted(kept + [asdict(r) | stamp for r in results], key=lambda row: str(row["benchmark"]))


def known() -> list[dict[str, object]]:
    """What was measured before."""
    rows: list[dict[str, object]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return rows


def show(rows: list[Result]) -> None:
    """Print the results."""
    table = Table("what", "measured", "should reach", "holds", "detail")
    for r in rows:
        table.add_row(r.name, f"{figures.number(r.value)} {r.unit}", r.reach, "yes" if r.holds else "[red]no", r.detail)
    Console().print(table)


def main() -> int:
    """Exit code 0 when every number that was measured holds, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("--only", metavar="NAME", help=f"one of: {', '.join(modules())}")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and stop")
    options = parser.parse_args()
    if options.list:
        print("\n".join(modules()))
        return 0
    if options.only and options.only not in modules():
        parser.error(f"--only must be one of {', '.join(modules())}, found {options.only!r}")
    measured: list[Result] = []
    for name in [options.only] if options.only else modules():
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            results = importlib.import_module(f"benchmarks.{name}").run()
        except Skipped as reason:
            print(f"skipped {name}: {reason}", file=sys.stderr, flush=True)
            continue
        measured += results
        # Read only now: another benchmark may have ended meanwhile.
        rows = record(name, results, known())
        RESULTS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    figures.write(known())
    show(measured)
    return 0 if all(r.holds for r in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
