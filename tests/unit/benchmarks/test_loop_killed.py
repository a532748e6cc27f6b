"""What the benchmark of a killed loop compares: nothing is masked but what was measured, and kills kill."""

import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.loop_killed import differing, kill, state
from evergrow.environment import Environment

ENDED = '{"kind":"ended","version":3,"cpu_hours":%s,"reason":"pass: log_loss 0.46; latency %s ms, at most 5 ms"}\n'
PROMOTED = '{"at": "%s", "previous": "%s", "version": 1}\n'
ROLLOUT = '{"name": "toy-demand-v2-%s", "trained-on": "2024-01-31T00:00:00+00:00", "requested": "%s"}'


@pytest.fixture
def home(tmp_path):
    """Makes homes that differ in what was measured, and in what they are told to differ in."""

    def make(number, **changes):
        files = {
            "loops/toy-demand/book.jsonl": ENDED % (f"0.0{number}", f"0.3{number}"),
            "loops/toy-demand/.run": str(number),
            "audit/audit.jsonl": PROMOTED % (f"2026-11-30T12:57:32.64738{number}Z", str(number) * 64),
            "data/toy-demand/part.parquet": "rows",
            "serving/toy-demand/features.json": f'{{"path": "{tmp_path / str(number)}/features/online.db"}}',
            f"rollouts/toy-demand/toy-demand-v2-55c36{number}.json": ROLLOUT
            % (f"55c36{number}", f"2026-11-30T12:57:3{number}.625883+00:00"),
            "runs/training/log.txt": str(number),
            **changes,
        }
        for name, text in files.items():
            (tmp_path / str(number) / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / str(number) / name).write_text(text)
        return state(Environment.read({"EVERGROW_HOME": str(tmp_path / str(number))}))

    return make


def test_homes_that_differ_only_in_what_was_measured_are_the_same(home):
    found = home(1)
    assert len(found) == 5
    assert list(differing(found, home(2))) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("loops/toy-demand/book.jsonl", ENDED.replace("0.46", "0.47") % ("0.02", "0.32")),
        ("loops/toy-demand/book.jsonl", (ENDED % ("0.02", "0.32")) * 2),
        ("audit/audit.jsonl", PROMOTED.replace("1}", "2}") % ("2026-11-30T12:57:32.647382Z", "2" * 64)),
        ("data/toy-demand/part.parquet", "rowt"),
        ("data/toy-demand/another.parquet", "rows"),
        ("rollouts/toy-demand/toy-demand-v2-55c362.json", ROLLOUT.replace("01-31", "02-01") % ("55c362", "")),
    ],
)
def test_any_other_difference_is_named(home, file, text):
    (name,) = differing(home(1), home(2, **{file: text}))
    assert name == file.replace("-55c362", "")


CHILD = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).wait()"


@pytest.mark.parametrize("all_of_it", [True, False])
def test_a_process_is_killed_alone_or_with_all_that_it_started(all_of_it):
    process = subprocess.Popen([sys.executable, "-c", CHILD])
    while not (children := psutil.Process(process.pid).children()):
        time.sleep(0.02)
    assert kill(process, all_of_it=all_of_it)
    _, alive = psutil.wait_procs(children, timeout=2 if all_of_it else 0.2)
    assert bool(alive) != all_of_it
    for one in alive:
        one.kill()


def test_a_process_that_has_ended_is_no_hit():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not kill(process, all_of_it=True)
