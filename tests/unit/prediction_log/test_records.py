"""Lines of a segment: what is whole is read as it was, what a kill cut off is not there, what is damaged is told."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.errors import ServingError
from evergrow.prediction_log.records import Column, Layout, header_line, parse, record_line
from tests.unit.prediction_log.conftest import header, record

TEXT = st.text(max_size=8)
VALUES = st.one_of(st.none(), TEXT, st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))


def records():
    """Requests of any size, with any values."""

    def made(name, rows, scores):
        return record(name)._replace(
            values=rows, scores=scores[: len(rows)], times=[(1.5, None)] * len(rows), flags=[[]] * len(rows)
        )

    rows = st.lists(st.lists(VALUES, min_size=5, max_size=5), min_size=1, max_size=3)
    return st.builds(made, TEXT, rows, st.lists(st.floats(0, 1), min_size=3, max_size=3))


@given(st.lists(records(), max_size=4))
def test_what_was_written_is_read_as_it_was(written):
    segment = parse(header_line(header()) + b"".join(record_line(*r) for r in written))
    assert segment.header == header()
    assert [n for n, _ in segment.records] == list(range(len(written)))
    for (_, found), kept in zip(segment.records, written, strict=True):
        assert found.scores == kept.scores
        assert found.values == kept.values
        assert found.asked == kept.asked
    assert segment.damaged == 0


@given(st.lists(records(), min_size=1, max_size=4), st.data())
def test_cut_off_anywhere_what_is_left_is_the_records_before(written, data):
    lines = [header_line(header()), *(record_line(*r) for r in written)]
    content = b"".join(lines)
    cut = data.draw(st.integers(0, len(content)))
    ends = [sum(map(len, lines[: n + 1])) for n in range(len(lines))]
    whole = sum(end <= cut for end in ends)
    segment = parse(content[:cut])
    assert segment.damaged == 0
    assert (segment.header is not None) == (whole > 0)
    assert len(segment.records) == max(whole - 1, 0)
    assert segment.length == (ends[whole - 1] if whole else 0)


@given(st.integers(2, 5), st.data())
def test_a_damaged_byte_costs_the_records_of_its_line_and_is_counted(count, data):
    lines = [header_line(header()), *(record_line(*record(str(n))) for n in range(count))]
    content = bytearray(b"".join(lines))
    start = len(lines[0])
    place = data.draw(st.integers(start, len(content) - 2))
    content[place] ^= data.draw(st.integers(1, 255))
    segment = parse(bytes(content))
    assert segment.damaged >= 1
    assert count - 2 <= len(segment.records) < count
    assert all(found.asked.request_id == str(n) for n, found in segment.records if len(segment.records) == count - 1)


def test_a_segment_whose_header_is_damaged_has_no_records():
    segment = parse(b"00000000 {}\n" + record_line(*record()))
    assert (segment.header, list(segment.records), segment.damaged) == (None, [], 1)


def test_a_segment_of_a_newer_evergrow_is_refused_with_what_to_do():
    newer = header().model_copy(update={"format": 2})
    with pytest.raises(ServingError, match="format 2 cannot be read, this evergrow reads up to 1") as refused:
        parse(header_line(newer))
    assert "upgrade" in refused.value.hint


# -- what is kept of a row ---------------------------------------------------------------------------------------------

PLAN = {
    "groups": [{"views": [{"name": "planes", "features": [{"name": "seats", "type": "INT64"}]}]}],
    "on_demand": [{"outputs": [{"name": "score", "type": "DOUBLE"}]}],
}
ROW = {"tailnum": "N14228", "seats": 149, "score": 2.5, "unknown to the plan": 1}


def layout(hashed=(), left_out=(), key=b"secret"):
    return Layout.of(PLAN, {"tailnum": "STRING"}, hashed, left_out, key)


def test_keys_and_features_are_kept_by_name_and_one_that_would_hide_ours_under_another():
    assert [(c.name, c.type) for c in layout().columns] == [
        ("tailnum", "STRING"),
        ("seats", "INT64"),
        ("value_score", "DOUBLE"),
    ]
    assert list(layout().values(ROW)) == ["N14228", 149, 2.5]


def test_a_column_that_is_left_out_is_nowhere():
    kept = layout(left_out=["tailnum"])
    assert "N14228" not in str(kept.values(ROW))
    assert "tailnum" not in {column.name for column in kept.columns}


def test_a_hashed_column_tells_equal_values_and_nothing_else():
    kept = layout(hashed=["tailnum", "seats"])
    first, again, other = (kept.values({**ROW, "tailnum": name}) for name in ("N1", "N1", "N2"))
    assert first == again != other
    assert "N1" not in str(first)
    assert [column.type for column in kept.columns] == ["STRING", "STRING", "DOUBLE"]
    assert kept.values({**ROW, "tailnum": None})[0] is None
    assert layout(hashed=["tailnum"], key=b"another").values(ROW)[0] != layout(hashed=["tailnum"]).values(ROW)[0]


def test_hashing_without_a_secret_and_columns_that_do_not_exist_are_refused():
    with pytest.raises(ServingError, match="tailnum cannot be hashed without a secret") as refused:
        layout(hashed=["tailnum"], key=None)
    assert "EVERGROW_HASH_KEY" in refused.value.hint
    with pytest.raises(ServingError, match="serving.log.leftOut: the rows have no 'tail'; they have score, seats"):
        layout(left_out=["tail"])


def test_values_that_json_has_no_word_for_are_missing():
    (kept,) = parse(header_line(header()) + record_line(*record()._replace(values=[[math.nan]]))).records
    assert kept[1].values == [[None]]


def test_a_column_is_what_feast_calls_it():
    assert Layout([Column(name="a", type="BOOL")]).columns == (Column(name="a", type="BOOL"),)
