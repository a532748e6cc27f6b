"""The harness itself: Helm that is missing, golden files that differ."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.charts import rendering
from tests.charts.rendering import assert_golden, golden_text

SECRET = {
    "kind": "Secret",
    "metadata": {"name": "redis", "namespace": "a"},
    "data": {"password": base64.b64encode(b"wK3vX8mPq2RtY7nB4cLd9fGh").decode()},
}
CONFIG = {"kind": "ConfigMap", "metadata": {"name": "redis"}, "data": {"redis.conf": "appendonly yes\nsave 60 1\n"}}


def test_without_helm_a_test_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_found_helm", lambda: None)
    monkeypatch.delenv("EVERGROW_REQUIRE_HELM", raising=False)
    with pytest.raises(pytest.skip.Exception, match="helm is not on PATH"):
        rendering.helm("version")


def test_where_helm_must_be_there_a_test_fails_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_found_helm", lambda: None)
    monkeypatch.setenv("EVERGROW_REQUIRE_HELM", "1")
    with pytest.raises(pytest.fail.Exception, match="EVERGROW_REQUIRE_HELM=1"):
        rendering.helm("version")


def test_a_golden_file_is_written_when_asked_and_compared_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    golden = tmp_path / "tests/golden.yaml"
    monkeypatch.setattr(rendering, "ROOT", tmp_path)
    monkeypatch.delenv("EVERGROW_UPDATE_GOLDEN", raising=False)
    with pytest.raises(AssertionError, match="EVERGROW_UPDATE_GOLDEN=1"):
        assert_golden([CONFIG], golden)
    monkeypatch.setenv("EVERGROW_UPDATE_GOLDEN", "1")
    assert_golden([CONFIG], golden)
    monkeypatch.delenv("EVERGROW_UPDATE_GOLDEN")
    assert_golden([CONFIG], golden)
    with pytest.raises(AssertionError):
        assert_golden([CONFIG, SECRET], golden)


def test_golden_text_masks_a_password_that_happens_to_have_no_digit() -> None:
    secret = {"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "p" + "aB" * 15 + "c"}}
    assert "password: <generated>" in golden_text([secret])


def test_golden_text_masks_what_is_generated_and_shows_the_rest() -> None:
    text = golden_text([SECRET, CONFIG])
    assert "password: <generated>" in text
    assert "appendonly yes\n    save 60 1" in text
    assert text.index("ConfigMap") < text.index("Secret")


@pytest.mark.parametrize(
    "kept", ["serving.kserve.io/s3-endpoint", "EVERGROW_FEATURE_REPOSITORY", "readOnlyRootFilesystem"]
)
def test_golden_text_masks_no_name(kept: str) -> None:
    assert kept in golden_text([{**CONFIG, "data": {"x": kept}}])
