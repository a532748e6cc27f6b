"""Whether a loop that is killed again and again comes to the same state, byte for byte, as one that nobody kills.

A quarter of daily decisions on a small model whose trainings a trigger begins, once undisturbed, and once killed (-9)
again and again and run again: in turn the process alone, whose pipeline goes on without it, and all that it has
started. Half of the kills come soon after a random day of the quarter, half at a random moment of a random training.

Compared is what others read or what the next decision depends on, all of it byte for byte but for what is masked:

    the book                       but CPU hours, and a gate's measured latency in a reason
    the record of promotions       but the moment, the latency, and the digest of the line before, which holds both
    the lake                       whole
    each version in the registry   whole: bundle, evaluation, card, identity, aliases, tags; but the latency, and the
                                   digest of its line in the record
    what serves                    but the home's own path
    rollouts                       but the moments, in their names too, and the latency
    reports                        but the latency

Not compared: what is there once for each attempt (runs, what they spent), and the databases of MLflow and Feast as
files, whose rows have moments and random ids: what they say is compared as versions, and as what serves.

python -m benchmarks.loop_killed [--kills 55] [--days 91]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from benchmarks.measure import Result
from evergrow.environment import Environment
from evergrow.integrations.loop_local import book_of
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.loop.book import Began, Decided

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "tests/toy_model/model.yaml"
MODEL = "toy-demand"
SINCE = datetime(2024, 1, 31, tzinfo=UTC)
KILLS, DAYS, SEED = 55, 91, 2013
HITS = 50
"""So many of the kills are to hit a process that runs: one that comes too late finds that it has ended."""
RETRAINING = """
  retraining:
    cooldown: 1d
    triggers:
      - {kind: data-volume, rows: 640}
"""
"""Every ninth day."""
LENIENT = ("metric: log_loss", "metric: log_loss\n      margin: -0.02")
"""The toy's world stands still: with a margin of 0 the first model would stay for ever."""


def run(kills: int = KILLS, days: int = DAYS) -> list[Result]:
    """Run undisturbed, run killed, compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        document = folder / "model.yaml"
        document.write_text(DOCUMENT.read_text().replace(*LENIENT) + RETRAINING)
        whole, killed = (Life(folder / name, document, days) for name in ("whole", "killed"))
        undisturbed = whole.to_the_end()
        hits, disturbed = harried(killed, moments(whole, kills, undisturbed))
        differences = list(differing(state(whole.environment), state(killed.environment)))
        return [_result(whole, killed, hits, min(HITS, kills), differences, (undisturbed, disturbed))]


@dataclass(frozen=True)
class Life:
    """A loop in a home of its own.

    Attributes:
        home: where its state is.
        document: of the model.
        days: decisions, one a day.
    """

    home: Path
    document: Path
    days: int

    @property
    def environment(self) -> Environment:
        """Its places."""
        features = ROOT / "tests/toy_model/toy_features"
        return Environment.read({"EVERGROW_HOME": str(self.home), "EVERGROW_FEATURE_REPO": str(features)})

    @property
    def log(self) -> Path:
        """What it says."""
        return self.home.with_name(f"{self.home.name}.txt")

    def start(self) -> subprocess.Popen[bytes]:
        """Run the loop, from where it is."""
        environment = self.environment
        places = {
            "EVERGROW_HOME": str(environment.home),
            "EVERGROW_FEATURE_REPO": str(environment.feature_repo),
            "MLFLOW_TRACKING_URI": environment.tracking_uri,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        until = SINCE + timedelta(days=self.days - 1)
        arguments = ("-f", str(self.document), "--since", f"{SINCE:%Y-%m-%d}", "--until", f"{until:%Y-%m-%d}")
        command = [sys.executable, "-m", "evergrow", "loop", "run", *arguments]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, env={**os.environ, **places}, cwd=ROOT, stdout=log, stderr=log)

    def start_and_come_to(self, day: datetime) -> subprocess.Popen[bytes]:
        """Run the loop, and wait until it speaks, and its book has come to a day; or for its end."""
        said = self.log.stat().st_size if self.log.exists() else 0
        process, book = self.start(), book_of(self.environment, MODEL)
        while process.poll() is None and self.log.stat().st_size == said:
            time.sleep(0.01)
        while process.poll() is None and not any(isinstance(one, Decided) and one.at >= day for one in book.entries()):
            time.sleep(0.05)
        return process

    def to_the_end(self) -> float:
        """Run the loop until it has nothing left to decide; seconds that took.

        Raises:
            RuntimeError: it failed; shows the end of what it said.
        """
        started = time.perf_counter()
        if self.start().wait() != 0:
            raise RuntimeError(f"the loop failed:\n{self.log.read_text()[-3000:]}")
        return time.perf_counter() - started


def moments(life: Life, kills: int, seconds: float) -> list[tuple[datetime, float]]:
    """When to kill: days, rising, and so many seconds later.

    Args:
        life: that was not disturbed.
        kills: how many.
        seconds: that it took; nearly all of them in trainings.
    """
    chance, book = random.Random(SEED), book_of(life.environment, MODEL).entries()
    began = [one.at for one in book if isinstance(one, Began)]
    length = seconds / max(1, len(began))
    found = []
    for number in range(kills):
        if number % 2 and began:
            found.append((chance.choice(began), chance.uniform(0, length)))
        else:
            found.append((SINCE + timedelta(days=chance.randrange(life.days)), chance.uniform(0, 1)))
    return sorted(found)


def harried(life: Life, when: Sequence[tuple[datetime, float]]) -> tuple[int, float]:
    """Kill a loop at these moments, and then let it end.

    Returns:
        How many kills hit a running process, and the seconds that all of it took.
    """
    hits, started = 0, time.perf_counter()
    for number, (day, seconds) in enumerate(when):
        process = life.start_and_come_to(day)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        hits += kill(process, all_of_it=number % 2 == 1)
    life.to_the_end()
    return hits, time.perf_counter() - started


def kill(process: subprocess.Popen[bytes], *, all_of_it: bool) -> bool:
    """Kill a process, with all that it has started or alone; whether it was still running."""
    if process.poll() is not None:
        return False
    for one in psutil.Process(process.pid).children(recursive=True) if all_of_it else []:
        one.kill()
    process.kill()
    return process.wait() < 0


# -- what is compared --------------------------------------------------------------------------------------------------

LATENCY = (r"latency [0-9.e-]+ ms", "latency - ms")
CPU = (r'"cpu_hours":\s*[0-9.e-]+', '"cpu_hours":-')
MOMENT = (r'"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{1,6}(Z|\+00:00)"', '"-"')
"""Instants of a replayed quarter have no fractions of seconds."""
BEFORE = (r'"(previous|audit)":\s*"[0-9a-f]{64}"', '"-"')
ROLLOUT = (r"(toy-demand-v[0-9]+)-[0-9a-f]{6}", r"\1")
MASKS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "loops": (LATENCY, CPU),
    "audit": (LATENCY, MOMENT, BEFORE),
    "data": (),
    "versions": (LATENCY, BEFORE),
    "serving": (),
    "rollouts": (LATENCY, MOMENT, ROLLOUT),
    "reports": (LATENCY,),
}
"""What is compared, folders of a home and the registry's versions, and what of it is masked."""


def state(environment: Environment) -> dict[str, str]:
    """SHA-256 of all that is compared, masked, by its name."""
    found = {}
    for name, content in contents(environment):
        kind = name.partition("/")[0]
        found[masked(name, kind)] = hashlib.sha256(masked_bytes(content, kind)).hexdigest()
    return found


def contents(environment: Environment) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all that is compared, as it is."""
    for folder in MASKS:
        for path in sorted((environment.home / folder).rglob("*")):
            # What begins with a dot is a lock.
            if path.is_file() and not path.name.startswith("."):
                here, content = str(environment.home).encode(), path.read_bytes()
                yield path.relative_to(environment.home).as_posix(), content.replace(here, b"-")
    registry = MlflowRegistry(environment)
    for version in registry.versions(MODEL):
        about = version.model_dump_json(exclude={"run_id", "created"}, indent=1)
        yield f"versions/{version.version}/version.json", about.encode()
        yield f"versions/{version.version}/card.md", registry.card(version).encode()
        with tempfile.TemporaryDirectory() as name:
            registry.fetch(version, Path(name) / "bundle")
            registry.evaluation(version, Path(name) / "evaluation")
            for path in sorted(p for p in Path(name).rglob("*") if p.is_file()):
                yield f"versions/{version.version}/{path.relative_to(name).as_posix()}", path.read_bytes()


def masked_bytes(content: bytes, kind: str) -> bytes:
    """Content without what is masked; what is no text has nothing to mask."""
    try:
        return masked(content.decode(), kind).encode()
    except UnicodeDecodeError:
        return content


def masked(text: str, kind: str) -> str:
    """Text without what is masked."""
    for pattern, instead in MASKS[kind]:
        text = re.sub(pattern, instead, text)
    return text


def differing(whole: Mapping[str, str], killed: Mapping[str, str]) -> Iterator[str]:
    """Names of what is not the same in both."""
    for name in sorted({*whole, *killed}):
        if whole.get(name) != killed.get(name):
            yield name


def _result(
    whole: Life, killed: Life, hits: int, wanted: int, differences: list[str], seconds: tuple[float, float]
) -> Result:
    book = list(book_of(whole.environment, MODEL).entries())
    decisions, trainings = (sum(isinstance(one, kind) for one in book) for kind in (Decided, Began))
    begun = len(list((killed.home / "runs/training").glob("*/events.jsonl")))
    compared = len(state(whole.environment))
    for name in differences:
        print(f"differs: {name}", file=sys.stderr)
    detail = (
        f"{decisions} decisions, {trainings} trainings, for which {begun} pipelines were begun; {hits} × kill "
        f"-9 of a running process, in turn alone and with all that it had started; {compared} files and versions "
        f"compared; {seconds[0] / 60:.1f} min undisturbed, {seconds[1] / 60:.1f} min killed"
    )
    name = "loop of a quarter, killed again and again: files that differ from those of one that was not"
    return Result(name, len(differences), "", f"0, {wanted} times killed", not differences and hits >= wanted, detail)


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop_killed", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how often, default {KILLS}")
    parser.add_argument("--days", type=int, default=DAYS, help=f"decisions, one a day, default {DAYS}")
    options = parser.parse_args()
    if options.kills < 1 or options.days < 1:
        parser.error(f"--kills and --days must be at least 1, found {options.kills} and {options.days}")
    for one in run(options.kills, options.days):
        print(f"{one.name}: {one.value:g}, should reach {one.reach}: {'yes' if one.holds else 'no'}\n{one.detail}")


if __name__ == "__main__":
    main()
