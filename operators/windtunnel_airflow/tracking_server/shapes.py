"""MLflow's answers, small enough for XCom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Longest tag value that is handed on; a whole note in a tag has no place in XCom.
_LONGEST = 250


def tags(plain: Mapping[str, Any]) -> dict[str, str]:
    """``{key: value}``; long values are cut."""
    return {str(tag["key"]): str(tag.get("value", ""))[:_LONGEST] for tag in plain.get("tags") or []}


def model(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A registered model: ``{"name", "aliases": {alias: version}, "latest": {stage: version}, "tags"}``."""
    return {
        "name": plain["name"],
        "aliases": {found["alias"]: str(found["version"]) for found in plain.get("aliases") or []},
        "latest": {
            found.get("current_stage", "None"): str(found["version"]) for found in plain.get("latest_versions") or []
        },
        "tags": tags(plain),
    }


def version(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A model version: ``{"name", "version", "stage", "status", "source", "run_id", "aliases", "tags"}``."""
    return {
        "name": plain["name"],
        "version": str(plain["version"]),
        "stage": plain.get("current_stage") or "None",
        "status": plain.get("status") or "READY",
        "status_message": plain.get("status_message"),
        "source": plain.get("source"),
        "run_id": plain.get("run_id") or None,
        "aliases": list(plain.get("aliases") or []),
        "tags": tags(plain),
    }


def run(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A run: ``{"run_id", "experiment_id", "name", "status", "metrics"}``; of the metrics the newest values."""
    info, data = plain["info"], plain.get("data") or {}
    metrics: Sequence[Mapping[str, Any]] = data.get("metrics") or []
    return {
        "run_id": info["run_id"],
        "experiment_id": info["experiment_id"],
        "name": info.get("run_name"),
        "status": info.get("status"),
        "metrics": {found["key"]: found.get("value") for found in metrics},
    }
