"""Templates become pages: one file each, style included, everything escaped."""

from __future__ import annotations

import functools
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent


def page(template: Path, **values: Any) -> str:
    """Render the template at a path, which extends `shell.html`, with `values`; deterministic.

    Raises:
        jinja2.UndefinedError: the template names a value that is not given.
    """
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - a file of ours
    return _templates(template.parent).get_template(template.name).render(style=style, **values)


@functools.cache
def _templates(folder: Path) -> Environment:
    templates = Environment(
        loader=FileSystemLoader([folder, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(number=number, count=count, percent=percent, day=day, instant=instant, duration=duration)
    return templates


def number(value: float) -> str:
    """Four significant digits, without an exponent where it is short enough to read.

    >>> number(0.41237), number(12345.6), number(0.00001234), number(float("nan"))
    ('0.4124', '12,346', '1.234e-05', '–')
    """
    if value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def count(value: float) -> str:
    """A whole number with thousands separated.

    >>> count(336776)
    '336,776'
    """
    return f"{value:,.0f}"


def percent(share: float) -> str:
    """A share in 0…1 as a percentage; what is not nothing never shows as nothing.

    >>> percent(0.1234), percent(0.00004), percent(0.0), percent(1.0)
    ('12.3 %', '< 0.1 %', '0 %', '100 %')
    """
    if share != share:
        return "–"
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %".replace(".0 %", " %")


def day(value: datetime) -> str:
    """The date of an instant."""
    return f"{value:%Y-%m-%d}"


def instant(value: datetime) -> str:
    """An instant to the minute, in the zone it has (UTC everywhere in evergrow)."""
    return f"{value:%Y-%m-%d %H:%M} {value.tzname()}"


def duration(value: timedelta) -> str:
    """A length of time in its largest whole unit.

    >>> duration(timedelta(days=14)), duration(timedelta(hours=36)), duration(timedelta(days=1))
    ('14 days', '36 hours', '1 day')
    """
    for name, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
        whole, rest = divmod(value.total_seconds(), seconds)
        if whole and not rest:
            return f"{whole:.0f} {name}{'s' * (whole != 1)}"
    return f"{value.total_seconds():g} seconds"
