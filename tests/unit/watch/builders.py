"""Builders of an environment in which models were trained and watched, without training or watching one."""

import shutil
from datetime import UTC, datetime, timedelta

from evergrow import reports
from evergrow.audit import AuditLog, Promotion
from evergrow.contracts import Decision, Metric, ModelVersion, Observation, Verdict
from evergrow.environment import Environment
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.rollout_files import RolloutFiles
from evergrow.integrations.seen import Reader
from evergrow.integrations.watch_store import WatchStore
from evergrow.monitoring.timeline import Look
from evergrow.monitoring.watch import DayTraffic, Earned, LabelState, Performance, Ran, Served, Watch, decide
from evergrow.rollout.attempt import Attempt
from evergrow.spec.rollout import Finding, ModelRollout, Rollout, RolloutStatus
from tests.unit.pages import builders as pages

START = datetime(2024, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MODEL = "delays"
HOUR = timedelta(hours=1)


def at(day, hour=0):
    return START + day * DAY + hour * HOUR


def version(number=1, day=0, model=MODEL, verdict="pass", against="prior", champion=False):
    tags = {"verdict": verdict, "judged_against": against} if verdict else {}
    aliases = ("champion",) if champion else ()
    identity = f"{number:064x}"
    return ModelVersion(
        model=model, version=number, identity=identity, model_digest=identity, run_id=f"run{number}",
        created=at(day), aliases=aliases, tags=tags,
    )  # fmt: skip


def promotion(number=1, day=0, model=MODEL, replaced=None, reason="log_loss 0.41 vs 0.45", actor="ada"):
    return Promotion.of(version(number, model=model), replaced and version(replaced), actor, reason, at(day, 1))


def observation(
    subject="wind", kind="feature-drift", outcome="pass", day=0, alarm=False, effect=0.1, model=MODEL, reason=None
):
    return Observation(
        model=model, version=1, kind=kind, subject=subject, since=at(day), until=at(day + 1), rows=100,
        reference="holdout of version 1", test="psi", effect=effect, threshold=0.2, alarm=alarm,
        verdict=Verdict(outcome=outcome, reason=reason or f"{subject}: {effect} against 0.2"),
    )  # fmt: skip


def rollout(number=2, day=0, phase="Progressing", ended=None, model=MODEL, reason="3,120 requests", **asked):
    """Of a version by a canary; its end is a day."""
    status = RolloutStatus(
        phase=phase, stable=max(number - 1, 1), started=at(day), ended=None if ended is None else at(ended),
        rollout=Rollout.model_validate({"strategy": {"kind": "canary"}}), reason=reason,
        split=f"v{number - 1} 90 / v{number} 10",
        findings=(Finding(check="errors", candidate=number, outcome="pass", reason="3 of 3,120 against 1.00%"),),
    )  # fmt: skip
    about = {"apiVersion": "evergrow.dev/v1alpha1", "kind": "ModelRollout", "metadata": {"name": f"{model}-v{number}"}}
    made = ModelRollout.model_validate({**about, "spec": {"model": model, "candidates": [number], **asked}})
    return made.model_copy(update={"status": status})


def decision(day, *reasons, model=MODEL):
    told = reasons or ("none of 9 alarms; 0 columns or slices drifted",)
    return Decision(model=model, as_of=at(day), action="alert" if reasons else "none", reasons=told)


def look(day, *reasons):
    return Look(folder=f"watch={at(day):%Y-%m-%dT%H%M%SZ}", decision=decision(day, *reasons))


def metric(value, name="log_loss", rows=100, wide=0.05):
    return Metric(name=name, value=value, low=value - wide, high=value + wide, rows=rows)


def watch(day, observations=(), model=MODEL, versions=(1,), first=0):
    """As of the beginning of `day`: the day before is over, its labels are not in yet."""
    days = [(START + i * DAY).date() for i in range(first, day)]
    last = days[-1] if days else None
    split = [(d, v) for d in days for v in versions]
    realised = [
        Performance(
            day=d, version=v, kind="realised", state="immature" if d == last else "matured",
            metrics=(metric(0.40 + 0.01 * (d.day % 5)), metric(0.8, "roc_auc")),
        )
        for d, v in split
    ]  # fmt: skip
    estimated = [
        Performance(day=d, version=v, kind="estimated", state=None, metrics=(metric(0.42, wide=0.03),))
        for d, v in split[len(split) // 2 :]
    ]
    return Watch(
        model=model, as_of=at(day), metric="log_loss", reference=dict.fromkeys(versions, 0.41), matured_after=30.0,
        coverage=0.96, delays=(2.0, 5.0, 9.0),
        traffic=tuple(DayTraffic(day=d, version=v, rows=100 * v + d.day) for d, v in split),
        labels=tuple(LabelState(day=d, rows=100, labelled=96, corrected=0, state="matured") for d in days),
        performance=(*realised, *estimated), slices=(), worst=(), currency="EUR",
        worth=tuple(Earned(day=d, rows=100, worth=1500 + 9 * d.day, low=1400, high=1800, without=-200) for d in days),
        served=tuple(Served(day=d, server_hours=24, cost=1.2) for d in days),
        ran=(Ran(purpose="training", steps=5, cpu_hours=0.4, cost=0.08),), observations=tuple(observations),
    )  # fmt: skip


class Registered:
    """What of a registry is read; `evaluation` is a folder."""

    def __init__(self, *versions, evaluation=None):
        self.known, self.folder, self.reads = list(versions), evaluation, 0

    def versions(self, model=None):
        self.reads += 1
        return [v for v in self.known if model in (None, v.model)]

    def card(self, version):
        return f"# Card\n\nof version {version.version}\n"

    def evaluation(self, version, to):
        return shutil.copytree(self.folder, to, dirs_exist_ok=True)


class World:
    """An environment on this machine, filled file by file."""

    def __init__(self, home, *versions):
        self.environment = Environment.read({"EVERGROW_HOME": str(home)})
        home.mkdir(parents=True, exist_ok=True)
        self.registry = Registered(*versions, evaluation=self._evaluation(home.parent / "evaluation"))

    def _evaluation(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(pages.report().model_dump_json())
        (folder / "report.html").write_text("<!doctype html><title>judged</title><p>how it was judged</p>")
        return folder

    def reader(self):
        return Reader(self.environment, self.registry)

    def promote(self, *promotions):
        for one in promotions:
            AuditLog(self.environment.audit).append(one)
        return self

    def roll_out(self, made):
        """A rollout is what it is."""
        files = RolloutFiles(self.environment.home)
        files.create(made.model_copy(update={"status": RolloutStatus()}))
        (found,) = (one for one in files.attempts(made.spec.model) if one.name == made.name)
        files.write(Attempt(found.document, found.revision), made.status)
        return self

    def look(self, day, *observations, **more):
        """Monitoring ran as of the beginning of a day."""
        seen = watch(day, observations, **more)
        reports.keep_watch(
            self.environment, seen, decide(seen), "<!doctype html><title>seen</title><p>what was seen</p>"
        )
        return self

    def judge(self, day, *observations, model=MODEL):
        """A day was judged."""
        store = WatchStore(ObjectStore.open(self.environment.home.as_uri()), model)
        store.keep((START + day * DAY).date(), observations)
        return self

    def train(self, day, model=MODEL):
        """Training wrote its report."""
        place = reports.folder(self.environment, model, at(day).isoformat())
        place.mkdir(parents=True, exist_ok=True)
        (place / "report.html").write_text("<!doctype html><title>trained</title><p>how it was trained</p>")
        (place / "exploration.html").write_text('<!doctype html><p style="color:red">the data</p>')
        return self


def busy(home, days=45, columns=34):
    """Three versions, one alarm that stands, and many columns, some of which drift."""
    versions = [version(3, 40, champion=True, against="2"), version(2, 20, against="1"), version(1)]
    world = World(home, *versions, version(1, 5, model="bikes", champion=True))
    world.promote(promotion(1), promotion(1, 5, model="bikes"), promotion(2, 20, replaced=1))
    world.promote(promotion(3, 40, replaced=2, reason="log_loss 0.3975 vs 0.4180, difference +0.0205, n=40,112"))
    world.train(0).train(20).train(40)
    world.roll_out(rollout(2, 18, "Promoted", 20, reason="loss: 0.3975 against 0.4180"))
    world.roll_out(rollout(3, 39))
    for day in range(days):
        world.judge(day, *_day(day, columns))
        raised = [o for o in _day(day, columns) if o.alarm]
        world.look(day + 1, *raised, versions=(2, 3) if day > 39 else (1,) if day < 20 else (2,))
    world.look(30, observation("all columns", "schema", alarm=True, model="bikes"), model="bikes", first=5)
    return world


def _day(day, columns):
    for i in range(columns):
        effect = ((i * 7919 + day * 31) % 97) / 97 * (0.05 + 0.4 * i / columns)
        outcome = "fail" if i % 4 == 2 and effect + 0.1 > 0.2 and 18 < day < 38 else "pass"
        yield observation(f"feature_{i}_of_the_last_30d", effect=effect, outcome=outcome, day=day)
    lost = 24 <= day < 27 or day > 42
    reason = "wind: 41.2% missing, 0.4% on the holdout; p 3e-19, alarm at 0.00016"
    yield observation("wind", "nulls", "fail" if lost else "pass", day, True, 0.41 if lost else 0.0, reason=reason)
    yield observation("all columns", "schema", day=day, alarm=True, effect=0.0)
    yield observation("predictions", "volume", "inconclusive" if day < 7 else "pass", day, True, 100.0)
