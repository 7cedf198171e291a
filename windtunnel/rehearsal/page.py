"""The page of a rehearsal: one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from windtunnel import __version__
from windtunnel.files import write_bytes
from windtunnel.rehearsal.peers import PROMOTED, ROLLED_BACK
from windtunnel.rehearsal.plot import Line, chart
from windtunnel.rehearsal.runs import Ends, Variant
from windtunnel.rehearsal.scenarios import main_harm, scaled
from windtunnel.rehearsal.summary import KEYS, Number, share
from windtunnel.stats.betting import FloatArray

if TYPE_CHECKING:
    from windtunnel.rehearsal.flight import Flight

#: Points of the power curve, as shares of the scenario's harm (1 is the scenario itself), and their runs of each kind.
EFFECTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
POWER_RUNS = 200

_HEADS = {
    "false_rollback": "good version rolled back",
    "missed": "bad version promoted",
    "inconclusive": "no verdict",
    "median_detection_minutes": "found after, minutes",
    "median_detection_requests": "found after, requests",
    "users_exposed_p50": "exposed, median",
    "users_exposed_p95": "exposed, 95&nbsp;%",
    "time_to_promote_p50": "promoted after, minutes",
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --paper: #fff; --soft: #5b6776; --grid: #dfe4ea;
  --c0: #0b62c4; --c1: #c2410c; --c2: #15803d; --c3: #8b2fc9; --c4: #a16207; --c5: #0e7490; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --paper: #14181e; --soft: #9aa7b6; --grid: #2c343f;
  --c0: #6cb2ff; --c1: #fb923c; --c2: #4ade80; --c3: #d09bff; --c4: #facc15; --c5: #22d3ee; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 1360px; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; } p, footer { color: var(--soft); max-width: 80ch; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .8rem; border-bottom: 1px solid var(--grid); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
td small { color: var(--soft); display: block; white-space: nowrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr));
  gap: 1.5rem; margin-top: 1.5rem; }
figure { margin: 0; } figcaption { color: var(--soft); } figcaption b { color: var(--ink); }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--soft); }
.grid { stroke: var(--grid); stroke-width: 1; } .line { fill: none; stroke-width: 2.2; }
.band { opacity: .15; stroke: none; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; } .key { width: 28px; height: 8px; margin-right: .4rem; }
""" + "".join(
    f".line.c{i} {{ stroke: var(--c{i}); stroke-dasharray: {dash}; }} .band.c{i} {{ fill: var(--c{i}); }}\n"
    for i, dash in enumerate(("none", "7 4", "2 3", "10 3 2 3", "4 2", "1 4"))
)


def render(
    name: str,
    scenario: str,
    flight: Flight,
    found: Mapping[str, Mapping[Variant, Ends]],
    gates: Mapping[str, Mapping[str, Number]],
) -> str:
    """The page's text. Flies some more rollouts for the power curve where the scenario's harm has a size."""
    steps = ", ".join(f"{step.words} for {step.hold_s / 60:g} min" for step in flight.plan.steps)
    charts = []
    if flight.scenario.harmful:
        power = _power(flight)
        if power:
            charts.append(power)
        charts += [_detection(found), _exposed(found)]
    charts.append(_promotion(found, "harmless" if flight.scenario.harmful else "scenario"))
    title = f"Rehearsal of {name}: {scenario}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p>{html.escape(steps)}. {html.escape(flight.words())}; {flight.runs:,} rollouts{
        " of a bad version, and as many of a good one" if flight.scenario.harmful else ""
    }; seed {flight.seed}.
Small figures are 95 % confidence intervals.</p>
<div class="wide">{_table(gates)}</div>
<div class="charts">{"".join(charts)}</div>
<footer><p>A bad version that is never found counts as infinitely late. Exposed are the requests a bad version answered
until its rollout ended, by rollback or promotion. Windtunnel {html.escape(__version__)}.</p></footer>
</body></html>
"""


def write_page(
    path: Path,
    name: str,
    scenario: str,
    flight: Flight,
    found: Mapping[str, Mapping[Variant, Ends]],
    gates: Mapping[str, Mapping[str, Number]],
) -> None:
    """Render to ``path``, whole or not at all; folders above it are made."""
    page = render(name, scenario, flight, found, gates)
    write_bytes(path, page.encode(), mode=0o644, durable=False, parents=True)


def _table(gates: Mapping[str, Mapping[str, Number]]) -> str:
    head = "".join(f"<th>{_HEADS[key]}</th>" for key in KEYS)
    body = "".join(
        f"<tr><td>{html.escape(gate)}</td>{''.join(f'<td>{_cell(key, numbers[key])}</td>' for key in KEYS)}</tr>"
        for gate, numbers in gates.items()
    )
    return f"<table><tr><th>gate</th>{head}</tr>{body}</table>"


def _cell(key: str, number: Number) -> str:
    if number.value is None:
        return "&ndash;"
    percent = key in ("false_rollback", "missed", "inconclusive")

    def words(value: float | None) -> str:
        if value is None:
            return "?"
        return f"{100 * value:.3g}" if percent else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    unit = " %" if percent else ""
    return f"{words(number.value)}{unit}<small>{words(number.low)} to {words(number.high)}</small>"


def _power(flight: Flight) -> str | None:
    harm = main_harm(flight.scenario)
    if harm is None:
        return None
    name, factor = harm
    points: dict[str, list[tuple[float, Number]]] = {}
    for effect in EFFECTS:
        size = 1 + (factor - 1) * effect
        if size <= 0:
            continue
        flown = flight.fly(scenario=scaled(flight.scenario, name, size), runs=min(flight.runs, POWER_RUNS))
        for gate, ends in flown.items():
            points.setdefault(gate, []).append((size, _caught(ends["scenario"])))
            if effect == EFFECTS[0]:
                points[gate].insert(0, (1.0, _caught(ends["harmless"])))
    lines = [
        Line(
            gate, i, [x for x, _ in found], [n.value or 0.0 for _, n in found],
            [n.low or 0.0 for _, n in found], [n.high or 0.0 for _, n in found],
        )
        for i, (gate, found) in enumerate(points.items())
    ]  # fmt: skip
    return chart(
        "Power",
        f"{name} of the candidate, times the champion's",
        "Rolled back for harm. At 1 both are equal.",
        lines,
        zero=False,
    )


def _caught(ends: Ends) -> Number:
    return share(int((ends.how == ROLLED_BACK).sum()), len(ends.how))


def _detection(found: Mapping[str, Mapping[Variant, Ends]]) -> str:
    values = {gate: ends["scenario"].minutes[ends["scenario"].how == ROLLED_BACK] for gate, ends in found.items()}
    lines = _distributions(values, len(next(iter(found.values()))["scenario"].how))
    return chart("Time to detection", "minutes", "Bad versions rolled back for harm by then.", lines)


def _exposed(found: Mapping[str, Mapping[Variant, Ends]]) -> str:
    values = {gate: np.maximum(ends["scenario"].requests, 1) for gate, ends in found.items()}
    lines = _distributions(values, len(next(iter(values.values()))), first=1.0)
    return chart(
        "Exposure", "requests answered by the bad version", "Rollouts that exposed at most so many.", lines, log=True
    )


def _promotion(found: Mapping[str, Mapping[Variant, Ends]], kind: Variant) -> str:
    values = {gate: ends[kind].minutes[ends[kind].how == PROMOTED] for gate, ends in found.items()}
    lines = _distributions(values, len(next(iter(found.values()))[kind].how))
    return chart("Time to promotion", "minutes", "Good versions promoted by then.", lines)


def _distributions(values: Mapping[str, FloatArray], runs: int, first: float = 0.0) -> list[Line]:
    """For each gate the share of the runs with at most x, in at most 200 steps, drawn to the end of the axis."""
    last = 1.05 * max((float(v.max()) for v in values.values() if v.size), default=first + 1)
    lines = []
    for number, (gate, found) in enumerate(values.items()):
        ordered = np.sort(found)
        picks = np.unique(np.linspace(0, ordered.size - 1, min(200, ordered.size)).astype(int))
        x = [first, *ordered[picks].tolist(), last]
        y = [0.0, *((picks + 1) / runs).tolist(), ordered.size / runs]
        lines.append(Line(gate, number, x, y, stepped=True))
    return lines
