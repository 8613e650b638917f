"""Small charts as inline SVG: lines over steps, a path in a plane, a reliability curve.

Text stays text and colours are CSS classes (`c-sft`, …), so that a chart follows the page into dark mode and is read
aloud. Left out: everything that a report of one run does not need.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 38
MOST_POINTS = 300


@dataclass(frozen=True)
class Line:
    """A named series of (x, y) points in the colour of a model; `marks` draws a dot at each."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    marks: bool = False


@dataclass(frozen=True)
class Axis:
    """The range [low, high] of an axis that is `size` pixels long from `start` (negative: upwards), and its ticks."""

    low: float
    high: float
    start: float
    size: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * self.size


def chart(
    description: str,
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    percent: bool = False,
    diagonal: bool = False,
    whole: bool = False,
) -> Markup:
    """An SVG of `lines`; `description` is its accessible name, `x` and `y` name the axes.

    `whole`: x counts, its ticks are integers; `percent`: shares; `diagonal`: y = x, dashed. No points give no chart.
    """
    shown = [Line(line.name, line.colour, thin(line.points), line.marks) for line in lines]
    shown = [line for line in shown if line.points]
    if not shown:
        return Markup("")
    xs, ys = ([point[i] for line in shown for point in line.points] for i in (0, 1))
    across = axis(xs, x_range, LEFT, WIDTH - LEFT - RIGHT, 5, 1.0 if whole else 0.0)
    up = axis(ys, y_range, HEIGHT - BOTTOM, -(HEIGHT - TOP - BOTTOM), 4)
    parts = [*grid(across, up, x, y, percent)]
    if diagonal:
        low, high = max(across.low, up.low), min(across.high, up.high)
        ends = (across.place(low), up.place(low), across.place(high), up.place(high))
        parts.append(Markup('<line class="ideal" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(*ends))
    for line in shown:
        parts += draw(line, across, up, percent)
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        WIDTH, HEIGHT, description, description, Markup("").join(parts)
    )


def thin(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Finite points only, and at most MOST_POINTS, evenly chosen; the last is always one of them."""
    finite = [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b)]
    if len(finite) <= MOST_POINTS:
        return finite
    step = (len(finite) - 1) / (MOST_POINTS - 1)
    return [finite[round(i * step)] for i in range(MOST_POINTS)]


def axis(
    values: Sequence[float],
    limits: tuple[float, float] | None,
    start: float,
    size: float,
    count: int,
    least: float = 0.0,
) -> Axis:
    """An axis that shows all values between round ticks, or exactly `limits`; ticks stand `least` apart or more."""
    low, high = limits or (min(values), max(values))
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    step = round_step(max((high - low) / count, least))
    first, last = (
        (math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))
        if limits
        else (math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9))
    )
    ticks = tuple(i * step for i in range(first, last + 1))
    return Axis(*(limits or (ticks[0], ticks[-1])), start, size, ticks)


def round_step(rough: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 × 10ⁿ from `rough` on."""
    power = 10 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def grid(across: Axis, up: Axis, x: str, y: str, percent: bool) -> Iterable[Markup]:
    """Horizontal rules, tick labels and the names of the axes."""
    for tick in up.ticks:
        at = up.place(tick)
        yield Markup('<line class="rule" x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}"/>').format(LEFT, at, WIDTH - RIGHT, at)
        yield Markup('<text class="tick" text-anchor="end" x="{}" y="{:.1f}">{}</text>').format(
            LEFT - 7, at + 4, brief(tick, percent)
        )
    for tick in across.ticks:
        yield Markup('<text class="tick" text-anchor="middle" x="{:.1f}" y="{}">{}</text>').format(
            across.place(tick), HEIGHT - BOTTOM + 16, brief(tick, percent and across.high <= 1)
        )
    yield Markup('<text class="axis" text-anchor="end" x="{}" y="{}">{}</text>').format(WIDTH - RIGHT, HEIGHT - 4, x)
    yield Markup('<text class="axis" x="{}" y="{}">{}</text>').format(2, HEIGHT - 4, f"↑ {y}")


def draw(line: Line, across: Axis, up: Axis, percent: bool) -> Iterable[Markup]:
    """The line, its dots (with values to hover over), and a larger dot at its end."""
    places = [(across.place(a), up.place(b)) for a, b in line.points]
    path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in places)
    yield Markup('<path class="line c-{}" d="{}"/>').format(line.colour, path)
    for i, ((a, b), (px, py)) in enumerate(zip(line.points, places, strict=True)):
        last = i + 1 == len(places)
        if line.marks or last:
            says = f"{line.name}: {brief(a, percent and across.high <= 1)}, {brief(b, percent)}"
            yield Markup('<circle class="{} c-{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
                "last dot" if last else "dot", line.colour, px, py, 4 if last else 2.2, says
            )


def brief(value: float, percent: bool = False) -> str:
    """A number as short as it can be said: 0.25, 1.5k, 2M, or 25 %."""
    if percent:
        return f"{value * 100:.3g} %"
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value + 0:.3g}"


def legend(lines: Sequence[Line]) -> Markup:
    """The names of the lines beside their colours."""
    keys = [Markup('<span class="key c-{}">{}</span>').format(line.colour, line.name) for line in lines if line.points]
    return Markup('<span class="legend">{}</span>').format(Markup("").join(keys)) if len(keys) > 1 else Markup("")
