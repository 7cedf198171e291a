"""What differs between two versions. Pure: what is known of each goes in, lists of differences come out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from windtunnel import canonical

#: A file of a model that says what it needs.
REQUIREMENTS, PYTHON = "requirements.txt", "python_env.yaml"
_PACKAGE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(.*)")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions.

    Attributes:
        record: ``records.version``.
        metrics: the run's newest values.
        params: the run's parameters.
        files: text of the small files that say what it needs, by path; a file that is not there is left out.
        verdicts: bodies of the newest verdicts that count, by kind.
    """

    record: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    verdicts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def compare(left: Side, right: Side) -> dict[str, Any]:
    """Everything that differs, ``right`` seen from ``left``."""
    return {
        "versions": [_head(left), _head(right)],
        "metrics": metrics(left, right),
        "signature": signature(left.record, right.record),
        "environment": environment(left.files, right.files),
        "data": data(left, right),
        "recipe": recipe(left, right),
        "files": files(left.record, right.record),
    }


def _head(side: Side) -> dict[str, Any]:
    names = ("version", "semver", "semver_reason", "digest", "created_at", "stage", "state", "parent", "cause")
    return {name: side.record.get(name) for name in names}


def changes(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``{"name", "change": added|removed|changed, "left", "right"}`` of two mappings, by name."""
    made = []
    for name in sorted({*left, *right}):
        before, after = left.get(name), right.get(name)
        if name in left and name in right and _same(before, after):
            continue
        change = "added" if name not in left else "removed" if name not in right else "changed"
        made.append({"name": name, "change": change, "left": before, "right": after})
    return made


def _same(left: Any, right: Any) -> bool:
    return canonical.digest({"value": left}) == canonical.digest({"value": right})


# -- metrics


def metrics(left: Side, right: Side) -> list[dict[str, Any]]:
    """Every metric of the runs and of the evaluations, side by side, with what is known of chance.

    ``source`` is ``run`` (what MLflow holds) or ``evaluation`` (measured on held-out rows by the registry's evidence).
    """
    made = [_metric("run", name, left.metrics, right.metrics) for name in sorted({*left.metrics, *right.metrics})]
    ours, theirs = (_evaluated(side) for side in (left, right))
    for name in sorted({*ours, *theirs}):
        values = [{name: one[name].get("value")} if name in one else {} for one in (ours, theirs)]
        made.append({**_metric("evaluation", name, *values), **_chance(name, left, right)})
    return made


def _metric(source: str, name: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    before, after = left.get(name), right.get(name)
    both = isinstance(before, (int, float)) and isinstance(after, (int, float))
    return {
        "source": source,
        "name": name,
        "left": before,
        "right": after,
        "difference": after - before if both else None,  # type: ignore[operator]
        "significance": "not known",
        "why": "a run keeps one number, not its losses row by row",
    }


def _evaluated(side: Side) -> Mapping[str, Mapping[str, Any]]:
    found = (side.verdicts.get("evaluation", {}).get("numbers") or {}).get("metrics") or {}
    return {name: value for name, value in found.items() if isinstance(value, Mapping)}


def _chance(name: str, left: Side, right: Side) -> dict[str, Any]:
    """What an evaluation that held one of the two against the other says; nothing is worked out anew."""
    for judged, other, whose in ((right, left, "right"), (left, right, "left")):
        verdict = judged.verdicts.get("evaluation", {})
        entry = _evaluated(judged).get(name, {})
        if other.record.get("digest") not in (verdict.get("inputs") or ()) or entry.get("champion") is None:
            continue
        low, high = entry.get("low"), entry.get("high")
        if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
            continue
        margin = float(entry.get("margin") or 0.0)
        allowed = "" if margin == 0 else f" than the margin of {100 * margin:g} % allows"
        worse = f"{whose} is worse{allowed}"
        found = worse if low > 0 else f"{whose} is not worse{allowed}" if high < 0 else "could be chance"
        return {
            "significance": found,
            "interval": [low, high],
            "margin": margin,
            "on_same_rows": [entry.get("champion"), entry.get("value")][:: 1 if whose == "right" else -1],
            "why": (
                f"{whose}'s evaluation held it against the other on the same rows: by how much it is worse than the "
                "margin allows, 95 % by resampling the rows"
            ),
        }
    return {"why": "no evaluation held one against the other on the same rows, and losses row by row are not kept"}


# -- what it takes and gives, and needs


def signature(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """Columns added, removed and changed, of inputs, outputs and params; ``known`` is False where one has none."""
    ours, theirs = (dict((one.get("facts") or {}).get("signature") or {}) for one in (left, right))
    made: dict[str, Any] = {"known": bool(ours) and bool(theirs)}
    for part in ("inputs", "outputs", "params"):
        made[part] = changes(_columns(ours.get(part)), _columns(theirs.get(part)))
    return made


def _columns(schema: Any) -> dict[str, Any]:
    """By name, or by place where they have none."""
    try:
        found = json.loads(schema) if isinstance(schema, str) else schema
    except ValueError:
        return {"(unreadable)": str(schema)[:200]}
    rows = found if isinstance(found, list) else [] if found is None else [found]
    return dict(_column(place, row) for place, row in enumerate(rows))


def _column(place: int, row: Any) -> tuple[str, Any]:
    if not isinstance(row, Mapping):
        return (row, {}) if isinstance(row, str) else (f"#{place}", row)
    return str(row.get("name") or f"#{place}"), {key: value for key, value in row.items() if key != "name"}


def environment(left: Mapping[str, str], right: Mapping[str, str]) -> dict[str, Any]:
    """Packages and Python; ``known`` is False where one of the two says nothing of its packages."""
    python = [_python(one.get(PYTHON, "")) for one in (left, right)]
    return {
        "known": REQUIREMENTS in left and REQUIREMENTS in right,
        "python": None if python[0] == python[1] else python,
        "packages": changes(*(_packages(one.get(REQUIREMENTS, "")) for one in (left, right))),
    }


def _packages(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        wanted = line.partition("#")[0].strip()
        match = _PACKAGE.fullmatch(wanted)
        if match and not wanted.startswith("-"):
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2].strip()
        elif wanted:
            found[wanted] = ""
    return found


def _python(text: str) -> str | None:
    match = re.search(r"^python:\s*['\"]?([\w.]+)", text, re.M)
    return match[1] if match else None


# -- where it comes from


def data(left: Side, right: Side) -> dict[str, Any]:
    """Digest of the snapshot each was trained on, and its rows where a data check counted them."""
    sides = [
        {
            "digest": (side.record.get("recipe") or {}).get("data"),
            "rows": (side.verdicts.get("data-check", {}).get("numbers") or {}).get("rows"),
            "holdout_rows": (side.verdicts.get("evaluation", {}).get("numbers") or {}).get("rows"),
        }
        for side in (left, right)
    ]
    digests = [side["digest"] for side in sides]
    return {"same": None if None in digests else digests[0] == digests[1], "left": sides[0], "right": sides[1]}


def recipe(left: Side, right: Side) -> dict[str, Any]:
    """Differences of code, parameters, features and the rest; of the run's parameters where the recipe has none."""
    ours, theirs = (dict(side.record.get("recipe") or {}) for side in (left, right))
    given = [one.pop("params", None) for one in (ours, theirs)]
    features = [_columns(one.pop("features", None)) for one in (ours, theirs)]
    for one in (ours, theirs):
        for elsewhere in ("data", "dag_run_id", "signature"):
            one.pop(elsewhere, None)
    params = [dict(one) if isinstance(one, Mapping) else None for one in given]
    return {
        "known": bool(left.record.get("recipe")) and bool(right.record.get("recipe")),
        "params": changes(params[0] or {}, params[1] or {})
        if None not in params
        else changes(left.params, right.params),
        "features": changes(*features),
        "other": changes(ours, theirs),
    }


def files(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """Files of the sealed content added, removed and changed, with size in bytes."""
    ours, theirs = (dict((one.get("manifest") or {}).get("files") or {}) for one in (left, right))

    def shown(names: Iterable[str], of: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"path": name, "bytes": of[name][1]} for name in sorted(names)]

    both = ours.keys() & theirs.keys()
    return {
        "same_content": left.get("digest") is not None and left.get("digest") == right.get("digest"),
        "added": shown(theirs.keys() - ours.keys(), theirs),
        "removed": shown(ours.keys() - theirs.keys(), ours),
        "changed": [
            {"path": name, "bytes": [ours[name][1], theirs[name][1]]}
            for name in sorted(both)
            if ours[name][0] != theirs[name][0]
        ],
        "same": sum(ours[name][0] == theirs[name][0] for name in both),
    }
