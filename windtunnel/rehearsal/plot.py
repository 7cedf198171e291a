"""Lines on axes as SVG text, for a page that must work without a network. Colours come from the page's CSS."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 30, 14, 44


@dataclass(frozen=True, slots=True)
class Line:
    """One gate's points (x, y in [0, 1]); ``number`` picks its colour and dash, so that colour is never alone.

    Attributes:
        low, high: a band around y; empty for none.
        stepped: y stays until the next point.
    """

    name: str
    number: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    stepped: bool = False


def chart(title: str, x_name: str, y_name: str, lines: Sequence[Line], *, log: bool = False, zero: bool = True) -> str:
    """A chart of shares (0 to 100 %) over x.

    Args:
        log: x is logarithmic; it must be above 0.
        zero: the axis begins at 0.
    """
    values = [v for line in lines for v in line.x if math.isfinite(v) and (v > 0 or not log)]
    if not values:
        return f"<figure><figcaption>{html.escape(title)}</figcaption><p>Nothing to show.</p></figure>"
    low, high = min(values), max(values)
    low = min(0.0, low) if zero and not log else low
    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    if high <= low:
        high = low * 10 if log else low + 1

    def px(x: float) -> float:
        part = (math.log(x) - math.log(low)) / (math.log(high) - math.log(low)) if log else (x - low) / (high - low)
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def py(y: float) -> float:
        return _HEIGHT - _BOTTOM - y * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = py(share)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>')
    for tick in ticks:
        x = px(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_short(tick)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_name)}</text>')
    for line in lines:
        if line.low:
            there = [*zip(line.x, line.high, strict=True), *reversed(list(zip(line.x, line.low, strict=True)))]
            points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in there)
            parts.append(f'<polygon class="band c{line.number}" points="{points}"/>')
    for line in lines:
        path = _path([(px(x), py(y)) for x, y in zip(line.x, line.y, strict=True) if x > 0 or not log], line.stepped)
        if path:
            parts.append(f'<path class="line c{line.number}" d="{path}"><title>{html.escape(line.name)}</title></path>')
    parts.append("</svg>")
    head = f"<figcaption><b>{html.escape(title)}</b><br>{html.escape(y_name)}</figcaption>"
    return f"<figure>{head}{''.join(parts)}{_legend(lines)}</figure>"


def _legend(lines: Sequence[Line]) -> str:
    items = "".join(
        f'<span><svg class="key" viewBox="0 0 28 8"><path class="line c{line.number}" d="M0 4H28"/></svg>'
        f"{html.escape(line.name)}</span>"
        for line in lines
    )
    return f'<div class="legend">{items}</div>'


def _path(points: Sequence[tuple[float, float]], stepped: bool) -> str:
    if not points:
        return ""
    out = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for x, y in points[1:]:
        out.append(f"H{x:.1f}V{y:.1f}" if stepped else f"L{x:.1f} {y:.1f}")
    return "".join(out)


def _ticks(low: float, high: float) -> list[float]:
    """About six round numbers over the range."""
    span = max(high - low, 1e-9)
    raw = span / 6
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw)
    first = math.floor(low / step)
    return [round(i * step, 10) for i in range(first, math.ceil(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first <= 1:
        return [m * 10.0**first for m in (1, 2, 5)] + [10.0 ** (first + 1)]
    return [10.0**i for i in range(first, last + 1)]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"
