"""Laws of a model registry; they hold for MLflow's and for the one in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evergrow.contracts import EvaluationReport, ModelVersion
from evergrow.errors import RegistryError
from evergrow.learning.bundle import bundle_digest
from tests.unit.integrations.builders import AS_OF, identity, make_bundle, make_evaluation, make_report


def register(registry: Any, folder: Path, seed: int = 0, model: str = "bikes", **report: str) -> ModelVersion:
    count = len(list(folder.iterdir()))
    bundle = make_bundle(folder / f"bundle-{count}", seed, model)
    judged = make_report(bundle, **report)
    return registry.register(bundle, judged, make_evaluation(folder / f"evaluation-{count}", judged))


def test_an_empty_registry_has_no_versions(registry: Any) -> None:
    assert registry.versions() == []
    assert registry.find("bikes", "x") is None
    assert registry.resolve("bikes", "champion") is None


def test_a_registered_version_is_the_challenger_and_is_found_by_identity_number_and_alias(
    registry: Any, tmp_path: Path
) -> None:
    version = register(registry, tmp_path, seed=3)
    assert (version.version, version.aliases, version.identity) == (1, ("challenger",), identity(3).digest)
    assert registry.find("bikes", identity(3).digest) == version
    assert registry.resolve("bikes", "1") == version
    assert registry.resolve("bikes", "challenger") == version
    assert registry.find("bikes", identity(4).digest) is None
    assert registry.resolve("bikes", "2") is None


def test_versions_are_newest_first_and_of_the_model_asked_for(registry: Any, tmp_path: Path) -> None:
    register(registry, tmp_path, seed=1)
    register(registry, tmp_path, seed=2)
    register(registry, tmp_path, seed=1, model="trains")
    assert [v.version for v in registry.versions("bikes")] == [2, 1]
    assert [(v.model, v.version) for v in registry.versions()] == [("bikes", 2), ("bikes", 1), ("trains", 1)]


def test_the_challenger_is_the_newest_one(registry: Any, tmp_path: Path) -> None:
    register(registry, tmp_path, seed=1)
    register(registry, tmp_path, seed=2)
    assert [v.aliases for v in registry.versions("bikes")] == [("challenger",), ()]


def test_an_identity_is_never_registered_twice_but_its_newest_evaluation_is_kept(registry: Any, tmp_path: Path) -> None:
    first = register(registry, tmp_path, champion="prior")
    again = register(registry, tmp_path, champion="7", outcome="fail")
    assert again.version == first.version == 1
    assert len(registry.versions("bikes")) == 1
    kept = registry.evaluation(again, tmp_path / "kept")
    report = EvaluationReport.model_validate_json((kept / "report.json").read_text())
    assert (report.champion, report.verdict.outcome) == ("7", "fail")
    assert again.tags["verdict"] == "fail"
    assert (kept / "report.html").read_text() == "<p>a report</p>"


def test_a_fetched_bundle_has_the_bytes_that_were_registered(registry: Any, tmp_path: Path) -> None:
    version = register(registry, tmp_path, seed=5)
    fetched = registry.fetch(version, tmp_path / "fetched")
    assert (fetched / "model.skops").read_bytes() == b"the bytes of seed 5"
    assert bundle_digest(fetched) == version.model_digest


def test_a_bundle_that_was_changed_in_the_store_is_not_handed_out(registry: Any, tmp_path: Path) -> None:
    version = register(registry, tmp_path)
    stores = [tmp_path / "home", tmp_path / "memory"]
    stored = [file for store in stores for file in store.rglob("model.skops")]
    assert len(stored) == 1
    stored[0].write_bytes(b"other bytes")
    with pytest.raises(RegistryError, match="registered"):
        registry.fetch(version, tmp_path / "fetched")


def test_a_promotion_moves_the_champion_and_is_on_record(registry: Any, tmp_path: Path) -> None:
    first, second = register(registry, tmp_path, seed=1), register(registry, tmp_path, seed=2)
    registry.promote(first, "beat the prior", AS_OF)
    promoted = registry.promote(second, "beat version 1", AS_OF)
    assert promoted.aliases == ("champion",)
    assert registry.resolve("bikes", "champion").version == 2
    assert registry.resolve("bikes", "1").aliases == ()
    records = registry.audit.records()
    assert [(r.replaced, r.version, r.reason) for r in records] == [
        (None, 1, "beat the prior"),
        (1, 2, "beat version 1"),
    ]
    assert {(r.actor, r.at, r.model) for r in records} == {("ada", AS_OF, "bikes")}
    assert records[1].identity == second.identity
    assert promoted.tags["audit"] == registry.audit.verify()


def test_promoting_the_champion_again_changes_nothing(registry: Any, tmp_path: Path) -> None:
    version = registry.promote(register(registry, tmp_path), "beat the prior", AS_OF)
    assert registry.promote(version, "again", AS_OF) == version
    assert len(registry.audit.records()) == 1


def test_a_champion_judged_again_stays_champion_and_is_no_challenger(registry: Any, tmp_path: Path) -> None:
    registry.promote(register(registry, tmp_path), "beat the prior", AS_OF)
    assert register(registry, tmp_path, outcome="inconclusive").aliases == ("champion",)


def test_a_versions_card_is_kept_whole_and_one_without_has_none(registry: Any, tmp_path: Path) -> None:
    card = "# Bikes\n\n" + "What it is for. " * 1000
    bundle = make_bundle(tmp_path / "bundle", 5, "bikes")
    judged = make_report(bundle)
    described = registry.register(bundle, judged, make_evaluation(tmp_path / "evaluation", judged), {}, card)
    without = register(registry, tmp_path, seed=6)

    assert registry.card(described) == card
    assert registry.card(without) == ""
