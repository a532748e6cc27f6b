"""What holds for every chart in every environment."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.charts.policies import POLICIES, Policy, Release
from tests.charts.rendering import CHARTS, EXTERNAL, GOLDEN, Variant, assert_golden, lint, render_error, variants


@pytest.mark.parametrize("check", POLICIES, ids=lambda check: check.__name__)
def test_every_policy_holds(release: Release, check: Policy) -> None:
    assert list(check(release)) == []


def test_what_is_rendered_is_the_golden_file(release: Release, variant: Variant) -> None:
    assert_golden(release.objects, variant.golden)


def test_no_golden_file_is_left_of_a_variant_that_is_gone() -> None:
    assert set(GOLDEN.glob("*/*.yaml")) == {variant.golden for variant in variants()}


def test_nothing_is_declared_external_for_a_variant_that_is_gone() -> None:
    declared = [(file.stem, environment) for file in EXTERNAL.glob("*.yaml") for environment in _keys(file.read_text())]
    assert set(declared) <= {(variant.chart, variant.environment) for variant in variants()}


def _keys(text: str) -> list[str]:
    return list(yaml.safe_load(text) or {})


def test_helm_finds_nothing_to_complain_about(variant: Variant) -> None:
    done = lint(variant.chart, [variant.values])
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_chart_has_the_three_environments(chart: str) -> None:
    assert {v.environment for v in variants() if v.chart == chart} >= {"dev", "staging", "production"}


def test_a_misspelt_key_fails_with_its_path(variant: Variant) -> None:
    assert "misspelt" in render_error(variant.chart, [variant.values], set={"misspelt": 1})


def test_every_object_of_the_schema_is_closed(chart: str) -> None:
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text(encoding="utf-8"))
    assert list(_open_objects(schema, "")) == []


def _open_objects(part: object, path: str) -> list[str]:
    """Paths of parts of a schema that name their properties and let others through."""
    if isinstance(part, list):
        return [found for i, each in enumerate(part) for found in _open_objects(each, f"{path}/{i}")]
    if not isinstance(part, dict):
        return []
    is_open = isinstance(part.get("properties"), dict) and part.get("additionalProperties") is not False
    inner = [found for key, each in part.items() for found in _open_objects(each, f"{path}/{key}")]
    is_condition = {"if", "then", "else", "not"} & set(path.split("/"))
    return [path or "/", *inner] if is_open and not is_condition else inner
