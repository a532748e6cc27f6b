"""Secrets are taken out of texts, and nothing else is."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.redaction import MASK, Redaction

SECRET = "wJalrXUtnFEMI/K7MDENG+bPx"


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "EVERGROW_HASH_KEY", "MLFLOW_TRACKING_PASSWORD", "API_TOKEN"],
)
def test_the_value_of_a_variable_whose_name_sounds_secret_is_found_anywhere(name):
    assert Redaction({name: SECRET})(f"cannot sign ({SECRET})") == f"cannot sign ({MASK})"


def test_a_secret_is_found_as_urls_write_it_too():
    assert SECRET not in Redaction({"X_SECRET": SECRET})("https://s3/?key2=wJalrXUtnFEMI%2FK7MDENG%2BbPx")
    assert "MDENG" not in Redaction({"X_SECRET": SECRET})("https://s3/?key2=wJalrXUtnFEMI%2FK7MDENG%2BbPx")


def test_the_password_of_a_variable_that_is_a_url_is_found_without_its_url():
    redacted = Redaction({"EVERGROW_ONLINE_STORE": "redis://:hunter2x@features:6379/0"})
    assert redacted("WRONGPASS hunter2x; features:6379") == f"WRONGPASS {MASK}; features:6379"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("redis://me:pa55-word@host:6379/0 is away", "pa55-word"),
        ("postgresql+psycopg2://feast:pa55@db/feast", "pa55"),
        ("authorization: Bearer abc.def.ghi", "abc.def.ghi"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "dXNlcjpwYXNz"),
        ("[(b'authorization', b'Bearer abcdefghijk')]", "abcdefghijk"),
        ('{"Cookie": "session=0123456789"}', "0123456789"),
        ("sent Bearer eyJhbGciOiJIUzI1NiJ9.e30.x with it", "eyJhbGciOiJIUzI1NiJ9"),
        ("GET /b/o?X-Amz-Credential=AK%2F2013&X-Amz-Signature=deadbeef&x=1", "deadbeef"),
        ("key AKIAIOSFODNN7EXAMPLE does not exist", "AKIAIOSFODNN7EXAMPLE"),
        ("connect(host='db', password='pa55word')", "pa55word"),
        ('{"aws_secret_access_key": "pa55word", "region": "x"}', "pa55word"),
    ],
)
def test_a_secret_is_found_by_its_form(text, secret):
    redacted = Redaction({})(text)
    assert secret not in redacted
    assert MASK in redacted


@pytest.mark.parametrize(
    "text",
    [
        "redis at features:6379/0 cannot be reached: Connection refused; try again",
        "http://mlflow.evergrow-platform:5000 does not answer",
        "s3://evergrow-dev/state/prediction_log/delays/day=2013-10-01/host-1.parquet",
        "serving.log.hashed: tailnum cannot be hashed without a secret",
        "table 'flights': 12 of 30 rows break its rules, at most 20% may",
        "refused v1: 400 value: distance",
        "identity 3f2a9c017b55 is version 3: fetched, not trained again",
    ],
)
def test_what_is_no_secret_stays(text):
    assert Redaction({"EVERGROW_HASH_KEY": "k", "EVERGROW_HOME": "/home/evergrow/state"})(text) == text


@given(st.binary(min_size=12, max_size=40).map(lambda b: base64.b64encode(b).decode()), st.text(), st.text())
def test_no_secret_of_the_environment_survives(secret, before, after):
    redacted = Redaction({"SOME_SECRET": secret})
    assert secret not in redacted(f"{before}{secret}{after}")
    assert secret not in json.dumps(redacted.of({"a": [before + secret, {"b": secret}], "c": 1}))
