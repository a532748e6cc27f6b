"""A year of flights under 144 retraining policies: time, memory, what sharing saves, how it grows, what comes out."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.measure import Result, Usage, cpu_of
from evergrow.backtest.past import Past
from evergrow.backtest.run import backtest
from evergrow.backtest.tasks import PAST
from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT
from evergrow.simulation.worlds import LABEL, TRUTH, World, draw
from evergrow.spec import ContinualModel, parse
from evergrow.spec.policies import PolicySet

MODEL = "models/arrival_delay/model.yaml"
POLICIES = Path("models/arrival_delay/policies.yaml")
AS_OF = "2014-01-03"
SAMPLE = 12
"""Policies that are replayed alone, evenly spread over all, to know what all would cost without sharing."""


def replayed(changes: Mapping[str, Any], workers: int) -> tuple[Usage, dict[str, Any]]:
    """The example's policies but for these keys, replayed from nothing in a home of its own, as a user would."""
    with TemporaryDirectory() as scratch:
        tried = {**example(), **changes}
        path = Path(scratch) / "policies.yaml"
        path.write_text(yaml.safe_dump(tried, sort_keys=False), encoding="utf-8")
        line = [sys.executable, "-m", "evergrow", "backtest", "-f", MODEL, "--policies", str(path), "--as-of", AS_OF]
        places = {"EVERGROW_HOME": str(Path(scratch) / "home"), "OMP_NUM_THREADS": "1"}
        usage = cpu_of([*line, "--workers", str(workers), "-o", "json"], places)
        return usage, json.loads(usage.stdout)


def example() -> dict[str, Any]:
    """The policies of the example."""
    tried: dict[str, Any] = yaml.safe_load(POLICIES.read_text(encoding="utf-8"))
    return tried


def sampled() -> list[dict[str, Any]]:
    """Changes that leave one policy each, evenly spread over all."""
    combined: list[dict[str, Any]] = [{}]
    for choice, options in example()["choices"].items():
        combined = [{**one, choice: {name: patch}} for one in combined for name, patch in options.items()]
    step = len(combined) / SAMPLE
    return [{"choices": combined[int((i + 0.5) * step)], "reference": {}} for i in range(SAMPLE)]


def first_gates(count: int) -> dict[str, Any]:
    """Changes that leave so many of the gates: the policies are as many times fewer."""
    choices = example()["choices"]
    kept = [*choices["gate"]][-count:]
    return {"choices": {**choices, "gate": {name: choices["gate"][name] for name in kept}}}


@contextmanager
def watched() -> Iterator[list[float]]:
    """The most megabytes that this process's children had resident at once, looked at each second."""
    most, over = [0.0], threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            most[0] = max(most[0], sum(map(resident, descendants(os.getpid()))))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def descendants(process: int) -> list[int]:
    """Children of a process, and theirs."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        children = [int(word) for word in _text(task).split()]
        found += [one for child in children for one in (child, *descendants(child))]
    return found


def resident(process: int) -> float:
    """Megabytes; what processes share counts for each in part."""
    lines = _text(Path(f"/proc/{process}/smaps_rollup")).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def simulated(days: int, rows: int) -> float:
    """CPU seconds of the work of four policies with windows of 60 days, in a world of so many days and rows a day."""
    frame = draw(World(days=days, rows=rows))
    names = [name for name in frame.columns if name not in (EVENT_TIMESTAMP, KNOWN_AT, LABEL, TRUTH)]
    week = {"retraining": {"triggers": [{"kind": "schedule", "cron": "0 0 * * 1"}], "cooldown": "0s"}}
    harm = {"retraining": {"triggers": [{"kind": "performance"}]}}
    gates = {"strict": {}, "open": {"evaluation": {"gate": {"margin": -1.0}}}}
    tried = {"choices": {"when": {"week": week, "harm": harm}, "gate": gates}}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        Past.of("binary-classification", LABEL, names, frame.drop(columns=TRUTH), timedelta(0)).save(folder / PAST)
        ran = backtest(small(), parse(tried, "policies", PolicySet), folder, folder / "out")
        return sum(one.cpu_seconds for one in ran.spent.values())


def small() -> ContinualModel:
    """The example's model on the newest 60 days."""
    document = yaml.safe_load(Path(MODEL).read_text(encoding="utf-8"))
    document["spec"]["training"] |= {"window": {"kind": "sliding", "length": "60d"}, "calibrationLength": "7d"}
    document["spec"]["evaluation"] |= {"holdout": "14d"}
    return parse(document)


def run() -> list[Result]:
    """All of it: about half an hour on two cores."""
    cores = os.cpu_count() or 1
    with watched() as most:
        whole, found = replayed({}, cores)
    half, _ = replayed(first_gates(2), cores)
    quarter, _ = replayed(first_gates(1), cores)
    with ThreadPoolExecutor(cores) as pool:
        alone = [usage.cpu_seconds for usage, _ in pool.map(lambda one: replayed(one, 1), sampled())]
    count = len(found["standings"]) + len(found["left_out"])
    unshared = sum(alone) / len(alone) * count
    return [
        *_cost(whole, found, most[0], count, unshared, alone),
        *_growth(whole, half, quarter),
        *_outcome(found),
    ]


def _cost(
    whole: Usage, found: Mapping[str, Any], most: float, count: int, unshared: float, alone: list[float]
) -> Iterator[Result]:
    fits = found["spent"]["fit"]
    told = f"{whole.cpu_seconds:,.0f} CPU s; {found['rows']:,} labelled rows judged on {found['judged']} days; "
    told += f"{fits['done']} trainings for {fits['asked']:,} asked for; ingest and join of features included"
    minutes = whole.wall_seconds / 60
    yield Result(f"backtest of {count} policies on flights 2013", minutes, "min", "≤ 10", minutes <= 10, told)
    saved = unshared / whole.cpu_seconds
    told = (
        f"{unshared:,.0f} CPU s, from {len(alone)} policies replayed alone, {min(alone):.0f} to {max(alone):.0f} s each"
    )
    yield Result("CPU of the same without shared work, over that with it", saved, "×", "≥ 10", saved >= 10, told)
    told = "all processes together, what they share counted once, looked at each second"
    yield Result("memory of that backtest", most, "MB", "≤ 4,000", most <= 4000, told)


def _growth(whole: Usage, half: Usage, quarter: Usage) -> Iterator[Result]:
    grown = whole.cpu_seconds / quarter.cpu_seconds
    told = f"36, 72, 144 policies: {quarter.cpu_seconds:,.0f}, {half.cpu_seconds:,.0f}, {whole.cpu_seconds:,.0f} CPU s"
    yield Result("backtest's CPU, four times the policies", grown, "×", "< 4", grown < 4, told)
    yield _linear("days", [(200, 200), (320, 200), (560, 200)], [120, 240, 480])
    yield _linear("rows a day", [(200, 200), (200, 400), (200, 800)], [200, 400, 800])


def _linear(name: str, worlds: Sequence[tuple[int, int]], sizes: Sequence[int]) -> Result:
    """Worlds of some days and rows a day; of the days the first 80 are not decided on."""
    spent = [simulated(*world) for world in worlds]
    grown, times = spent[-1] / spent[0], sizes[-1] / sizes[0]
    told = f"{', '.join(map(str, sizes))} {name}: {', '.join(f'{one:.1f}' for one in spent)} CPU s, windows of 60 days"
    most = 1.2 * times
    return Result(f"backtest's CPU, {times:g} times the {name}", grown, "×", f"≤ {most:.3g}", grown <= most, told)


def _outcome(found: Mapping[str, Any]) -> Iterator[Result]:
    for which in ("recommended", "frugal"):
        one = found[which]
        later, (mine, theirs) = one["later"], one["later_trainings"]
        told = f"{one['policy']}, chosen by the first half; with {mine} trainings against {theirs}, "
        told += f"[{later['low']:+.4f}, {later['high']:+.4f}]"
        name = f"{which} policy's loss less that of monthly on everything, second half of flights 2013"
        holds = later["value"] <= 0 and mine <= theirs / 2
        yield Result(name, later["value"], "nats a row", "≤ 0 at ≤ ½ the trainings", holds, told)
