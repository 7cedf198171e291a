"""``windtunnel rehearse``: what would this plan do to good and to bad versions?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home

if TYPE_CHECKING:
    from windtunnel.rehearsal.flight import Flight
    from windtunnel.rehearsal.plans import Rehearsed
    from windtunnel.rehearsal.recommend import Target
    from windtunnel.rehearsal.summary import Number

NAME = "rehearse"
SCHEMA = "windtunnel.rehearsal/1"


def command(
    context: typer.Context,
    plan: Annotated[
        str | None,
        typer.Argument(
            help="YAML file (a rollout section or a whole description), a model of the home, or "
            "'package.module:model'. Without it: the default plan.",
            show_default=False,
        ),
    ] = None,
    scenario: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="What is wrong with the candidate: none, errors, slow, wrong, shift, partial, outage, silent; "
            "'errors:x5' for another factor; or a YAML file.",
        ),
    ] = "errors",
    from_log: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Draw the traffic from this model's prediction log.", show_default=False),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="RPS", help="Requests per second [20, or as recorded].", show_default=False),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rollouts of each kind.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = 1,
    first: Annotated[
        bool, typer.Option("--first", help="A first release: no champion, the absolute limits alone.")
    ] = False,
    users: Annotated[
        int | None,
        typer.Option(metavar="N", help="So many users, each kept on one version [by lot].", show_default=False),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="'DAY HH:MM'", help="When it starts, so that the plan's hours count.", show_default=False),
    ] = None,
    compare: Annotated[
        str, typer.Option(metavar="LIST", help="argo, flagger, kayenta, fixed, peeking; with commas between.")
    ] = "",
    json: JsonOption = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with plots.", show_default=False)
    ] = None,
    target_alpha: Annotated[
        float | None,
        typer.Option(help="Recommend a plan that errs at most this often [the plan's].", show_default=False),
    ] = None,
    target_detect: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Recommend a plan: 'errors x2 within 1000 requests'.", show_default=False),
    ] = None,
    max_false_rollback: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Largest share of good versions rolled back.", show_default=False),
    ] = None,
    max_missed: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Largest share of bad versions promoted.", show_default=False),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes [all cores]; the result is the same.", show_default=False),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Fly a plan many times before it meets a user.

    Over simulated or recorded traffic, beside other tools' rules if wanted.

    Exit codes: 0 done, and every stated bound holds; 1 it could not be done; 2 wrong usage; 3 a stated bound is broken,
    or no plan meets the target; 4 a bound lies within the interval that so many runs allow: take more.
    """
    from windtunnel.errors import DescriptionError
    from windtunnel.rehearsal import flight as flights
    from windtunnel.rehearsal import fromlog, plans
    from windtunnel.rehearsal.peers import PEERS, WITHOUT_CHAMPION

    began = time.monotonic()
    names = tuple(dict.fromkeys(name.strip() for name in compare.split(",") if name.strip()))
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise typer.BadParameter(f"expected some of {', '.join(PEERS)}, found {unknown[0]!r}", param_hint="--compare")
    if target_alpha is not None and target_detect is None:
        raise typer.BadParameter("say also what must be detected with --target-detect", param_hint="--target-alpha")
    the = the_home(context, home)
    try:
        rehearsed = plans.find_plan(plan, the, first=first)
        wanted = plans.find_scenario(scenario, users=users, start=start)
        target = None
        if target_detect is not None:
            from windtunnel.rehearsal.recommend import parse_target

            target = parse_target(target_detect)
        flights.check_rate(rate)
    except DescriptionError as error:
        talk.fail(error, talk.USAGE)
    if max_missed is not None and not wanted.harmful:
        raise typer.BadParameter(f"scenario {scenario} has no harm that could be missed", param_hint="--max-missed")

    if first and target is not None:
        raise typer.BadParameter("a plan is recommended for releases over a champion", param_hint="--first")
    apart = [name for name in names if name not in WITHOUT_CHAMPION]
    if first and apart:
        raise typer.BadParameter(
            f"{', '.join(apart)} compare with a champion, and a first release has none", param_hint="--compare"
        )

    recording = fromlog.recording_for(the, from_log, rehearsed.plan)
    with flights.pool(min(processes or flights.cores(), flights.enough_for(runs, wanted, target))) as workers:
        flight = flights.Flight(rehearsed.plan, wanted, rate, recording, runs, seed, names, workers, rehearsed.sticky)
        if target is not None:
            code = _recommend(flight, rehearsed, target, target_alpha, json)
        else:
            code = _rehearse(flight, rehearsed.name, scenario, json, report, max_false_rollback, max_missed)
    talk.say(f"{time.monotonic() - began:.1f} s")
    raise SystemExit(code)


def _rehearse(
    flight: Flight, name: str, scenario: str, json: bool, report: Path | None, most_false: float | None,
    most_missed: float | None,
) -> int:  # fmt: skip
    from windtunnel.rehearsal.runs import OURS, shares
    from windtunnel.rehearsal.summary import summarise

    for line in flight.doubts():
        talk.say(line)
    talk.say(
        f"plan {name}, scenario {scenario}, {flight.words()}, {flight.runs} rollouts"
        f"{' of each kind' if flight.scenario.harmful else ''}"
    )
    found = flight.fly()
    gates = {gate: summarise(ends, flight.scenario.harmful) for gate, ends in found.items()}
    bounds = {
        key: bound(gates[OURS][key], limit)
        for key, limit in (("false_rollback", most_false), ("missed", most_missed))
        if limit is not None
    }
    if json:
        talk.data_json(
            SCHEMA,
            {
                "plan": {"name": name, **flight.plan.to_dict()},
                "scenario": {"name": scenario, "harmful": flight.scenario.harmful, **flight.scenario_json()},
                "traffic": flight.traffic_json(),
                "runs": flight.runs,
                "seed": flight.seed,
                "gates": {g: {key: number.to_dict() for key, number in n.items()} for g, n in gates.items()},
                "ends": {g: {kind: shares(e) for kind, e in ends.items()} for g, ends in found.items()},
                "bounds": bounds,
            },
        )
    else:
        talk.table(rows(gates))
        for key, result in bounds.items():
            talk.data(f"{key}: {result['outcome']}, {_percent(gates[OURS][key])} against {result['limit']:.3g}")
    if report is not None:
        from windtunnel.rehearsal.page import write_page

        write_page(report, name, scenario, flight, found, gates)
        talk.say(f"page: {report}")
    outcomes = {result["outcome"] for result in bounds.values()}
    if "FAIL" in outcomes:
        return talk.VERDICT_FAIL
    return talk.VERDICT_INCONCLUSIVE if "INCONCLUSIVE" in outcomes else talk.OK


def _recommend(flight: Flight, rehearsed: Rehearsed, target: Target, alpha: float | None, json: bool) -> int:
    from windtunnel.errors import DescriptionError
    from windtunnel.rehearsal.recommend import recommend
    from windtunnel.spec import Rollout

    talk.say(f"looking for a plan that shows {target.text} at {flight.words()}")
    try:
        advice = recommend(rehearsed.rollout or Rollout(), flight.scenario, target, alpha, flight, say=talk.say)
    except DescriptionError as error:
        talk.fail(error, talk.USAGE)
    if json:
        talk.data_json(SCHEMA, {"target": target.text, "traffic": flight.traffic_json(), **advice.to_dict()})
    elif advice.rollout is not None:
        from windtunnel.rehearsal.plans import rollout_yaml

        talk.data(rollout_yaml(advice.rollout).rstrip("\n"))
    if not json or advice.rollout is None:
        for line in advice.words:
            talk.say(line)
    return talk.OK if advice.rollout is not None else talk.VERDICT_FAIL


def bound(number: Number, limit: float) -> dict[str, Any]:
    """Whether a share is within a bound, beyond it, or too uncertain to tell."""
    outcome = "INCONCLUSIVE"
    if number.low is not None and number.low > limit:
        outcome = "FAIL"
    elif number.high is not None and number.high <= limit:
        outcome = "PASS"
    return {"limit": limit, "outcome": outcome}


def rows(gates: Mapping[str, Mapping[str, Number]]) -> list[list[str]]:
    """The table: one line a gate."""
    head = ["gate", "false rollback", "missed", "inconclusive", "found after", "", "exposed", "95 %", "promoted after"]
    out = [head]
    for gate, numbers in gates.items():
        out.append(
            [
                gate,
                *(_percent(numbers[key]) for key in ("false_rollback", "missed", "inconclusive")),
                _number(numbers["median_detection_minutes"], " min"),
                _number(numbers["median_detection_requests"], " req"),
                _number(numbers["users_exposed_p50"], ""),
                _number(numbers["users_exposed_p95"], ""),
                _number(numbers["time_to_promote_p50"], " min"),
            ]
        )
    return out


def _percent(number: Number) -> str:
    """``1.5 % (1.2 to 1.9)``."""
    if number.value is None:
        return "-"
    low, high = (100 * (end or 0.0) for end in (number.low, number.high))
    return f"{100 * number.value:.3g} % ({low:.2g} to {high:.3g})"


def _number(number: Number, unit: str) -> str:
    if number.value is None:
        return "-"
    return f"{number.value:,.0f}{unit}" if number.value >= 10 else f"{number.value:.2g}{unit}"
