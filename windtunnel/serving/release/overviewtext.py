"""A release in lines for a terminal. Pure: plain values of ``windtunnel.serving.release.overview`` in, lines out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_BAR = 20


def when(seconds: float | None) -> str:
    """Seconds since the epoch as a UTC time."""
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def bar(evidence: float | None, goal: float | None) -> str:
    """How far evidence has come on its way to ``goal``, on a logarithmic scale: an e-value of 1 says nothing."""
    if evidence is None or goal is None or goal <= 1 or math.isnan(evidence):
        return "[" + "?" * _BAR + "]"
    share = 0.0 if evidence <= 1 else min(1.0, math.log(evidence) / math.log(goal))
    # Full only when it is there.
    filled = _BAR if evidence >= goal else min(_BAR - 1, round(share * _BAR))
    return "[" + "#" * filled + "." * (_BAR - filled) + "]"


def shown(found: Mapping[str, Any]) -> list[str]:
    """``overview.show`` as lines."""
    rollout, step = found["rollout"], found["step"]
    against = f" against champion {rollout['champion']}" if rollout["champion"] else ", the first release"
    lines = [f"{found['model']}: version {rollout['version']}{against}: {rollout['state']}"]
    if found["registry"] != "answers":
        lines.append(f"  registry   {found['registry']}; this is from the look log")
    if step is not None:
        of = f" of {step['of']}" if step["of"] else ""
        weight = "?" if step["weight"] is None else f"{step['weight']:g}"
        lines.append(f"  step       {step['index'] + 1}{of}: {weight} % since {when(step['since'])}")
        if "requests" in step:
            lines.append(
                f"             {step['elapsed_s']:.0f} of {step['hold_s']:.0f} s, {step['requests']} of"
                f" {step['min_requests']} requests"
            )
    lines += [f"  waits for  {sentence}" for sentence in found.get("waits") or ()]
    lines += [f"  frozen     {sentence}" for sentence in found["frozen"]]
    if found["paused"]:
        lines.append(f"  paused     {found['paused']}")
    if found.get("no_way_back"):
        lines.append(f"  way back   fails: {found['no_way_back']}")
    for one in found.get("overruled") or ():
        lines.append(f"  overruled  {one['manager']}, {one['times']} times: {'; '.join(one['fields'])}")
    lines.append("  traffic    " + _traffic(found["traffic"]))
    for gate in [] if found.get("arms") else found["gates"]:
        lines += _gate(gate)
    for arm in found.get("arms") or ():
        said = arm["decision"]
        lines.append(f"  candidate  version {arm['version']}: {said['action']} ({said['outcome']}, {said['row']})")
        lines += [line for gate in arm["gates"] for line in _gate(gate)]
    for order in found["orders"]:
        step_of = f" step {order['step'] + 1}" if order["step"] is not None else ""
        claimed = " (claimed)" if order["claimed"] else ""
        lines.append(
            f"  order      {when(order['at'])}  {order['kind']}{step_of} by {order['by']}{claimed}: {order['reason']}"
        )
    for note in found["untold"]:
        lines.append(
            f"  untold     {when(note['at'])}  abort by {note['by']}: {note['reason']} (registry not told yet)"
        )
    last = found["decision"]
    if last is None:
        lines.append("  last look  none yet")
    else:
        lines.append(f"  last look  {when(last['at'])}  {last['action']} ({last['outcome']}, {last['row']})")
        lines.append(f"             {last['reason']}")
    return lines


def _traffic(traffic: Mapping[str, Any]) -> str:
    if "error" in traffic:
        return f"unknown: {traffic['error']}"
    weights = ", ".join(f"version {version} {weight} %" for version, weight in traffic["weights"].items())
    mirror = f", {traffic['mirror']} % copied" if traffic.get("mirror") else ""
    aborted = f"; taken to 0: {traffic['aborted']}" if traffic["aborted"] else ""
    lease = f"; lease until {when(traffic['lease_until'])}" if traffic["lease_until"] else ""
    return (weights or "none here") + mirror + aborted + lease


def _gate(gate: Mapping[str, Any]) -> list[str]:
    head = f"  {gate['kind']:<10} {gate['name']}"
    if gate.get("missing"):
        return [f"{head}: {gate['missing']}"]
    lines = [head]
    arms = [_arm(name, gate[name]) for name in ("champion", "candidate") if isinstance(gate.get(name), Mapping)]
    if not arms and gate.get("n"):
        arms = [_arm("candidate", gate)]
    if arms:
        lines.append("             " + "; ".join(arms))
    if gate.get("difference") is not None and gate.get("low") is not None and gate.get("high") is not None:
        lines.append(
            f"             difference {gate['difference']:.4g} (between {gate['low']:.4g} and {gate['high']:.4g}),"
            f" margin {gate.get('margin', 0):.4g}"
        )
    goals = (("harm", "e_harm", "bar"), ("within margin", "e_safe", "bar_safe"))
    for word, evidence, goal in goals:
        if gate.get(evidence) is not None and gate.get(goal) is not None:
            lines.append(
                f"             {word:<13} {bar(gate[evidence], gate[goal])} {gate[evidence]:.3g} of {gate[goal]:.3g}"
            )
    return lines


def _arm(name: str, numbers: Mapping[str, Any]) -> str:
    n = numbers.get("n")
    value = numbers.get("rate", numbers.get("mean"))
    said = "" if value is None else f" {value:.4g}"
    return f"{name}{said} of {n:.0f}" if n is not None else f"{name}{said}"


def told(found: Mapping[str, Any]) -> list[list[str]]:
    """``overview.history`` as a table with its head."""
    rows = [["version", "against", "began", "ended", "state", "looks", "last word"]]
    for one in found["rollouts"]:
        last = one["decision"]
        rows.append(
            [
                str(one["version"]),
                str(one["champion"] or "first"),
                when(one["opened_at"]),
                when(one["ended_at"]),
                str(one["state"]),
                str(one["looks"]),
                str((last or {}).get("reason") or one["reason"] or "-"),
            ]
        )
    return rows
