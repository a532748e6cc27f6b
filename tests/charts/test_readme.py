"""The READMEs of charts say what the charts have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charts import readme
from charts.readme import END, START, Row, current, main, rows
from tests.charts.rendering import CHARTS

SCHEMA = {
    "properties": {
        "image": {"$ref": "#/$defs/image", "description": "What runs."},
        "store": {
            "properties": {
                "mode": {"enum": ["bundled", "external"], "default": "bundled", "description": "Where | whose."},
                "hosts": {"type": "array", "items": {"type": "string"}, "description": "Names.\nAll of them."},
                "resources": {"type": "object", "properties": {"cpu": {"type": "string"}}, "description": "CPU."},
            },
            "required": ["hosts"],
        },
    },
    "$defs": {"image": {"type": "string"}},
}
VALUES = "image: web:1\nstore:\n  resources: {cpu: 10m}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chart whose README has an empty table."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "values.schema.json").write_text(json.dumps(SCHEMA))
    (folder / "values.yaml").write_text(VALUES)
    (folder / "README.md").write_text(f"# web\n\n{START}\n{END}\n\nMore.\n")
    monkeypatch.setattr(readme, "CHARTS", tmp_path)
    return folder


def test_every_chart_has_a_readme_that_is_current(chart: str) -> None:
    text = (CHARTS / chart / "README.md").read_text(encoding="utf-8")
    assert text == current(CHARTS / chart), "run `python charts/readme.py`"


def test_every_value_of_every_chart_has_a_meaning(chart: str) -> None:
    assert [row.path for row in rows(CHARTS / chart) if not row.meaning] == []


def test_a_value_has_its_type_its_default_and_its_meaning(folder: Path) -> None:
    assert list(rows(folder)) == [
        Row("image", "string", '"web:1"', "What runs."),
        Row("store.mode", "`bundled`, `external`", '"bundled"', "Where | whose."),
        Row("store.hosts", "list of strings", None, "Names.\nAll of them."),
        Row("store.resources", "object", '{"cpu": "10m"}', "CPU."),
    ]


def test_a_row_is_one_line_with_four_cells(folder: Path) -> None:
    lines = readme.table(folder).splitlines()
    assert lines[3] == r'| `store.mode` | `bundled`, `external` | `"bundled"` | Where \| whose. |'
    assert lines[4] == "| `store.hosts` | list of strings | **required** | Names. All of them. |"


def test_a_readme_that_is_not_current_is_found_and_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 1
    assert "web/README.md" in capsys.readouterr().err
    assert main([]) == 0
    assert main(["--check"]) == 0
    text = (folder / "README.md").read_text()
    assert "| `image` |" in text
    assert text.startswith("# web")
    assert text.endswith("More.\n")


def test_a_readme_without_a_place_for_the_table_fails(folder: Path) -> None:
    (folder / "README.md").write_text("# web\n")
    with pytest.raises(ValueError, match=r"web/README.md must have the lines"):
        current(folder)
