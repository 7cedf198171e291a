"""Router counters as files: written by the meter, read by whoever judges a rollout."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from windtunnel import files
from windtunnel.errors import UnavailableError
from windtunnel.home import Home
from windtunnel.names import check_model_name
from windtunnel.serving.backend import ArmTraffic, Traffic
from windtunnel.stats.histogram import Histogram

#: A source whose heartbeat is older than this is dead, and a dead source is no evidence.
DEAD_AFTER_S = 5.0


def traffic_path(home: Home, model: str) -> Path:
    """``HOME/serving/traffic/MODEL.json``: cumulative counters and heartbeat."""
    return home.serving / "traffic" / f"{check_model_name(model)}.json"


def recent_path(home: Home, model: str) -> Path:
    """``HOME/serving/traffic/MODEL.recent.json``: requests and errors per second of the last 15 minutes."""
    return home.serving / "traffic" / f"{check_model_name(model)}.recent.json"


def read_traffic(home: Home, model: str, now: float | None = None) -> Traffic:
    """Cumulative counters of all arms of ``model``, as the router saw them. Counts of an older meter have arms only.

    ``Traffic.at`` is the last instant up to which the meter had read the access log.

    Raises:
        UnavailableError: the meter has never written them, or its heartbeat is older than 5 s.
            A dead source is never an empty answer.
    """
    path = traffic_path(home, model)
    plain = files.read_json(path, broken_ok=True)
    if not isinstance(plain, dict):
        raise UnavailableError(
            f"no traffic counters for model {model!r} in {path}",
            hint="the meter writes them: is 'python -m windtunnel.serving.traffic.meter' running?",
        )
    now = time.time() if now is None else now
    try:
        at, epoch = float(plain["at"]), str(plain["epoch"])
        traffic = Traffic(
            model=model,
            epoch=epoch,
            at=at,
            arms=_arms(plain["arms"]),
            audience=_arms(plain.get("audience", {})),
            shadow=_arms(plain.get("shadow", {})),
            segments={str(name): _arms(arms) for name, arms in plain.get("segments", {}).items()},
            shadow_segments={str(name): _arms(arms) for name, arms in plain.get("shadow_segments", {}).items()},
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UnavailableError(
            f"the traffic counters in {path} cannot be understood: {error!r}",
            hint="restart the meter; it writes the file anew",
        ) from error
    # A heartbeat from the future is a clock that was set back: its age is not known, so it is dead too.
    if not -DEAD_AFTER_S <= now - at <= DEAD_AFTER_S:
        raise UnavailableError(
            f"the traffic counters of model {model!r} are {now - at:.1f} s old, at most {DEAD_AFTER_S:.0f} s expected",
            hint="the meter has stopped or hangs: see 'windtunnel logs meter'",
        )
    return traffic


class NamedSegments:
    """``Release.segments`` of each model, read again when its desired state was written."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._known: dict[str, tuple[int, frozenset[str]]] = {}

    def of(self, model: str) -> frozenset[str]:
        """None named when there is no desired state, or none that can be read."""
        path = self._home.serving_model(model) / "desired.json"
        try:
            written = path.stat().st_mtime_ns
        except OSError:
            return frozenset()
        if self._known.get(model, (None,))[0] != written:
            plain = files.read_json(path, broken_ok=True)
            release = plain.get("release") if isinstance(plain, dict) else None
            found = release.get("segments") if isinstance(release, dict) else None
            self._known[model] = written, frozenset(map(str, found or ()))
        return self._known[model][1]


def read_recent(home: Home, model: str) -> dict[str, dict[int, tuple[int, int]]]:
    """By version: second since the epoch to (requests, errors), the last 15 minutes; for the eyes, not for gates."""
    plain = files.read_json(recent_path(home, model), broken_ok=True)
    if not isinstance(plain, dict):
        return {}
    return {
        version: {int(second): (int(pair[0]), int(pair[1])) for second, pair in seconds.items()}
        for version, seconds in plain.get("arms", {}).items()
    }


def _arms(plain: dict[str, Any]) -> dict[str, ArmTraffic]:
    return {str(version): _arm(arm) for version, arm in plain.items()}


def _arm(plain: dict[str, Any]) -> ArmTraffic:
    return ArmTraffic(
        requests=int(plain["requests"]),
        errors=int(plain["errors"]),
        client_errors=int(plain["client_errors"]),
        latency=Histogram.from_dict(plain["latency"]),
    )
