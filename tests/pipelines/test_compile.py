"""What a cluster is given is what was last looked at: the compiled pipelines are kept and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.compile import PIPELINES, compile_all

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    files = compile_all(tmp_path_factory.mktemp("compiled"))
    return {file.stem: file.read_text(encoding="utf-8") for file in files}


@pytest.fixture(params=sorted(PIPELINES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def executors(text: str) -> dict[str, dict[str, Any]]:
    (document,) = (d for d in yaml.safe_load_all(text) if "deploymentSpec" in d)
    return document["deploymentSpec"]["executors"]


def test_every_pipeline_compiles_to_its_golden_file(compiled: dict[str, str], name: str) -> None:
    assert compiled[name] == (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8"), "run `make generate` and look"


def test_no_golden_file_is_left_of_a_pipeline_that_is_gone() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(PIPELINES)


def test_nothing_is_installed_when_a_step_starts(compiled: dict[str, str], name: str) -> None:
    assert all("pip" not in str(e["container"]["command"]) for e in executors(compiled[name]).values())


def test_local_kfp_takes_the_image_for_one_that_runs_python(compiled: dict[str, str], name: str) -> None:
    assert all("python" in e["container"]["image"] for e in executors(compiled[name]).values())


def test_the_body_of_every_component_is_one_import_and_one_call(compiled: dict[str, str], name: str) -> None:
    for executor in executors(compiled[name]).values():
        body = executor["container"]["command"][-1].split('"""')[-1]
        statements = [line.strip() for line in body.splitlines() if line.strip()]
        assert len(statements) == 2
        assert statements[0].startswith("from components.")


def test_caching_is_off_for_what_a_cache_key_cannot_see(compiled: dict[str, str], name: str) -> None:
    assert "enableCache: true" not in compiled[name]
