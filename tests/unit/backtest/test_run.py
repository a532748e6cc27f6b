"""A backtest's results are the same whatever the number of workers, and however often it was interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evergrow.backtest.past import Past
from evergrow.backtest.results import FILE, Results
from evergrow.backtest.run import DECISIONS, backtest
from evergrow.backtest.tasks import PAST, Fit, Select
from evergrow.backtest.work import Shared, perform, workers
from evergrow.errors import DataError, SpecError
from evergrow.simulation.worlds import ConceptDrift, Sudden, World
from tests.unit.backtest.places import policy_set, simulated, small_document

WORLD = World(seed=5, days=90, rows=50, features=3, concept=ConceptDrift(course=Sudden(at=60), angle=120))
CHOICES = {
    "when": ("weekly", "once", "harm"),
    "window": ("all", "30d"),
    "gate": ("strict", "open"),
}
ROOT = Path(__file__).parents[3]


def tried():
    whole = policy_set()
    return policy_set(
        choices={choice: {o: whole.choices[choice][o] for o in names} for choice, names in CHOICES.items()}
    )


def written(out):
    """Every file of a backtest's results, by name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run by one thread, undisturbed."""
    folder = tmp_path_factory.mktemp("first")
    simulated(folder, WORLD)
    ran = backtest(small_document(), tried(), folder, folder / "out")
    return ran, written(folder / "out")


def test_a_run_leaves_its_results_and_every_decision_of_every_policy(first):
    ran, files = first
    assert len(ran.results.policies) == 12
    assert set(files) == {FILE, *(f"{DECISIONS}/{p.policy.replace('/', '__')}.jsonl" for p in ran.results.policies)}
    for name, content in files.items():
        if name != FILE:
            assert len(content.splitlines()) == ran.results.decisions
    assert Results.model_validate_json(files[FILE]) == ran.results


def test_money_that_is_supposed_is_reckoned_with(first, tmp_path):
    simulated(tmp_path, WORLD)
    money = {"monitoring": {"worth": {"currency": "EUR", "truePositive": 2, "prices": {"cpuHour": 0.5}}}}
    once = {"choices": {"when": {"once": policy_set().choices["when"]["once"]}}}
    supposed = policy_set(**once, whatIf={"cpuHoursPerMillionRows": 3, "spec": money})
    found = backtest(small_document(), supposed, tmp_path, tmp_path / "out").results
    assert (found.currency, found.million_rows) == ("EUR", 1.5)
    assert sum(day.worth for day in found.policies[0].days) > 0
    assert (first[0].results.currency, first[0].results.million_rows) == ("", 0.0)


def test_two_processes_give_the_same_bytes_as_one_thread(first, tmp_path):
    simulated(tmp_path, WORLD)
    backtest(small_document(), tried(), tmp_path, tmp_path / "out", count=2)
    assert written(tmp_path / "out") == first[1]


KILLED = """
from pathlib import Path
from evergrow.backtest.run import backtest
from tests.unit.backtest.places import small_document
from tests.unit.backtest.test_run import tried
if __name__ == "__main__":
    backtest(small_document(), tried(), Path("{folder}"), Path("{folder}/out"), count=2)
"""


def descendants(pid):
    """Processes that a process has started, and these again."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            child = int(path.parent.name)
            found += [child, *descendants(child)]
    return found


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_gives_the_same_bytes(first, tmp_path):
    simulated(tmp_path, WORLD)
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(folder=tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = []
    for wanted in (3, 20, 60):
        process = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env=environment)
        while process.poll() is None and len(done) < wanted:
            time.sleep(0.05)
            done = list(tmp_path.glob("done/*/*.json"))
        for pid in (process.pid, *descendants(process.pid)):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    before = {path: path.stat().st_mtime_ns for path in done}
    ran = backtest(small_document(), tried(), tmp_path, tmp_path / "out")
    assert len(before) >= 60
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert written(tmp_path / "out") == first[1]
    assert ran.results == first[0].results


def test_what_policies_share_is_done_once(first):
    spent = first[0].spent
    assert spent["fit"].asked > 1.5 * spent["fit"].done
    trained = {(t.model, t.rows) for p in first[0].results.policies for t in p.trainings}
    assert len({model for model, _ in trained}) == spent["fit"].done
    assert spent["fit"].unshared > spent["fit"].cpu_seconds


def test_the_same_work_asked_for_at_once_is_done_once(tmp_path):
    simulated(tmp_path, WORLD)
    calls = []

    class Counted(Select):
        def run(self, folder):
            calls.append(self.key)
            time.sleep(0.05)
            return super().run(folder)

    from concurrent.futures import ThreadPoolExecutor

    from evergrow.backtest.tasks import Cut

    model = small_document().spec
    asked = Counted.of(model.training, model.task, "log_loss", model.evaluation.holdout, WORLD_END)
    with workers(1) as executor, ThreadPoolExecutor(8) as threads:
        shared = Shared(tmp_path, executor)
        found = list(threads.map(lambda _: shared.do(asked, Cut), range(8)))
    assert len(calls) == 1
    assert len(set(map(id, found))) <= 2
    assert shared.spent()["select"].asked == 8


WORLD_END = int(WORLD.start.timestamp() + 80 * 86_400) * 1_000_000


def test_an_error_of_work_is_the_callers_and_nothing_is_kept(tmp_path):
    simulated(tmp_path, WORLD)
    model = small_document(estimator="tests.example_model.estimator:nothing")
    with pytest.raises(SpecError, match="has no 'nothing'"):
        backtest(model, tried(), tmp_path, tmp_path / "out", count=2)
    assert not list(tmp_path.glob("done/fit/*"))
    assert not (tmp_path / "out" / FILE).exists()


def test_without_an_instant_to_decide_at_the_error_says_what_to_change(tmp_path):
    simulated(tmp_path, WORLD.model_copy(update={"days": 30}))
    with pytest.raises(SpecError, match="no instant to decide at: `since` is .*, `until`") as error:
        backtest(small_document(), tried(), tmp_path, tmp_path / "out")
    assert "evaluation.holdout" in error.value.hint


def test_without_a_past_or_results_the_error_says_so(tmp_path):
    with pytest.raises(DataError, match="holds no past"):
        backtest(small_document(), tried(), tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="holds no backtest"):
        Results.load(tmp_path)


def test_keys_tell_everything_that_matters_apart(tmp_path):
    simulated(tmp_path, WORLD)
    model = small_document().spec
    select = Select.of(model.training, model.task, "log_loss", model.evaluation.holdout, WORLD_END)
    keys = {select.key}
    for change in ({"as_of": WORLD_END + 1}, {"seed": 1}, {"metric": "brier"}, {"calibrates": True}):
        keys.add(select.model_copy(update=change).key)
    assert len(keys) == 5
    from evergrow.backtest.tasks import Cut

    cut = Cut.model_validate_json(perform(tmp_path, select).result)
    fit = Fit.of(cut, model.training, model.task, "log_loss")
    other = Fit.of(cut, model.training.model_copy(update={"seed": 1}), model.task, "log_loss")
    assert fit.key != other.key
    assert json.loads(fit.model_dump_json())["metric"] == ""
    assert Past.open(tmp_path / PAST).digest
