"""The report's page says what the report says."""

import re
from datetime import timedelta

import pytest

from evergrow.contracts import Check, SetAside, Transfer, Verdict
from evergrow.evaluation.page import MEANING, render
from tests.unit.pages import builders as pages

ROWS = pages.snapshot(200)


def page(report, model=None, task="binary-classification"):
    return render(report, model or pages.document(task), pages.about(ROWS, task))


def text(html):
    """What is read: no style, no tags, single spaces."""
    html = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


@pytest.mark.parametrize("outcome", ["pass", "fail", "inconclusive", "error"])
def test_the_verdict_comes_first_in_words_and_with_both_numbers(outcome):
    verdict = Verdict(outcome=outcome, reason="log_loss 0.4123 vs champion 0.4330")
    said = text(page(pages.report(verdict=verdict, checks=(Check(name="champion", verdict=verdict),))))

    assert said.index(MEANING[outcome]) < said.index("Checks of the gate")
    assert "0.4123" in said[: said.index("Checks of the gate")]
    assert "0.433" in said[: said.index("Checks of the gate")]


def test_challenger_and_champion_are_not_swapped():
    said = text(page(pages.report()))

    assert "challenger, log_loss 0.4123 [0.4023, 0.4223] champion (3), log_loss 0.433 [0.423, 0.443]" in said
    assert "roc_auc higher is better 0.762 [0.752, 0.772] 0.731 [0.721, 0.741]" in said


def test_slices_are_sorted_worst_first_by_which_way_is_better():
    values = {"log_loss": [0.3, 0.5, 0.4], "roc_auc": [0.6, 0.8, 0.7]}
    for primary, worst_first in (("log_loss", ["b", "c", "a"]), ("roc_auc", ["a", "c", "b"])):
        parts = tuple(
            pages.slices("origin", [name])[0].model_copy(update={"metrics": (pages.metric(primary, value),)})
            for name, value in zip("abc", values[primary], strict=True)
        )
        said = text(page(pages.report(primary=primary, slices=parts)))

        part = said[said.index(f"{primary} by origin") :]
        assert re.findall(r" ([abc]) 52,310 ", part)[:3] == worst_first


def test_rows_of_the_confusion_matrix_are_true_labels():
    curves = {
        **pages.binary_curves(),
        "confusion": {"labels": ["0", "1"], "matrix": [[90, 10], [4, 6]], "threshold": 0.2},
    }
    said = text(page(pages.report(curves=curves)))

    assert "0 90 90 % 10 10 % 1 4 40 % 6 60 %" in said


def transfer(slice_="", forgotten=False, **changes):
    given = {
        "since": pages.START, "until": pages.START + timedelta(days=30), "slice": slice_, "rows": 1234, "loss": 0.51,
        "champion_loss": 0.4, "transfer": -0.11, "low": -0.15, "high": -0.07, "p_value": 0.001, "forgotten": forgotten,
    }  # fmt: skip
    return Transfer(**{**given, **changes})


def test_what_is_kept_of_earlier_periods_is_told_with_both_losses():
    few = transfer("origin=EWR", low=None, high=None, p_value=None)
    said = text(page(pages.report(transfers=(transfer(forgotten=True), transfer(), few))))

    assert "2013-01-01 to 2013-01-31 all 1,234 0.51 0.4 -0.11 [-0.15, -0.07] forgotten" in said
    assert "all 1,234 0.51 0.4 -0.11 [-0.15, -0.07] –" in said
    assert "origin=EWR 1,234 0.51 0.4 -0.11 too few" in said
    assert "Earlier periods" not in text(page(pages.report()))


def test_what_is_set_aside_is_told_with_the_data():
    about = pages.about(ROWS).model_copy(update={"set_aside": SetAside(share=0.05, keys=("flight",))})

    assert "set aside (0.05 of all rows)" in text(render(pages.report(), pages.document(), about))
    assert "set aside" not in text(page(pages.report()))


def test_what_was_left_out_is_named():
    assert "carrier = OO (12 rows, fewer than 100 rows)" in text(page(pages.report()))


def test_a_regression_shows_residuals_and_no_roc_curve():
    said = text(page(pages.regression_report(), task="regression"))

    assert "Quantiles of label − prediction" in said
    assert "ROC" not in said


def test_a_report_without_metrics_slices_or_curves_is_still_a_page():
    verdict = Verdict(outcome="error", reason="log_loss: no rows to compare on")
    bare = pages.report(metrics=(), champion_metrics=(), slices=(), months=(), curves={}, verdict=verdict, checks=())

    assert "no rows to compare on" in text(page(bare))


def test_whatever_users_name_things_is_escaped():
    evil = "<script>alert(1)</script>"
    verdict = Verdict(outcome="fail", reason=evil)
    report = pages.report(
        model=evil,
        champion=evil,
        slices=pages.slices(evil, [evil]),
        checks=(Check(name=evil, verdict=verdict),),
        verdict=verdict,
        curves={**pages.binary_curves(), "importance": {evil: 1.0}},
    )

    assert "<script" not in page(report)


def test_the_same_report_gives_the_same_bytes():
    assert page(pages.report()) == page(pages.report())


def test_lineage_names_every_digest_in_full():
    html, about = page(pages.report()), pages.about(ROWS)

    for digest in (pages.report().identity, pages.report().model_digest, about.data_digest, about.source_digest):
        assert digest in html


def test_parts_of_the_identity_are_shown_only_if_they_give_the_identity():
    from evergrow.learning.identity import identify

    identity = identify(pages.document(), pages.about(ROWS))

    assert identity.code in page(pages.report(identity=identity.digest))
    assert identity.code not in page(pages.report())


@pytest.mark.parametrize(("calibration", "shown"), [("none", False), ("sigmoid", True)])
def test_calibration_rows_are_listed_only_if_something_is_calibrated_on_them(calibration, shown):
    said = text(page(pages.report(), pages.document(training={"calibration": calibration})))

    assert ("calibration, search and selection" in said) == shown


def test_a_sliding_window_is_told():
    training = {"window": {"kind": "sliding", "length": "90d"}}

    assert "fitted on (the newest 90 days of)" in text(page(pages.report(), pages.document(training=training)))
