"""What a sensor waits for: plain data that goes into a trigger, the question it asks, and how an answer is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Question = tuple[str, ...]
#: Ends of a run in MLflow.
ENDED = ("FINISHED", "FAILED", "KILLED")


@dataclass(frozen=True, slots=True)
class Judgement:
    """``met`` with what was found, ``failed`` for good, or ``wait``; with words for the log."""

    state: Literal["met", "failed", "wait"]
    words: str
    found: dict[str, Any] | None = None


def question(condition: Mapping[str, Any]) -> Question:
    """What to ask the server: ``("version", NAME, N)``, ``("model", NAME)`` or ``("run", ID)``."""
    if condition["kind"] == "run":
        return ("run", condition["run_id"])
    if condition["kind"] == "version" or (condition["kind"] == "stage" and condition.get("version")):
        return ("version", condition["name"], condition["version"])
    return ("model", condition["name"])


def judge(condition: Mapping[str, Any], answer: Mapping[str, Any] | None) -> Judgement:
    """Judge an answer (a shape of ``shapes``); None where the server has no such thing."""
    return _JUDGES[condition["kind"]](condition, answer)


def _version(condition: Mapping[str, Any], answer: Mapping[str, Any] | None) -> Judgement:
    what = f"version {condition['version']} of {condition['name']!r}"
    if answer is None:
        return Judgement("wait", f"{what} is not there yet, or not for this user to see")
    if answer["status"] == "FAILED_REGISTRATION":
        return Judgement("failed", f"{what} could not be registered: {answer.get('status_message')}")
    if answer["status"] != "READY":
        return Judgement("wait", f"{what} is {answer['status']}")
    return Judgement("met", f"{what} is READY", dict(answer))


def _stage(condition: Mapping[str, Any], answer: Mapping[str, Any] | None) -> Judgement:
    name, stage, version = condition["name"], condition["stage"], condition.get("version")
    if version:
        has = None if answer is None else answer["stage"]
        words = f"version {version} of {name!r} is {has or 'not there yet, or not for this user to see'}"
        if answer is None or str(has).lower() != stage.lower():
            return Judgement("wait", words)
        return Judgement("met", words, dict(answer))
    stages = {str(key).lower(): value for key, value in (answer or {}).get("latest", {}).items()}
    found = stages.get(stage.lower())
    if found is None:
        return Judgement("wait", f"no version of {name!r} is {stage}")
    return Judgement("met", f"version {found} of {name!r} is {stage}", {"name": name, "stage": stage, "version": found})


def _alias(condition: Mapping[str, Any], answer: Mapping[str, Any] | None) -> Judgement:
    name, alias = condition["name"], condition["alias"]
    points = (answer or {}).get("aliases", {}).get(alias)
    words = f"alias {alias!r} of {name!r} points to {'nothing' if points is None else 'version ' + points}"
    wanted, former = condition.get("version"), condition.get("changed_from")
    if points is None or (wanted and points != wanted) or (former and points == former):
        return Judgement("wait", words)
    return Judgement("met", words, {"name": name, "alias": alias, "version": points})


def _run(condition: Mapping[str, Any], answer: Mapping[str, Any] | None) -> Judgement:
    run_id, wanted = condition["run_id"], condition["statuses"]
    if answer is None:
        return Judgement("failed", f"there is no run {run_id}, or not for this user to see")
    status = answer["status"]
    words = f"run {run_id} is {status}"
    if status in wanted:
        return Judgement("met", words, dict(answer))
    if status in ENDED:
        return Judgement("failed", f"{words}; waited for {' or '.join(wanted)}")
    return Judgement("wait", words)


_JUDGES = {"version": _version, "stage": _stage, "alias": _alias, "run": _run}


def ask(rest: Any, asked: Question) -> dict[str, Any] | None:
    """One question to the server; None where it has no such thing to show us. ``rest`` is a ``MlflowRest``."""
    from windtunnel.errors import NotFoundError, RefusedError
    from windtunnel_airflow.tracking_server import calls, shapes
    from windtunnel_airflow.tracking_server.rest import HIDDEN

    kind, *names = asked
    try:
        if kind == "run":
            return calls.get_run(rest, names[0])
        if kind == "version":
            return shapes.version(calls.find_version(rest, names[0], names[1], None))
        return shapes.model(calls.get_model(rest, names[0]))
    except NotFoundError:
        return None
    except RefusedError as error:
        if error.code != HIDDEN:
            raise
        return None


def ask_runs(rest: Any, run_ids: Sequence[str], experiment_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Many runs of known experiments in one request, by their ids; those that are not found are left out."""
    from windtunnel_airflow.tracking_server import calls, shapes

    listed = ", ".join(calls.quoted(run_id) for run_id in run_ids)
    found = rest.pages(
        "/runs/search",
        "runs",
        len(run_ids),
        post=True,
        experiment_ids=list(experiment_ids),
        filter=f"attributes.run_id IN ({listed})",
    )
    return {run["run_id"]: run for run in (shapes.run(plain) for plain in found)}
