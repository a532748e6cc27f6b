import json
from pathlib import Path

import jsonschema
import pytest

from evergrow.spec import ContinualModel, ModelRollout, parse
from evergrow.spec.schema import PAGES, generated, json_schema, main, reference_page
from tests.unit.spec.test_load import DOCUMENT, changed


def test_the_schema_accepts_what_the_models_accept():
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    validator.validate(DOCUMENT)
    validator.validate(parse(DOCUMENT).dump())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.evaluation.holdout", "x"),
        ("spec.trainig", {}),
        ("spec.evaluation.gate.alpha", 0.9),
        ("spec.task", "a"),
    ],
)
def test_the_schema_refuses_what_the_models_refuse(path, value):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(path, value), json_schema())


@pytest.mark.parametrize("document", PAGES, ids=PAGES.values())
def test_every_key_of_a_document_is_explained(document):
    schema = json_schema(document)
    parts = [schema, *schema["$defs"].values()]
    silent = [
        f"{part['title']}.{key}"
        for part in parts
        for key, field in part.get("properties", {}).items()
        if not field.get("description") and "$ref" not in field and "const" not in field
    ]
    assert silent == []


@pytest.mark.parametrize("document", [ContinualModel, ModelRollout])
def test_the_reference_page_has_a_row_for_every_key(document):
    page = reference_page(document)
    keys = {key for part in json_schema(document)["$defs"].values() for key in part.get("properties", {})}
    assert [key for key in sorted(keys) if f"| `{key}` |" not in page] == []


def test_a_stale_generated_file_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert main(["--check"]) == 0
    path = Path("docs/reference/continualmodel.schema.json")
    path.write_text(json.dumps({}))
    assert main(["--check"]) == 1
    assert str(path) in capsys.readouterr().err


def test_the_repository_holds_what_is_generated():
    root = Path(__file__).parents[3]
    assert [p.name for p, text in generated(root).items() if p.read_text(encoding="utf-8") != text] == []
