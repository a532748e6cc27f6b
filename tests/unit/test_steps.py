"""Steps as `evergrow run` shows them."""

from __future__ import annotations

import pytest

from evergrow.cli.output import Steps
from evergrow.journal import Event


def told(*events: tuple[str, int, str], capsys: pytest.CaptureFixture[str]) -> str:
    with Steps("training") as steps:
        for at, (what, process, text) in enumerate(events):
            steps(Event(step="train", process=process, at=float(at), what=what, text=text))
    return capsys.readouterr().err


def test_a_step_is_told_with_what_it_said_when_it_ends(capsys):
    out = told(("started", 1, ""), ("noted", 1, "9 rows"), ("noted", 1, "onnx"), ("ended", 1, ""), capsys=capsys)
    assert "✓ train 3.0 s  9 rows; onnx" in out


@pytest.mark.parametrize("last", ["noted", "failed", "ended"])
def test_a_pod_that_was_lost_before_its_step_began_is_told_of_all_the_same(capsys, last):
    out = told(("noted", 1, "its pod was lost; trying again"), (last, 1, ""), ("ended", 2, ""), capsys=capsys)
    assert "✓ train" in out
    assert ("its pod was lost; trying again" in out) == (last != "noted")
