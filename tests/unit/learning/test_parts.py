from datetime import timedelta

import pandas as pd
import pytest

from evergrow.contracts import TrainingSet
from evergrow.errors import DataError, NotEnoughData
from evergrow.learning.parts import check_fit, labels, split
from tests.builders import document, rows, training_set


@pytest.fixture
def about(tmp_path):
    return TrainingSet.model_validate_json((training_set(tmp_path) / "training_set.json").read_text())


def test_each_part_knows_only_labels_that_were_known_when_the_next_began(about):
    frame = rows()
    cut = split(about, frame)
    assert cut.fit.known_at.max() <= about.calibration_from
    assert cut.calibration.event_timestamp.min() >= about.calibration_from
    assert cut.calibration.known_at.max() <= about.holdout_from
    assert cut.holdout.event_timestamp.min() >= about.holdout_from


def test_rows_that_nothing_is_calibrated_on_are_fitted_on(about):
    frame = rows()
    whole, cut = split(about, frame, calibrates=False), split(about, frame)
    assert whole.calibration.empty
    assert whole.holdout.equals(cut.holdout)
    assert set(whole.fit.index) > set(cut.fit.index) | set(cut.calibration.index)
    assert whole.fit.known_at.max() <= about.holdout_from


def test_only_rows_whose_label_came_after_their_part_are_left_out(about):
    frame = rows()
    cut = split(about, frame)
    used = pd.concat([cut.fit, cut.calibration, cut.holdout]).index
    left_out = frame.drop(used)
    assert len(used) == len(set(used))
    assert 0 < len(left_out) <= 14  # three hours before each of the two bounds, a row every half hour
    for bound in (about.calibration_from, about.holdout_from):
        assert ((left_out.event_timestamp < bound) & (left_out.known_at > bound)).any()


def test_a_label_known_exactly_at_the_bound_was_known(about):
    frame = rows().head(1).assign(known_at=pd.Timestamp(about.calibration_from))
    assert len(split(about, frame).fit) == 1
    later = frame.assign(known_at=frame.known_at + timedelta(microseconds=1))
    assert len(split(about, later).fit) == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "must be known and finite, found 1 rows"), (2, "must be 0 or 1, found 2"), ("yes", "must be numbers")],
)
def test_a_label_that_is_none_is_an_error_that_says_why(about, value, message):
    frame = rows().head(5).astype({"late": object})
    frame.loc[3, "late"] = value
    with pytest.raises(DataError, match=f"label `late`: {message}"):
        labels(about, frame)


def test_too_few_rows_or_one_class_cannot_be_fitted(about):
    frame = rows()
    with pytest.raises(NotEnoughData, match="fit rows: needs at least 2 labelled rows, found 0"):
        check_fit(about.task, about.label, labels(about, frame.head(0)), "fit rows")
    with pytest.raises(NotEnoughData, match="needs both classes, found only late = 1"):
        check_fit(about.task, about.label, labels(about, frame[frame.late == 1]), "fit rows")


def test_a_regression_needs_no_classes(tmp_path):
    model = document(task="regression", estimator="tests.example_model.estimator:boosted_regressor")
    folder = training_set(tmp_path, model=model)
    about = TrainingSet.model_validate_json((folder / "training_set.json").read_text())
    y = labels(about, rows())
    check_fit(about.task, about.label, y, "fit rows")
    assert y.max() > 1
