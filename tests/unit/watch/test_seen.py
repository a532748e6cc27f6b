"""What is read of an environment: all of it, once, from home or an object store; and the rest if a part is broken."""

import os
from datetime import timedelta

from evergrow.environment import Environment
from evergrow.errors import RegistryError, StoreError
from evergrow.integrations.object_store import mirrored, publish
from evergrow.integrations.seen import Reader
from tests.unit.pages.builders import report
from tests.unit.watch.builders import MODEL, World, at, observation, promotion, rollout, version


def world(home, **more):
    """Version 1 serves, was looked at twice, and one day was judged."""
    built = World(home, version(1, champion=True, **more)).promote(promotion(1)).train(0)
    return built.look(2).look(3, observation("wind", "nulls", "fail", 2, alarm=True)).judge(2, observation(day=2))


def read(built):
    return built.reader().read()


def test_everything_of_a_model_is_read(tmp_path):
    seen = read(world(tmp_path / "home")).models[MODEL]

    assert seen.troubles == ()
    assert seen.champion == 1
    assert [one.folder for one in seen.looks] == ["watch=2024-03-04T000000Z", "watch=2024-03-03T000000Z"]
    assert [one.decision.action for one in seen.looks] == ["alert", "none"]
    assert seen.watch.as_of == at(3)
    assert [str(day) for day in seen.days] == ["2024-03-03"]
    assert seen.judged[1].metric == next(m for m in report().metrics if m.name == report().primary)
    assert seen.judged[1].as_of == report().as_of
    assert sorted(seen.pages) == [
        "as_of=2024-03-01T000000Z/exploration.html",
        "as_of=2024-03-01T000000Z/report.html",
        "watch=2024-03-03T000000Z/report.html",
        "watch=2024-03-04T000000Z/report.html",
    ]


def test_rollouts_that_have_begun_are_read_newest_first_and_change_the_digest(tmp_path):
    built = world(tmp_path / "home").roll_out(rollout(2, 1, "Aborted", 2)).roll_out(rollout(3, 3))
    before = read(built)
    waiting = rollout(4, 4)
    built.roll_out(waiting.model_copy(update={"status": waiting.status.model_copy(update={"started": None})}))
    assert read(built).digests == before.digests
    built.roll_out(rollout(5, 5))

    assert [one.name for one in before.models[MODEL].rollouts] == ["delays-v3", "delays-v2"]
    assert [one.name for one in read(built).models[MODEL].rollouts] == ["delays-v5", "delays-v3", "delays-v2"]
    assert read(built).digests != before.digests


def test_rollouts_that_cannot_be_read_are_told_and_what_was_read_before_stays(tmp_path):
    built = world(tmp_path / "home").roll_out(rollout(2, 1))
    reader = built.reader()
    assert reader.read().troubles == ()
    (built.environment.home / "rollouts" / MODEL / "torn.json").write_text("{")
    snapshot = reader.read()

    assert ["torn.json" in told for told in snapshot.troubles] == [True]
    assert [one.name for one in snapshot.models[MODEL].rollouts] == ["delays-v2"]


def test_an_empty_environment_has_no_models_and_no_troubles(tmp_path):
    snapshot = read(World(tmp_path / "home"))
    assert (dict(snapshot.models), snapshot.troubles) == ({}, ())


def test_on_a_cluster_the_same_is_read_from_the_object_store(tmp_path):
    here = world(tmp_path / "home")
    there = here.environment.model_copy(update={"store": (tmp_path / "store").as_uri()})
    (tmp_path / "store").mkdir()
    with mirrored(there.model_copy(update={"home": tmp_path / "writer"}), "audit"):
        (tmp_path / "writer/audit/audit.jsonl").write_bytes(here.environment.audit.read_bytes())
    for path in sorted(p for part in ("reports", "monitoring") for p in (here.environment.home / part).rglob("*.*")):
        if path.is_file():
            publish(there, path)

    found = Reader(there.model_copy(update={"home": tmp_path / "reader"}), here.registry).read().models[MODEL]

    known = read(here).models[MODEL]
    assert found.troubles == ()
    assert (found.promotions, found.looks, found.watch, found.days) == (
        known.promotions,
        known.looks,
        known.watch,
        known.days,
    )


def test_the_digest_changes_with_what_is_shown_and_with_nothing_else(tmp_path):
    built = world(tmp_path / "home")
    reader = built.reader()
    first = reader.read().digests
    assert reader.read().digests == first
    assert built.reader().read().digests == first

    built.judge(3, observation(day=3, outcome="fail"))
    second = reader.read().digests
    assert second != first

    built.registry.known.append(version(2, 5))
    third = reader.read().digests
    assert third != second

    built.promote(promotion(2, 6, replaced=1))
    assert reader.read().digests != third


def test_what_has_not_changed_is_not_read_again(tmp_path):
    built = world(tmp_path / "home")
    reader = built.reader()
    first, second = reader.read().models[MODEL], reader.read().models[MODEL]
    assert second is first
    built.promote(promotion(2, 5, replaced=1))
    third = reader.read().models[MODEL]
    assert third is not first
    assert third.watch is first.watch
    assert all(a.decision is b.decision for a, b in zip(first.looks, third.looks, strict=True))


def test_a_registry_that_does_not_answer_is_told_of_and_the_rest_is_shown(tmp_path):
    built = world(tmp_path / "home")

    def silent(model=None):
        raise RegistryError("MLflow: no route to host", hint="is the server running?")

    built.registry.versions = silent
    snapshot = read(built)
    assert snapshot.troubles == ("registry: MLflow: no route to host (is the server running?)",)
    assert snapshot.models[MODEL].champion == 1, "by the audit log"
    assert len(snapshot.models[MODEL].looks) == 2


def test_of_what_no_longer_answers_what_it_said_last_is_shown(tmp_path):
    built = world(tmp_path / "home")
    reader = built.reader()
    known = reader.read()

    def silent(*_):
        raise StoreError("the store does not answer")

    built.registry.versions = silent
    first = reader.read()
    assert first.models[MODEL].versions == known.models[MODEL].versions
    reader.store.written = silent
    second = reader.read()
    assert second.models == known.models
    assert second.troubles == ("registry: the store does not answer", "reports: the store does not answer")
    assert second.digests != known.digests


def test_a_broken_file_is_told_of_and_the_others_are_read(tmp_path):
    built = world(tmp_path / "home")
    reports = built.environment.home / "reports" / MODEL
    (reports / "watch=2024-03-04T000000Z/watch.json").write_text("{")
    (reports / "watch=2024-03-03T000000Z/decision.json").write_text("[]")
    (built.environment.home / "monitoring" / MODEL / "observations/2024-03-02.json").write_text("?")

    seen = read(built).models[MODEL]
    assert [t.partition(": ")[0] for t in seen.troubles] == [
        "delays/watch=2024-03-03T000000Z/decision.json",
        "delays/watch=2024-03-04T000000Z/watch.json",
        "monitoring/delays/observations/2024-03-02.json",
    ]
    assert seen.watch is None
    assert [one.decision.as_of for one in seen.looks] == [at(3)]
    assert [str(day) for day in seen.days] == ["2024-03-03"]


def test_a_tampered_audit_log_is_told_of(tmp_path):
    built = world(tmp_path / "home").promote(promotion(2, 5, replaced=1))
    log = built.environment.audit
    log.write_text(log.read_text().replace("log_loss 0.41", "log_loss 0.31", 1))
    (trouble,) = read(built).troubles
    assert trouble.startswith("audit log: ")
    assert "line 2" in trouble


def test_a_file_that_is_mended_is_read_and_its_trouble_is_over(tmp_path):
    built = world(tmp_path / "home")
    reader = built.reader()
    path = built.environment.home / "reports" / MODEL / "watch=2024-03-04T000000Z/watch.json"
    whole = path.read_text()
    path.write_text("{")
    assert reader.read().models[MODEL].troubles
    path.write_text(whole)
    os.utime(path, (path.stat().st_mtime + 5,) * 2)
    assert reader.read().models[MODEL].troubles == ()


def test_an_evaluation_that_cannot_be_read_is_told_of_and_not_asked_for_at_every_turn(tmp_path):
    built, asked = world(tmp_path / "home"), []

    def missing(version, to):
        asked.append(version.version)
        raise RegistryError("its artifacts are gone")

    built.registry.evaluation = missing
    reader = built.reader()
    for _ in range(3):
        seen = reader.read().models[MODEL]
    assert seen.troubles == ("evaluation of delays version 1: its artifacts are gone",)
    assert seen.judged == {}
    assert asked == [1]


def test_models_of_others_in_a_shared_registry_are_left_out(tmp_path):
    built = World(tmp_path / "home", version(1, model="Their Model/1"), version(1))
    assert list(read(built).models) == [MODEL]


def test_success_is_when_the_newest_decision_was_written_not_what_it_is_about(tmp_path):
    built = world(tmp_path / "home")
    path = built.environment.home / "reports" / MODEL / "watch=2024-03-04T000000Z/decision.json"
    os.utime(path, (at(9).timestamp() + 1e9,) * 2)
    assert read(built).models[MODEL].succeeded == at(9) + timedelta(seconds=1e9)


def test_the_environment_is_only_read(tmp_path):
    built = world(tmp_path / "home")
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in built.environment.home.rglob("*")}
    read(built)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in built.environment.home.rglob("*")} == before


def test_a_home_that_does_not_exist_yet_is_an_empty_one(tmp_path):
    nowhere = Environment.read({"EVERGROW_HOME": str(tmp_path / "nowhere")})
    assert dict(Reader(nowhere).read().models) == {}
