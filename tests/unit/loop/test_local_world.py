"""The world of this machine, as far as it needs neither MLflow nor pipelines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.environment import Environment
from evergrow.errors import DataError, NotEnoughData, PipelineError, RegistryError, SpecError
from evergrow.integrations.loop_local import LocalWorld
from evergrow.loop.labels import first_known
from evergrow.spec import ContinualModel, load, parse
from tests.pipelines.conftest import DOCUMENT, ROOT

NOW = datetime(2024, 3, 1, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


class Broken:
    """A source whose code has a fault."""

    tables = ()

    def derive(self, tables: Any) -> Any:
        raise KeyError("wind")


def world(home: Path, document: ContinualModel | None = None, told: list[str] | None = None) -> LocalWorld:
    places = {"EVERGROW_HOME": str(home), "EVERGROW_FEATURE_REPO": str(ROOT / "tests/toy_model/toy_features")}
    tell = (told if told is not None else []).append
    return LocalWorld(Environment.read(places), document or load(DOCUMENT), tell=tell)


def toy(entrypoint: str) -> ContinualModel:
    dumped = load(DOCUMENT).dump()
    dumped["spec"]["source"]["entrypoint"] = entrypoint
    return parse(dumped)


def test_labels_are_those_that_the_source_knows_by_then_and_again_the_same(tmp_path: Path) -> None:
    local = world(tmp_path)
    known = local.known(NOW)
    assert known is not None
    assert len(known) == 60 * 24 * 3  # of January and February
    assert (local.known(NOW) == known).all()
    later = local.known(NOW + DAY)
    assert later is not None
    assert len(later) == 61 * 24 * 3
    assert (local.known(NOW) == known).all()


def test_a_source_that_is_not_what_it_was_is_told_of_and_holds_nothing_up(tmp_path: Path) -> None:
    told: list[str] = []
    assert world(tmp_path, told=told).known(datetime(2023, 1, 1, tzinfo=UTC)) is None
    assert world(tmp_path, toy("tests.unit.loop.test_local_world:Broken"), told).known(NOW) is None
    assert told[0].startswith("ingest: ")
    assert told[1] == "ingest: KeyError: 'wind'"


def test_a_source_that_there_is_not_ends_the_loop(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"spec\.source\.entrypoint"):
        world(tmp_path, toy("tests.nowhere:Source")).known(NOW)


def test_monitoring_does_not_look_where_nothing_was_predicted(tmp_path: Path) -> None:
    assert world(tmp_path).look(NOW) is None
    assert not (tmp_path / "runs").exists()


class Failing(LocalWorld):
    """One whose pipelines end with an error."""

    error: Exception = DataError("")

    def _run(self, pipeline: str, now: datetime) -> dict[str, Any]:
        raise self.error


@pytest.mark.parametrize("error", [DataError("no rows"), NotEnoughData("no rows"), PipelineError("no rows")])
def test_a_step_that_fails_is_how_a_training_ended(tmp_path: Path, error: Exception) -> None:
    local = Failing(Environment.read({"EVERGROW_HOME": str(tmp_path)}), load(DOCUMENT))
    local.error = error
    result = local.train(NOW)
    assert (result.outcome, result.version, result.reason) == ("failed", None, "no rows")


@pytest.mark.parametrize("error", [SpecError("no such module"), RegistryError("away", retriable=True)])
def test_a_wrong_document_and_what_may_go_well_later_are_no_outcome(tmp_path: Path, error: Exception) -> None:
    local = Failing(Environment.read({"EVERGROW_HOME": str(tmp_path)}), load(DOCUMENT))
    local.error = error
    with pytest.raises(type(error)):
        local.train(NOW)


rows = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([0.0, 1.0, None]), st.integers(0, 9)), min_size=1, max_size=20
)


@given(rows, st.integers(0, 9))
def test_a_label_is_known_from_the_first_of_its_corrections_on(rows, until) -> None:
    table = [(NOW + row * HOUR, label, NOW + row * HOUR + known * DAY) for row, label, known in rows]
    examples = pd.DataFrame(table, columns=["event_timestamp", "late", "known_at"]).astype({"late": "float64"})
    by_hand: dict[datetime, datetime] = {}
    for asked, label, known in table:
        if label is not None and known <= NOW + until * DAY:
            by_hand[asked] = min(known, by_hand.get(asked, known))
    found = first_known(examples, "late", NOW + until * DAY)
    assert found.tolist() == sorted(at.replace(tzinfo=None) for at in by_hand.values())
