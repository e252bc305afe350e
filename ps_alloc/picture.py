"""One line chart as SVG, for `ps-alloc frontier --picture`: by hand, as no plot library is a dependency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from itertools import pairwise

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 36, 50
COLOURS = ("#1b6ca8", "#8a8f98", "#c4572e")  # told apart by lightness too
MOST_POINTS = 400  # a line; more than the eye can see


def line_chart(
    lines: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], *, title: str, xlabel: str, ylabel: str
) -> str:
    """An SVG document with one labelled line each, axes from 0 and round ticks.

    Args:
        lines: Name to x and y, both (M,), x not falling.
        title: Above the chart.
        xlabel: Below it.
        ylabel: Beside it, along the axis.
    """
    points = {name: _thinned(np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in lines.items()}
    xticks = _ticks(max(x[-1] for x, _ in points.values()))
    yticks = _ticks(max(y.max() for _, y in points.values()))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (right - LEFT) * x / xticks[-1]
        return round(across, 1), round(bottom - (bottom - TOP) * y / yticks[-1], 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#555">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" font-size="14" fill="#222">{escape(title)}</text>',
    ]
    for tick in yticks:
        _, y = at(0, tick)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}" stroke="#e3e5e8"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for tick in xticks:
        x, _ = at(tick, 0)
        parts.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{escape(xlabel)}</text>')
    turned = f'transform="rotate(-90)" x="{-(TOP + bottom) / 2}" y="16"'
    parts.append(f'<text {turned} text-anchor="middle">{escape(ylabel)}</text>')
    labels = _apart({name: at(x[-1], y[-1])[1] for name, (x, y) in points.items()})
    for (name, (x, y)), colour in zip(points.items(), COLOURS, strict=False):
        path = " ".join("{},{}".format(*at(*point)) for point in zip(x, y, strict=True))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{right + 8}" y="{labels[name] + 4}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ticks(highest: float) -> list[float]:
    """Four to eight round numbers from 0 to at least `highest`."""
    if highest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(highest))
    step = next(s * power / 10 for s in (1, 2, 5, 10, 20) if highest <= 8 * s * power / 10 * (1 + 1e-9))
    return [step * k for k in range(math.ceil(highest / step - 1e-9) + 1)]


def _thinned(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    kept = np.unique(np.linspace(0, x.size - 1, MOST_POINTS).astype(int))
    return x[kept], y[kept]


def _apart(heights: dict[str, float], least: float = 15.0) -> dict[str, float]:
    """The labels' heights, moved down where two would overlap."""
    ordered = sorted(heights, key=lambda name: heights[name])
    moved = dict(heights)
    for above, below in pairwise(ordered):
        moved[below] = max(moved[below], moved[above] + least)
    return moved
