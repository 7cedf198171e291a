"""``python -m bench.pictures``: the pictures of docs/explanation, from simulated rollouts (always the same seeds)."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

import numpy as np

from windtunnel.stats import exact
from windtunnel.stats.betting import log_mean

IMAGES = Path(__file__).parent.parent / "docs" / "images"
BASE, LIMIT, ALPHA = 0.008, 0.01, 0.05
_LEFT, _TOP, _WIDE, _HIGH = 64, 44, 620, 230
_RED, _BLUE, _GREY = "#c0392b", "#2471a3", "#7f8c8d"


class Plot:
    """Lines in a frame, as SVG."""

    def __init__(self, title: str, x: tuple[float, float, str], y: tuple[float, float, str]) -> None:
        self.title, self.x, self.y = title, x, y
        self.parts: list[str] = []

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (min(max(y, self.y[0]), self.y[1]) - self.y[0]) / (self.y[1] - self.y[0])
        return round(_LEFT + _WIDE * across, 1), round(_TOP + _HIGH * (1 - up), 1)

    def line(self, xs: np.ndarray, ys: np.ndarray, colour: str, *, wide: float = 1.2, dashed: bool = False) -> None:
        points = " ".join(
            f"{a},{b}" for a, b in (self.place(x, y) for x, y in zip(xs.tolist(), ys.tolist(), strict=True))
        )
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self.parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{wide}"{dash}/>')

    def dot(self, x: float, y: float, colour: str) -> None:
        a, b = self.place(x, y)
        self.parts.append(f'<circle cx="{a}" cy="{b}" r="3.5" fill="{colour}"/>')

    def words(self, x: float, y: float, text: str, colour: str, *, anchor: str = "start") -> None:
        a, b = self.place(x, y)
        self.parts.append(f'<text x="{a}" y="{b - 5}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>')

    def svg(self, xticks: dict[float, str], yticks: dict[float, str], *, down: int = 0) -> str:
        body = [f'<g transform="translate(0 {down})">']
        body.append(f'<text x="{_LEFT}" y="24" font-weight="bold">{escape(self.title)}</text>')
        body.append(f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDE}" height="{_HIGH}" fill="none" stroke="{_GREY}"/>')
        for at, text in xticks.items():
            a, _ = self.place(at, self.y[0])
            body.append(f'<text x="{a}" y="{_TOP + _HIGH + 16}" text-anchor="middle" fill="{_GREY}">{text}</text>')
        for at, text in yticks.items():
            _, b = self.place(self.x[0], at)
            body.append(f'<text x="{_LEFT - 6}" y="{b + 4}" text-anchor="end" fill="{_GREY}">{text}</text>')
            body.append(
                f'<line x1="{_LEFT}" x2="{_LEFT + _WIDE}" y1="{b}" y2="{b}" stroke="{_GREY}" stroke-width="0.3"/>'
            )
        body.append(
            f'<text x="{_LEFT + _WIDE / 2}" y="{_TOP + _HIGH + 34}" text-anchor="middle">{escape(self.x[2])}</text>'
        )
        body.append(
            f'<text transform="translate(16 {_TOP + _HIGH / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y[2])}</text>"
        )
        return "\n".join([*body, *self.parts, "</g>"])


def page(plots: list[str], describes: str) -> str:
    """One SVG of plots below each other."""
    wide, high = _LEFT + _WIDE + 24, (_TOP + _HIGH + 48) * len(plots)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        'role="img" '
        f'aria-label="{escape(describes)}" font-family="sans-serif" font-size="12" fill="#2c3e50">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *plots, "</svg>", ""])


def wealth(
    rng: np.random.Generator, rate: float, looks: int, n_a: int, n_b: int, *, bar: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(candidate's failures per look, log wealth after each look) of one rollout."""
    state, logs = exact.START[None].copy(), np.zeros(looks + 1)
    failed = rng.binomial(n_b, rate, looks)
    for i in range(looks):
        k_a, k_b = int(rng.binomial(n_a, BASE)), int(failed[i])
        blocks = [np.array([[n - k, k]], dtype=float) for n, k in ((n_a, k_a), (n_b, k_b))]
        state = state + exact.log_gain(blocks[0], blocks[1], state, log_bar=math.log(1 / ALPHA) if bar else None)
        logs[i + 1] = float(log_mean(state)[0])
    return failed, logs


def decides() -> str:
    """Wealth of innocent and of harmful candidates."""
    rng = np.random.default_rng(3)
    looks, n_a, n_b = 200, 150, 50
    xs = np.arange(looks + 1) * (n_a + n_b) / 1200
    top = math.log(1 / ALPHA)
    plot = Plot(
        "Six innocent candidates (blue) and six that fail twice as often (red): 25 % of 20 requests/s",
        (0.0, float(xs[-1]), "minutes"), (-5.0, 4.0, "wealth of the bet on harm"),
    )  # fmt: skip
    for rate, colour in ((BASE, _BLUE), (2 * BASE, _RED)):
        for _ in range(6):
            _, logs = wealth(rng, rate, looks, n_a, n_b, bar=True)
            over = np.flatnonzero(logs >= top)
            end = int(over[0]) if len(over) else looks
            plot.line(xs[: end + 1], logs[: end + 1], colour)
            if len(over):
                plot.dot(float(xs[end]), top, colour)
    plot.line(np.array([0.0, xs[-1]]), np.array([top, top]), "#2c3e50", wide=1.6, dashed=True)
    plot.words(float(xs[-1]), top, "1 / alpha = 20: roll back", "#2c3e50", anchor="end")
    ticks = {math.log(v): text for v, text in ((0.01, "0.01"), (0.1, "0.1"), (1, "1"), (5, "5"), (20, "20"))}
    minutes = {float(m): str(m) for m in range(0, 35, 5)}
    return page([plot.svg(minutes, ticks)], "Wealth over time for innocent and harmful candidates")


def threshold() -> str:
    """One innocent candidate: what a threshold gate sees each minute, and the wealth on the same requests."""
    rng = np.random.default_rng(5)
    minutes, n_a, n_b = 60, 900, 300
    failed, logs = wealth(rng, BASE, minutes, n_a, n_b, bar=True)
    xs = np.arange(1, minutes + 1, dtype=float)
    shares = failed / n_b
    breached = np.flatnonzero(shares > LIMIT)
    above = Plot(
        "Threshold gate: an innocent candidate's error rate, minute by minute, against an objective of 1 %",
        (0.0, float(minutes), "minutes"), (0.0, 0.03, "errors in the minute"),
    )  # fmt: skip
    above.line(xs, shares, _BLUE)
    above.line(np.array([0.0, minutes]), np.array([LIMIT, LIMIT]), "#2c3e50", wide=1.6, dashed=True)
    for i in breached[:5]:
        above.dot(float(xs[i]), float(shares[i]), _RED)
    if len(breached) >= 5:
        at = float(xs[breached[4]])
        above.line(np.array([at, at]), np.array([0.0, 0.03]), _RED, wide=1.0, dashed=True)
        above.words(at + 0.5, 0.027, "fifth breach: rolled back", _RED)
    below = Plot(
        "The bet on harm, on the same requests",
        (0.0, float(minutes), "minutes"), (-5.0, 4.0, "wealth"),
    )  # fmt: skip
    below.line(np.arange(minutes + 1, dtype=float), logs, _BLUE)
    top = math.log(1 / ALPHA)
    below.line(np.array([0.0, minutes]), np.array([top, top]), "#2c3e50", wide=1.6, dashed=True)
    ticks = {math.log(v): text for v, text in ((0.01, "0.01"), (0.1, "0.1"), (1, "1"), (20, "20"))}
    across = {float(m): str(m) for m in range(0, minutes + 1, 10)}
    shares_ticks = {0.0: "0", 0.01: "1 %", 0.02: "2 %", 0.03: "3 %"}
    return page(
        [above.svg(across, shares_ticks), below.svg(across, ticks, down=_TOP + _HIGH + 48)],
        "A threshold gate rolls an innocent candidate back; the bet on the same requests does not",
    )


PICTURES = {"gate-decides.svg": decides, "threshold-gate.svg": threshold}


def main() -> None:
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
        print(IMAGES / name)


if __name__ == "__main__":
    main()
