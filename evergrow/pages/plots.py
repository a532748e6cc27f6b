"""Plots as inline SVG: text keeps its size at any width, colours follow the page, the same input gives the same bytes.

Positions are percentages of the drawing, so that nothing needs a script to fit; text stands outside by pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from markupsafe import Markup

from evergrow.pages.shell import number

STEPS = (1, 2, 2.5, 5, 10)
STRIP_HEIGHT = 22
Layer = Callable[["Scale", "Scale"], Markup]
"""Draws itself on the two scales of a chart."""


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element, everything escaped; underscores of attribute names become hyphens, None is left out.

    >>> tag("text", "a < b", class_="x", text_anchor="end")
    Markup('<text class="x" text-anchor="end">a &lt; b</text>')
    """
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    inside = Markup().join(Markup(' {}="{}"').format(key, value) for key, value in pairs)
    return Markup("<{0}{1}>{2}</{0}>").format(name, inside, Markup().join(children))


@dataclass(frozen=True)
class Scale:
    """A stretch of numbers laid on 0…100 %."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float], *, zero: bool = False) -> Self:
        """From round number to round number around all finite `values`, and around 0 if `zero`.

        >>> Scale.around([0.13, 0.32], zero=True)
        Scale(low=0.0, high=0.4)
        >>> Scale.around([])
        Scale(low=0.0, high=1.0)
        """
        finite = [float(v) for v in values if math.isfinite(v)] + ([0.0] if zero else [])
        low, high = min(finite, default=0.0), max(finite, default=1.0)
        if low == high:
            low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
        step = _step(high - low)
        # Twelve digits: what is left of 0.1 * 3 beyond them is noise of binary fractions.
        return cls(round(math.floor(low / step) * step, 12), round(math.ceil(high / step) * step, 12))

    def at(self, value: float) -> float:
        """Where a value is, in percent; what lies outside is drawn at the edge."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def ticks(self) -> list[float]:
        """Round numbers on it, about five.

        >>> Scale(0, 0.4).ticks()
        [0.0, 0.1, 0.2, 0.3, 0.4]
        """
        step = _step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def _step(width: float) -> float:
    """A round step that cuts a width into about four or five."""
    power = 10.0 ** math.floor(math.log10(width / 4))
    return power * min(STEPS, key=lambda s: abs(math.log(s * power * 4 / width)))


@dataclass(frozen=True)
class Whisker:
    """A value with its interval; `css` names its colour: new or old."""

    value: float
    low: float
    high: float
    css: str = "new"


def strip(scale: Scale, whiskers: Sequence[Whisker], label: str, guide: float | None = None) -> Markup:
    """Dots with whiskers on one line, for a table's cell; `guide` marks a value to compare with."""
    height = STRIP_HEIGHT if len(whiskers) < 2 else 2 * STRIP_HEIGHT - 10
    gap = height / (len(whiskers) + 1)
    drawn = [_whisker(scale, whisker, round(gap * (i + 1), 1)) for i, whisker in enumerate(whiskers)]
    if guide is not None:
        drawn.insert(0, _line(f"{scale.at(guide)}%", "0", f"{scale.at(guide)}%", height, "guide"))
    return tag("svg", *drawn, class_="strip", height=height, role="img", aria_label=label)


def _whisker(scale: Scale, whisker: Whisker, y: float) -> Markup:
    line = _line(f"{scale.at(whisker.low)}%", y, f"{scale.at(whisker.high)}%", y, "tone whisker")
    return tag("g", line, tag("circle", cx=f"{scale.at(whisker.value)}%", cy=y, r=4, class_="tone"), class_=whisker.css)


def bar(share: float, label: str, css: str = "bars") -> Markup:
    """A bar over `share` (0…1) of a table's cell."""
    drawn = tag("rect", x=0, y=3, width=f"{round(100 * max(0.0, share), 2)}%", height=14, class_=css, rx=2)
    return tag("svg", drawn, class_="strip", height=20, role="img", aria_label=label)


def chart(
    label: str,
    x: Scale,
    y: Scale,
    layers: Sequence[Layer],
    *,
    x_name: str = "",
    y_name: str = "",
    height: int = 240,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    y_text: Callable[[float], str] = number,
) -> Markup:
    """Layers on two axes; `label` tells what is seen to who cannot see it.

    Args:
        label: text alternative.
        x: scale of the horizontal axis.
        y: scale of the vertical axis.
        layers: drawn in order.
        x_name: name below the horizontal axis.
        y_name: name above the vertical axis.
        height: in pixels.
        x_ticks: positions and texts; round numbers if not given.
        y_text: writes a number of the vertical axis.
    """
    ticks = [(v, number(v)) for v in x.ticks()] if x_ticks is None else x_ticks
    names = [_text(x_name, "50%", "100%", 0, 34, "middle"), _text(y_name, "0%", "0%", -36, -10, "start")]
    drawn = [*_grid(y, y_text), *(layer(x, y) for layer in layers), *_marks(x, ticks), *names]
    return tag("svg", *drawn, class_="chart", height=height, role="img", aria_label=label)


def histogram(label: str, heights: Sequence[float], low: str, high: str) -> Markup:
    """Bars of equal width without a vertical axis, from `low` to `high`."""
    top, width = max(heights, default=0) or 1, 100 / max(1, len(heights))
    bars_ = [_bar(i * width, (i + 1) * width, 100 * height / top) for i, height in enumerate(heights)]
    texts = [_text(low, "0%", "100%", 0, 15, "start"), _text(high, "100%", "100%", 0, 15, "end")]
    base = _line("0%", "100%", "100%", "100%", "axis")
    return tag("svg", *bars_, base, *texts, class_="chart small", height=70, role="img", aria_label=label)


def line(xs: Sequence[float], ys: Sequence[float], css: str = "new") -> Layer:
    """A line through points."""
    return lambda x, y: _stretched(tag("polyline", points=_points(x, y, xs, ys), class_="line"), css)


def band(xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], css: str = "new") -> Layer:
    """The area between two lines."""
    around, back = [*xs, *reversed(xs)], [*lows, *reversed(highs)]
    return lambda x, y: _stretched(tag("polygon", points=_points(x, y, around, back), class_="band"), css)


def guide(xs: tuple[float, float], ys: tuple[float, float]) -> Layer:
    """A dashed line between two points, to compare with."""
    return lambda x, y: _stretched(tag("polyline", points=_points(x, y, xs, ys), class_="guide"), "")


def dots(xs: Sequence[float], ys: Sequence[float], titles: Sequence[str], css: str = "new") -> Layer:
    """Points, each with a text that is shown under the pointer."""

    def draw(x: Scale, y: Scale) -> Markup:
        spots = (
            tag("circle", tag("title", title), cx=f"{x.at(a)}%", cy=f"{_up(y, b)}%", r=4, class_="dot")
            for a, b, title in zip(xs, ys, titles, strict=True)
        )
        return tag("g", *spots, class_=css)

    return draw


def bars(edges: Sequence[float], heights: Sequence[float]) -> Layer:
    """Bars from the lower end: `heights` [n] between `edges` [n + 1]."""

    def draw(x: Scale, y: Scale) -> Markup:
        pairs = zip(edges[:-1], edges[1:], heights, strict=True)
        return tag("g", *(_bar(x.at(a), x.at(b), y.at(height)) for a, b, height in pairs))

    return draw


def heat_map(label: str, names: Sequence[str], values: Sequence[Sequence[float]]) -> Markup:
    """Squares for a symmetric matrix of -1…1: the stronger, the fuller; colour tells the sign."""
    size = 100 / max(1, len(names))
    cells = (
        _cell(j * size, i * size, size, value, f"{names[i]} and {names[j]}: {value:+.2f}")
        for i, row in enumerate(values)
        for j, value in enumerate(row)
        if j < i
    )
    return tag("svg", *cells, class_="cells", width="100%", viewBox="0 0 100 100", role="img", aria_label=label)


def _cell(x: float, y: float, size: float, value: float, title: str) -> Markup:
    css = "positive" if value >= 0 else "negative"
    place = {"x": round(x, 2), "y": round(y, 2), "width": round(size * 0.94, 2), "height": round(size * 0.94, 2)}
    return tag("rect", tag("title", title), class_=css, fill_opacity=round(0.04 + 0.96 * abs(value), 2), **place)


def _grid(y: Scale, text: Callable[[float], str]) -> Iterable[Markup]:
    for value in y.ticks():
        place = f"{_up(y, value)}%"
        yield _line("0%", place, "100%", place, "grid")
        yield _text(text(value), "0%", place, -6, 4, "end")


def _marks(x: Scale, ticks: Sequence[tuple[float, str]]) -> Iterable[Markup]:
    yield _line("0%", "100%", "100%", "100%", "axis")
    for value, text in ticks:
        yield _text(text, f"{x.at(value)}%", "100%", 0, 17, "middle")


def _stretched(shape: Markup, css: str) -> Markup:
    """A shape drawn in percent of both directions, whose stroke is not stretched with it."""
    return tag("svg", shape, class_=css, viewBox="0 0 100 100", preserveAspectRatio="none", width="100%", height="100%")


def _points(x: Scale, y: Scale, xs: Sequence[float], ys: Sequence[float]) -> str:
    return " ".join(f"{x.at(a):g},{_up(y, b):g}" for a, b in zip(xs, ys, strict=True))


def _up(y: Scale, value: float) -> float:
    return round(100 - y.at(value), 2)


def _bar(left: float, right: float, height: float) -> Markup:
    width = 0.92 * (right - left)
    place = {"x": f"{left + 0.04 * (right - left):.2f}%", "y": f"{100 - height:.2f}%"}
    return tag("rect", class_="bars", width=f"{width:.2f}%", height=f"{height:.2f}%", **place)


def _line(x1: object, y1: object, x2: object, y2: object, css: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=css)


def _text(text: str, x: str, y: str, dx: int, dy: int, anchor: str) -> Markup:
    return tag("text", text, x=x, y=y, dx=dx, dy=dy, text_anchor=anchor)
