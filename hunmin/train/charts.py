"""Curves as SVG, drawn without a library: what a report needs and no more.

Colours and fonts come from the page's style sheet, so that a chart follows its light and dark themes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from statistics import fmean

Points = Sequence[tuple[float, float]]
At = Callable[[float, float], tuple[float, float]]

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 10, 30
MOST_POINTS, MOST_DOTS, COLOURS, STRETCHES = 400, 40, 6, 100


def number(value: float) -> str:
    """A number as people read it: four digits, with a unit prefix or an exponent where it would be long."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= (scale if scale > 1e3 else 1e4):
            return f"{value / scale:.4g}{unit}"
    if 0 < size < 1e-3:
        digits, exponent = f"{value:.3e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart) that enclose ``low`` to ``high``."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most ``most`` points that look the same: of each stretch the lowest and the highest, in their order."""
    if len(points) <= most:
        return list(points)
    bounds = [round(i * len(points) / (most // 2)) for i in range(most // 2 + 1)]
    kept: list[tuple[float, float]] = []
    for start, end in pairwise(bounds):
        ends = {min(range(start, end), key=lambda i: points[i][1]), max(range(start, end), key=lambda i: points[i][1])}
        kept += [points[i] for i in sorted(ends)]
    return kept


def averaged(points: Points) -> list[tuple[float, float]]:
    """The mean of each of a hundred stretches of very many points; nothing for few."""
    if len(points) <= MOST_POINTS:
        return []
    bounds = [round(i * len(points) / STRETCHES) for i in range(STRETCHES + 1)]
    return [(fmean(x for x, _ in points[a:b]), fmean(y for _, y in points[a:b])) for a, b in pairwise(bounds)]


def chart(title: str, series: Mapping[str, Points], across: str, marks: Mapping[str, float] | None = None) -> str:
    """A figure with a legend and a line for each of ``series``: ``(x, y)`` in the order of x. "" when no y is a finite number.

    Of very many points the extremes are drawn pale, and their means over them. ``across`` names the x axis. A point's values appear where the
    mouse rests on it. ``marks`` are names of places on the x axis, each a line across the picture.
    """
    whole = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    lines, means = ({name: kind(points) for name, points in whole.items()} for kind in (thinned, averaged))
    every = [point for points in lines.values() for point in points]
    if not every:
        return ""
    up = ticks(min(y for _, y in every), max(y for _, y in every))
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    along = [x for x in ticks(left, right, 5) if left <= x <= right] if right > left else [left]
    if right == left:
        left, right = left - 1, right + 1

    def at(x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the picture."""
        across_share, up_share = (x - left) / (right - left), (y - up[0]) / (up[-1] - up[0])
        return LEFT + across_share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up_share * (HEIGHT - TOP - BOTTOM)

    parts = [*_grid(up, along, at), f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(across)}</text>']
    for name, place in (marks or {}).items():
        x = at(min(max(place, left), right), up[0])[0]
        told = escape(f"{name} ({across} {place:g})")
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"><title>{told}</title></line>')
        parts.append(f'<text class="tick" x="{x + 3:.1f}" y="{TOP + 9}">{escape(name)}</text>')
    for i, (name, points) in enumerate(lines.items()):  # an empty one keeps its colour
        mean = [at(x, y) for x, y in means[name]]
        parts += _line(name, i % COLOURS, [(*at(x, y), x, y) for x, y in points], mean, across)
    legend = "".join(
        f'<span class="key">{_swatch(name, i % COLOURS) if name != title else ""}<b>{number(points[-1][1])}</b></span>'
        for i, (name, points) in enumerate(lines.items())
        if points
    )
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f"<figure><figcaption><strong>{escape(title)}</strong>{legend}</figcaption>{picture}</figure>"


def _swatch(name: str, colour: int) -> str:
    return f'<i class="c{colour}"></i>{escape(name)} '


def _grid(up: Sequence[float], along: Sequence[float], at: At) -> Iterable[str]:
    """Lines and numbers behind the curves."""
    for value in up:
        _, y = at(along[0], value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>'
    for value in along:
        x, _ = at(value, up[0])
        yield f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{number(value)}</text>'


def _line(name: str, colour: int, points: Sequence[tuple[float, float, float, float]], mean: Points, across: str) -> Iterable[str]:
    """One curve: places in the picture with the values that they stand for, and places of its means."""
    yield f'<polyline class="line c{colour}{" pale" if mean else ""}" points="{_path((x, y) for x, y, _, _ in points)}"/>'
    if mean:
        yield f'<polyline class="line c{colour}" points="{_path(mean)}"/>'
    shown = "dot" if len(points) <= MOST_DOTS else "hit"
    for x, y, place, value in points:
        told, where = escape(f"{name}: {number(value)} ({across} {place:g})"), f'cx="{x:.1f}" cy="{y:.1f}"'
        yield f'<g class="{shown} c{colour}"><circle r="2.6" {where}/><circle class="near" r="7" {where}/><title>{told}</title></g>'


def _path(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
