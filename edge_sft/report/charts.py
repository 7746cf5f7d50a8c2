"""Charts as inline SVG: drawn for a reader without statistics, coloured by the page's own variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_sft.report.markup import Html, el


@dataclass(frozen=True)
class Axis:
    """One axis: from value to pixel, with ticks (value, words)."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    title: str = ""

    def place(self, value: float, start: float, end: float) -> float:
        """Return the pixel of a value; values outside are put on the border."""
        span = (self.high - self.low) or 1.0
        return start + (min(max(value, self.low), self.high) - self.low) / span * (end - start)


@dataclass(frozen=True)
class Frame:
    """The plotting area of a chart and its two axes; collects marks and draws itself."""

    x: Axis
    y: Axis
    width: int = 480
    height: int = 300
    left: int = 52
    right: int = 28
    top: int = 16
    bottom: int = 46
    marks: list[Html] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Return the horizontal pixel of a value."""
        return round(self.x.place(value, self.left, self.width - self.right), 1)

    def py(self, value: float) -> float:
        """Return the vertical pixel of a value."""
        return round(self.y.place(value, self.height - self.bottom, self.top), 1)

    def line(
        self, xs: Sequence[float], ys: Sequence[float], colour: str, *, width: float = 2.5, dash: str = ""
    ) -> None:
        """Draw a line through points."""
        points = " ".join(f"{self.px(x):g},{self.py(y):g}" for x, y in zip(xs, ys, strict=True))
        self.marks.append(
            el(
                "polyline",
                points=points,
                fill="none",
                stroke=f"var(--{colour})",
                stroke_width=width,
                stroke_linejoin="round",
                stroke_dasharray=dash or None,
            )
        )

    def upright(self, x: float, words: str, colour: str = "ink") -> None:
        """Draw a vertical line at x, named at its top on the side where there is room."""
        at = self.px(x)
        here = {"x1": at, "x2": at, "y1": self.top, "y2": self.height - self.bottom}
        self.marks.append(el("line", **here, stroke=f"var(--{colour})", stroke_width=1.5, stroke_dasharray="5 4"))
        room = at < self.width * 0.62
        anchor = "start" if room else "end"
        self.words(at + (7 if room else -7), self.top + 11, words, anchor=anchor, class_="ink")

    def dot(self, x: float, y: float, colour: str, radius: float = 4.5) -> None:
        """Draw a point."""
        self.marks.append(el("circle", cx=self.px(x), cy=self.py(y), r=radius, fill=f"var(--{colour})"))

    def whisker(self, x: float, low: float, high: float, colour: str) -> None:
        """Draw an interval upright."""
        at = self.px(x)
        ends = {"x1": at, "x2": at, "y1": self.py(low), "y2": self.py(high)}
        self.marks.append(el("line", **ends, stroke=f"var(--{colour})", stroke_width=1.5, opacity=0.55))

    def bar(self, x0: float, x1: float, y0: float, y1: float, colour: str) -> None:
        """Draw a filled box between values."""
        left, right, a, b = self.px(x0), self.px(x1), self.py(y0), self.py(y1)
        wide, high = max(0.5, right - left - 1), abs(a - b)
        size = {"x": left + 0.5, "y": min(a, b), "width": wide, "height": high, "rx": 1.5}
        self.marks.append(el("rect", **size, fill=f"var(--{colour})"))

    def across(self, y: float, words: str, colour: str = "ink") -> None:
        """Draw a horizontal line at y, named above it at the right end."""
        at, end = self.py(y), self.width - self.right
        here = {"x1": self.left, "x2": end, "y1": at, "y2": at}
        self.marks.append(el("line", **here, stroke=f"var(--{colour})", stroke_width=1.5, stroke_dasharray="5 4"))
        if words:
            self.words(end - 2, at - 5, words, anchor="end", class_="ink")

    def area(
        self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str, opacity: float = 0.2
    ) -> None:
        """Fill what lies between two lines."""
        there = [f"{self.px(x):g},{self.py(y):g}" for x, y in zip(xs, high, strict=True)]
        back = [f"{self.px(x):g},{self.py(y):g}" for x, y in zip(xs, low, strict=True)]
        points = " ".join([*there, *reversed(back)])
        self.marks.append(el("polygon", points=points, fill=f"var(--{colour})", opacity=opacity))

    def stretch(self, x0: float, x1: float, colour: str, opacity: float = 0.16) -> None:
        """Shade a stretch of the horizontal axis over the whole height."""
        left, right = self.px(x0), self.px(x1)
        size = {"x": left, "y": self.top, "width": max(1.5, right - left), "height": self._foot - self.top}
        self.marks.append(el("rect", **size, fill=f"var(--{colour})", opacity=opacity))

    def strip(self, x0: float, x1: float, colour: str, *, row: int = 0) -> None:
        """Draw a stretch as a bar along the foot of the chart, ``row`` bars above it."""
        left, right = self.px(x0), self.px(x1)
        size = {"x": left, "y": self._foot - 9 - 10 * row, "width": max(3.0, right - left), "height": 7, "rx": 2}
        self.marks.append(el("rect", **size, fill=f"var(--{colour})"))

    @property
    def _foot(self) -> int:
        return self.height - self.bottom

    def words(self, x: float, y: float, words: str, *, anchor: str = "start", class_: str | None = None) -> None:
        """Write at a pixel."""
        self.marks.append(el("text", words, x=x, y=y, text_anchor=anchor, class_=class_))

    def draw(self, describe: str) -> Html:
        """Return the chart; ``describe`` is what a screen reader says."""
        foot, end = self.height - self.bottom, self.width - self.right
        grid = [
            [
                el("line", x1=self.left, x2=end, y1=self.py(value), y2=self.py(value), class_="grid"),
                el("text", label, x=self.left - 8, y=self.py(value) + 4, text_anchor="end"),
            ]
            for value, label in self.y.ticks
        ]
        ticks = [
            [
                el("line", x1=self.px(value), x2=self.px(value), y1=foot, y2=foot + 4, class_="axis"),
                el("text", label, x=self.px(value), y=foot + 18, text_anchor="middle"),
            ]
            for value, label in self.x.ticks
        ]
        base = el("line", x1=self.left, x2=end, y1=foot, y2=foot, class_="axis")
        title = el("text", self.x.title, x=(self.left + end) / 2, y=self.height - 8, text_anchor="middle")
        box = f"0 0 {self.width} {self.height}"
        return el("svg", grid, self.marks, base, ticks, title, viewBox=box, role="img", aria_label=describe)


def share_axis(title: str) -> Axis:
    """An axis of shares from 0 to 100 %."""
    return Axis(0.0, 1.0, [(value / 100, f"{value} %") for value in (0, 25, 50, 75, 100)], title)


def nice_axis(high: float, form: Callable[[float], str], title: str = "") -> Axis:
    """An axis from 0 to at least ``high`` with three to six round ticks."""
    high = high if high > 0 else 1.0
    power = 10.0 ** len(str(int(high))) / 10 if high >= 1 else _small_power(high)
    step = next(unit * power for unit in (0.2, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0) if high / (unit * power) <= 5.001)
    count = int(high / step - 1e-9) + 1
    return Axis(0.0, count * step, [(step * i, form(step * i)) for i in range(count + 1)], title)


def _small_power(value: float) -> float:
    power = 1.0
    while power > value:
        power /= 10
    return power


def parts(counts: Sequence[tuple[str, int]], describe: str, *, columns: int = 40) -> Html:
    """Draw parts as dots, one a part, in the order given: (CSS variable, how many)."""
    pitch, dots, index = 12, [], 0
    total = sum(count for _, count in counts)
    for colour, count in counts:
        path = []
        for _ in range(count):
            x, y = index % columns * pitch + 6, index // columns * pitch + 6
            path.append(f"M{x} {y}h0")  # a round-capped line without length is a dot, and short to write
            index += 1
        if path:
            dots.append(
                el("path", d="".join(path), stroke=f"var(--{colour})", stroke_width=8.6, stroke_linecap="round")
            )
    box = f"0 0 {columns * pitch} {-(-total // columns) * pitch}"
    return el("svg", dots, viewBox=box, role="img", aria_label=describe, class_="parts")


def interval_bar(value: float | None, low: float, high: float, colour: str) -> Html:
    """Draw a share with its interval on a track from 0 to 100 %, for a table's cell."""
    span = el("rect", x=120 * low, y=5, width=max(2.0, 120 * (high - low)), height=6, rx=3, fill=f"var(--{colour})")
    faded = el("g", span, opacity=0.38)
    mark = (
        None
        if value is None
        else el("circle", cx=min(116.0, max(4.0, 120 * value)), cy=8, r=4, fill=f"var(--{colour})")
    )
    track = el("rect", x=0, y=5, width=120, height=6, rx=3, fill="var(--track)")
    says = f"between {low:.0%} and {high:.0%}"
    return el("svg", track, faded, mark, viewBox="0 0 120 16", role="img", aria_label=says)
