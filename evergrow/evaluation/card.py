"""The model card: what a version is for, what it was made of, how good it is and where it is not. Markdown."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from evergrow.contracts import EvaluationReport, Metric, Slice, TrainedModel, Transfer
from evergrow.spec import ContinualModel

LIMITS = (
    "Scores hold for rows like those it was judged on; see the slices for where it is weaker.",
    "Its features must be known when the prediction is asked: a row that lacks some is answered and flagged.",
)


def readme_of(document: ContinualModel) -> str:
    """The README beside the code of the model's source; empty if there is none."""
    module = document.spec.source.entrypoint.partition(":")[0]
    found = importlib.util.find_spec(module)
    readme = Path(found.origin).with_name("README.md") if found and found.origin else None
    return readme.read_text(encoding="utf-8") if readme and readme.exists() else ""


def model_card(document: ContinualModel, trained: TrainedModel, report: EvaluationReport, readme: str = "") -> str:
    """The card of one version.

    Args:
        document: what describes the model.
        trained: the version's bundle.
        report: how it was judged.
        readme: what its authors wrote of purpose and limits; opens the card.
    """
    opening = readme.strip() or f"# {document.name}\n\n{document.spec.description}"
    found = (*_judged(report), *_slices(report), *_kept(report), *_weights(report))
    sections = [opening, *_made_of(document, trained), *found]
    return "\n\n".join([*sections, "## Limits", _bullets(LIMITS)]) + "\n"


def _made_of(document: ContinualModel, trained: TrainedModel) -> Iterator[str]:
    first, last = trained.trained_on
    yield "## This version"
    yield _bullets(
        [
            f"Label: `{document.spec.label.column}`. {document.spec.label.description}".strip(),
            f"Fitted on {trained.rows:,} rows from {first:%Y-%m-%d} to {last:%Y-%m-%d}, as known on "
            f"{trained.as_of:%Y-%m-%d}; mean label {trained.prior:.4g}.",
            f"Features ({len(trained.features)}, service `{trained.feature_service}`): "
            + ", ".join(f"`{f.name}`" for f in trained.features)
            + ".",
            *_left_out(trained),
            f"Estimator: `{document.spec.training.estimator.entrypoint}`, run by {trained.backend} "
            f"({trained.backend_reason}).",
            f"Calibration: {trained.calibration['kind']}.",
            f"Update: {document.spec.training.update.kind}"
            + (f", gone on from identity `{trained.parent}`." if trained.parent else "."),
            f"Identity: `{trained.identity.digest}`.",
        ]
    )


def _left_out(trained: TrainedModel) -> Iterator[str]:
    if trained.left_out:
        told = ", ".join(f"`{name}` ({worth:+.2g})" for name, worth in trained.left_out.items())
        yield (
            f"Left out ({len(trained.left_out)}), with by how much the loss rose as each was shuffled: {told}. "
            "What they hold changes no score."
        )


def _judged(report: EvaluationReport) -> Iterator[str]:
    first, last = report.holdout
    yield "## How good it is"
    yield (
        f"On {report.rows:,} held-out rows from {first:%Y-%m-%d} to {last:%Y-%m-%d}, against the champion "
        f"({report.champion}) on the same rows. Brackets are 95 % intervals."
    )
    champion = {m.name: m for m in report.champion_metrics}
    yield _table(
        ("metric", "this version", "champion"),
        [(m.name, _number(m), _number(champion[m.name]) if m.name in champion else "–") for m in report.metrics],
    )
    yield f"**{report.verdict.outcome}**: {report.verdict.reason}"


def _slices(report: EvaluationReport) -> Iterator[str]:
    if not report.slices:
        return
    yield "## By slice"
    names = [m.name for m in report.metrics]
    yield _table(("slice", "rows", *names), [_slice_row(part, names) for part in report.slices])


def _slice_row(part: Slice, names: Sequence[str]) -> tuple[str, ...]:
    metrics: Mapping[str, Metric] = {m.name: m for m in part.metrics}
    rows = max((m.rows for m in part.metrics), default=0)
    return (
        f"{part.column} = {part.value}",
        f"{rows:,}",
        *(_number(metrics[n]) if n in metrics else "–" for n in names),
    )


def _kept(report: EvaluationReport) -> Iterator[str]:
    if not report.transfers:
        return
    yield "## What it has kept"
    yield (
        f"Mean {report.primary} on rows of earlier periods that no version is fitted on. Backward transfer is the "
        "champion's less this version's: below 0, it has become worse there."
    )
    head = ("period", "slice", "rows", "this version", "champion", "backward transfer")
    yield _table(head, [_kept_row(one) for one in report.transfers])


def _kept_row(one: Transfer) -> tuple[str, ...]:
    ends = f" [{one.low:.4g}, {one.high:.4g}]" if one.low is not None and one.high is not None else ""
    return (
        f"{one.since:%Y-%m-%d} to {one.until:%Y-%m-%d}",
        one.slice or "all",
        f"{one.rows:,}",
        f"{one.loss:.4g}",
        f"{one.champion_loss:.4g}",
        f"{one.transfer:.4g}{ends}{', forgotten' if one.forgotten else ''}",
    )


def _weights(report: EvaluationReport) -> Iterator[str]:
    importance = report.curves.get("importance")
    if isinstance(importance, Mapping) and importance:
        first = sorted(importance.items(), key=lambda item: -abs(float(item[1])))[:10]
        yield "## What it looks at"
        yield "How much worse the loss gets when a feature is shuffled among the held-out rows."
        yield _table(("feature", "increase"), [(f"`{name}`", f"{float(value):.4g}") for name, value in first])


def _number(metric: Metric) -> str:
    return f"{metric.value:.4g} [{metric.low:.4g}, {metric.high:.4g}]"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
