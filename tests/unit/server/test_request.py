import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.server.refusal import Refusal
from components.server.request import Schema, Tensor, json_tensors

FIELDS = {
    "origin": "STRING",
    "carrier": "INT32",
    "flights": "INT64",
    "distance": "DOUBLE",
    "international": "BOOL",
    "departs": "UNIX_TIMESTAMP",
}
SCHEMA = Schema(FIELDS, max_batch=5)
GOOD = {
    "origin": "EWR",
    "carrier": 1,
    "flights": 2**40,
    "distance": 1.5,
    "international": True,
    "departs": "2013-07-01T09:30:00-04:00",
}


def refusal(body) -> Refusal:
    with pytest.raises(Refusal) as caught:
        SCHEMA.v1(body)
    return caught.value


def test_a_good_row_is_read_as_it_is_with_instants_in_utc():
    (read,) = SCHEMA.v1({"instances": [GOOD]})
    assert read["departs"].isoformat() == "2013-07-01T13:30:00+00:00"
    assert {**read, "departs": GOOD["departs"]} == GOOD


def test_every_field_may_be_null():
    assert SCHEMA.v1({"instances": [dict.fromkeys(FIELDS)]}) == [dict.fromkeys(FIELDS)]


def test_whole_numbers_are_read_as_numbers_and_whole_floats_as_whole_numbers():
    (read,) = SCHEMA.v1({"instances": [{**GOOD, "distance": 3, "carrier": 7.0}]})
    assert (read["distance"], read["carrier"]) == (3.0, 7)
    assert (type(read["distance"]), type(read["carrier"])) == (float, int)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("origin", 7, "must be a string, found 7"),
        ("origin", ["EWR"], "must be a string, found ['EWR']"),
        ("carrier", "7", "must be a whole number, found '7'"),
        ("carrier", 7.5, "must be a whole number, found 7.5"),
        ("carrier", True, "must be a whole number, found True"),
        ("carrier", 2**31, "must fit into 32 bits, found 2147483648"),
        ("flights", 2**63, "must fit into 64 bits, found 9223372036854775808"),
        ("distance", "far", "must be a number, found 'far'"),
        ("distance", False, "must be a number, found False"),
        ("distance", math.inf, "must be a finite number; send null for a value that is missing, found inf"),
        ("distance", math.nan, "must be a finite number; send null for a value that is missing, found nan"),
        ("international", 1, "must be true or false, found 1"),
        ("departs", "2013-07-01T09:30", "must be ISO 8601 with an offset"),
        ("departs", "yesterday", "must be ISO 8601 with an offset"),
        ("departs", 1e20, "must be ISO 8601 with an offset"),
        ("departs", {}, "must be ISO 8601 with an offset"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_row_field_rule_and_value(field, value, rule):
    refused = refusal({"instances": [GOOD, {**GOOD, field: value}]})
    assert refused.status == 400
    assert refused.message.startswith(f"instances[1].{field}: {rule}")


def test_a_long_value_is_cut_in_the_message():
    assert len(refusal({"instances": [{**GOOD, "distance": "x" * 10_000}]}).message) < 300


def test_a_missing_field_says_how_to_add_it():
    lacking = {k: v for k, v in GOOD.items() if k != "distance"}
    message = "instances[0]: field 'distance' is required; add it (DOUBLE), with null if there is no value"
    assert refusal({"instances": [lacking]}).message == message


@pytest.mark.parametrize(
    ("change", "near"),
    [
        (("distance", "distnace"), "did you mean 'distance'?"),
        (("origin", "ORIGIN"), "did you mean 'origin'?"),
        ((None, "zzz"), "the fields are origin, carrier"),
    ],
)
def test_an_unknown_field_is_answered_with_the_nearest_known_one(change, near):
    old, new = change
    instance = {k: v for k, v in GOOD.items() if k != old} | {new: 1}
    assert f"instances[0]: unknown field {new!r}; {near}" in refusal({"instances": [instance]}).message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "body: must be a JSON object, found a list"),
        (None, "body: must be a JSON object, found nothing"),
        ({}, "body: `instances` is required"),
        ({"instance": [GOOD]}, "body: unknown key 'instance'; did you mean 'instances'?"),
        ({"instances": [GOOD], "x": 1}, "body: unknown key 'x'"),
        ({"instances": GOOD}, "instances: must be a list of objects, found an object"),
        ({"instances": [[1, 2]]}, "instances[0]: must be an object of field names and values, found a list"),
        ({"instances": [None]}, "instances[0]: must be an object of field names and values, found nothing"),
        ({"instances": []}, "instances: must have at least one row, found none"),
    ],
)
def test_a_body_of_another_shape_is_refused_with_the_right_one(body, message):
    assert refusal(body).message.startswith(message)


def test_as_many_rows_as_allowed_are_read_and_one_more_is_refused():
    assert len(SCHEMA.v1({"instances": [GOOD] * 5})) == 5
    refused = refusal({"instances": [GOOD] * 6})
    assert (refused.status, "at most 5 rows (`serving.maxBatch`), found 6" in refused.message) == (413, True)


# -- V2 ----------------------------------------------------------------------------------------------------------------


def tensors(rows=(GOOD, GOOD)):
    kinds = {"origin": "BYTES", "carrier": "INT32", "flights": "INT64", "distance": "FP64"}
    kinds |= {"international": "BOOL", "departs": "BYTES"}
    return [Tensor(name, kind, [len(rows)], [row[name] for row in rows]) for name, kind in kinds.items()]


def test_v2_tensors_and_v1_instances_of_the_same_values_are_the_same_rows():
    rows = [GOOD, {**GOOD, "origin": "JFK", "distance": None}]
    assert SCHEMA.v2(tensors(rows)) == SCHEMA.v1({"instances": rows})


def test_v2_inputs_may_come_in_any_order_as_columns_and_as_bytes():
    given_ = [Tensor(t.name, t.datatype, [2, 1], t.data) for t in reversed(tensors())]
    given_[-1] = Tensor("origin", "BYTES", [2], [b"EWR", b"EWR"])
    assert SCHEMA.v2(given_) == SCHEMA.v1({"instances": [GOOD, GOOD]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "orign"}, "inputs: unknown field 'orign'; did you mean 'origin'?"),
        ({"datatype": "FP32"}, "inputs[0] (origin): datatype must be BYTES, found 'FP32'"),
        ({"shape": [3]}, "inputs[0] (origin): must have shape [2], as the first input has values, found shape [3]"),
        ({"data": ["EWR", 5]}, "input origin, row 1: must be a string, found 5"),
        ({"data": [b"\xff", "x"]}, "input origin, row 0: must be a string, found b'\\xff'"),
        ({"data": []}, "inputs: must have at least one row"),
        ({"name": "carrier"}, "inputs: 'carrier' occurs twice"),
    ],
)
def test_a_wrong_v2_input_is_named_with_rule_and_value(change, message):
    first, *others = tensors()
    changed = Tensor(**{**first.__dict__, **change})
    with pytest.raises(Refusal) as caught:
        SCHEMA.v2([changed, *others])
    assert caught.value.message.startswith(message)


def test_a_v2_request_without_a_field_or_without_inputs_is_refused():
    with pytest.raises(Refusal, match="field 'departs' is required"):
        SCHEMA.v2(tensors()[:-1])
    with pytest.raises(Refusal, match="field 'origin' is required"):
        SCHEMA.v2([])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": []}, "inputs: must be a list of tensors, found nothing"),
        ([], "inputs: must be a list of tensors, found a list"),
        ({"inputs": [3]}, r"inputs\[0\]: must be an object, found a number"),
        ({"inputs": [{"name": 3}]}, r"inputs\[0\]: `name` must be a string, found a number"),
        ({"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": 3}]}, r"`data` must be a list, found a"),
    ],
)
def test_a_v2_body_of_another_shape_is_refused(body, message):
    with pytest.raises(Refusal, match=message):
        json_tensors(body)


# -- anything at all ---------------------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
nearly = st.fixed_dictionaries({name: st.just(value) | anything for name, value in GOOD.items()})
bodies = anything | st.fixed_dictionaries({"instances": st.lists(nearly | anything, max_size=7) | anything})


@given(bodies)
def test_whatever_a_v1_body_is_it_gives_rows_of_the_schema_or_a_refusal(body):
    try:
        rows = SCHEMA.v1(body)
    except Refusal as refused:
        assert refused.status in (400, 413)
        orjson.dumps(refused.message)
    else:
        assert 1 <= len(rows) <= 5
        assert all(list(row) == list(FIELDS) for row in rows)


names = st.sampled_from([*FIELDS, "other"])
datatypes = st.sampled_from(["BYTES", "FP64", "INT64", "INT32", "BOOL", "X"])
tensor_like = st.fixed_dictionaries(
    {
        "name": names | anything,
        "datatype": datatypes | anything,
        "shape": st.lists(st.integers(0, 3), max_size=2) | anything,
        "data": st.lists(anything, max_size=3) | anything,
    }
)


@given(anything | st.fixed_dictionaries({"inputs": st.lists(tensor_like | anything, max_size=7)}))
def test_whatever_a_v2_body_is_it_gives_rows_of_the_schema_or_a_refusal(body):
    try:
        SCHEMA.v2(json_tensors(body))
    except Refusal as refused:
        assert refused.status in (400, 413)
        orjson.dumps(refused.message)


@given(st.data())
def test_one_wrong_value_in_v2_is_refused_or_read_like_in_v1(data):
    name = data.draw(st.sampled_from(list(FIELDS)))
    row = {**GOOD, name: data.draw(anything)}

    def outcome(read):
        try:
            return read()
        except Refusal:
            return "refused"

    v1 = outcome(lambda: SCHEMA.v1({"instances": [row]}))
    v2 = outcome(lambda: SCHEMA.v2(tensors([row])))
    assert v1 == v2
