"""Desired state of one model's traffic, as plain values: what was asked, what is routed, what stays warm.

Each change is a pure function from state to state; ``StateFile`` keeps the state in
``HOME/serving/models/MODEL/desired.json`` and changes it under a file lock, so two processes (a release, the
guard, a person) can never mix their writes. The fencing token lives here, where the traffic lives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import groupby
from typing import Any

from pydantic import ValidationError

from windtunnel import files
from windtunnel.errors import FencedError, ServingError
from windtunnel.home import Home
from windtunnel.names import check_model_name
from windtunnel.serving import routing
from windtunnel.serving.artifacts import file_lock
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.checks import check
from windtunnel.spec.serving import Serving


@dataclass(frozen=True, slots=True)
class Server:
    """One version's deployed server.

    Attributes:
        proven: it has answered a real inference since this content was deployed.
        served: it has been champion, so it stays warm after it loses its traffic.
        settings: its part of ``Release.settings``, so that a server can be made again without the release.
    """

    digest: str
    source: str
    port: int
    proven: bool = False
    served: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def serving(self) -> Serving:
        return serving_of(self.settings)


@dataclass(frozen=True, slots=True)
class State:
    """Everything the local backend knows of one model.

    Attributes:
        release: what was last asked for and accepted; after an abort with its candidates at 0.
        aborted: ``{rollout_id, token, reason, by, at}`` once the release's rollout was aborted.
        slots: version by routing slot, as last given to the router.
        route: time-out, sticky header, mirror, audience and segment header as last given to the router.
        servers: by version, those deployed.
        warm: version to the time after which its server may go.
        failed: why the last attempt to reach ``release`` was given up.
        dropped: candidates of this rollout that were taken to 0 while others fly on, and why.
    """

    release: Release
    aborted: dict[str, Any] | None = None
    slots: tuple[str, ...] = ()
    route: dict[str, Any] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    warm: dict[str, float] = field(default_factory=dict)
    failed: str | None = None
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return self.release.model

    @property
    def weights(self) -> dict[str, int]:
        """Percent by version as last given to the router."""
        return {version: self.slots.count(version) for version in dict.fromkeys(self.slots)}

    @property
    def wanted(self) -> dict[str, int]:
        """Percent by version as asked."""
        return {arm.version: arm.weight for arm in self.release.arms()}

    def arm(self, version: str) -> Arm | None:
        return next((arm for arm in self.release.arms() if arm.version == version), None)

    def needed(self) -> list[Arm]:
        """Arms whose servers must be up: all, or only the champion after an abort."""
        if self.aborted:
            return [self.release.champion] if self.release.champion else []
        return list(self.release.arms())


def serving_of(settings: Mapping[str, Any]) -> Serving:
    """The serving part of one version's settings; defaults where there is none.

    Raises:
        ServingError: it is none that a description could hold.
    """
    try:
        return Serving.model_validate(settings.get("serving") or {})
    except ValidationError as error:
        told = "; ".join(f"serving.{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ServingError(
            f"settings that cannot be served by: {told}", hint="see docs/reference/description.md"
        ) from error


# -- transitions


def accept(state: State, release: Release) -> State:
    """``release`` becomes what is wanted; nothing is routed yet.

    Raises:
        FencedError: its token is older than the last, its rollout has come further, or was aborted. What the registry
            made of an aborted rollout, a champion alone of a later stage, is accepted.
        ServingError: its weights cannot be, one version stands twice, or what it asks for beside them cannot be.
    """
    check(release)
    for settings in release.settings.values():
        serving_of(settings)  # what is wanted can be read again, whatever comes of it
    old = state.release
    if release.token < old.token:
        raise FencedError(
            f"{release.model}: token {release.token} is older than {old.token}, which another holder wrote",
            hint="this rollout was taken over: stop writing",
        )
    if release.token == old.token and release.rollout_id == old.rollout_id and release.stage < old.stage:
        raise FencedError(
            f"{release.model}: rollout {release.rollout_id} is at stage {old.stage}, this write is of {release.stage}",
            hint="another try of this release has gone further: what this one wants is done",
        )
    if _rival(old, release):
        raise FencedError(
            f"{release.model}: rollout {release.rollout_id} has version {_alone(old)} as champion at stage {old.stage},"
            f" this write has {_alone(release)}",
            hint="two followed the registry's champion at once: ask it again, the later word holds",
        )
    follows = not release.candidates and release.stage > old.stage
    same = state.aborted and (
        release.rollout_id == state.aborted["rollout_id"] or release.token <= state.aborted["token"]
    )
    if state.aborted and same and not follows:
        raise FencedError(
            f"{release.model}: rollout {state.aborted['rollout_id']} was aborted by {state.aborted['by']}: "
            f"{state.aborted['reason']}",
            hint="its candidates get no traffic; a new rollout (with a new token) may begin",
        )
    dropped = dict(state.dropped) if release.rollout_id == old.rollout_id else {}
    if state.aborted and release.rollout_id == state.aborted["rollout_id"]:
        # The abort is over, for the registry's champion has the traffic. All else that it took to 0 stays there.
        law = release.champion.version if release.champion else None
        why = f"the rollout was aborted: {state.aborted['reason']}"
        dropped |= {arm.version: why for arm in old.candidates if arm.version != law}
    back = [arm.version for arm in release.arms() if arm.weight and arm.version in dropped]
    if back and not follows:
        raise FencedError(
            f"{release.model}: version {back[0]} was taken to 0: {dropped[back[0]]}",
            hint="it gets no traffic in this rollout any more: this write is of before",
        )
    return replace(state, release=release, aborted=None, failed=None, dropped=dropped)


def _rival(old: Release, release: Release) -> bool:
    """Two followed the registry from the same state, each another champion of it: the second knows no better than the
    first, it may have asked long ago. A deployment without stages is nobody's following."""
    same = (release.token, release.rollout_id, release.stage) == (old.token, old.rollout_id, old.stage)
    mine, theirs = _alone(release), _alone(old)
    return bool(same and release.stage and mine and theirs and mine != theirs)


def _alone(release: Release) -> str | None:
    """The champion's version where it has everything and nobody is beside it."""
    champion = release.champion
    return champion.version if champion is not None and champion.weight == 100 and not release.candidates else None


def abort(state: State, reason: str, by: str, now: float, token: int | None = None) -> State:
    """Candidates at 0, the champion alone; the same state when no candidate is deployed.

    Args:
        token: of the holder who asks; the same state when another one holds the rollout by now. None: anybody.
    """
    release = state.release
    if not release.candidates or state.aborted or (token is not None and token < release.token):
        return state
    champion = _safe(state)
    stopped = replace(
        release,
        champion=champion,
        candidates=tuple(replace(arm, weight=0) for arm in release.candidates),
        lease_until=None,
        mirror=0,
        audience=None,
    )
    mark = {"rollout_id": release.rollout_id, "token": release.token, "reason": reason, "by": by, "at": now}
    return routed(replace(state, release=stopped, aborted=mark), now)


def withdraw(state: State, now: float) -> State:
    """The champion alone, of a first release whose watch has found harm, at 0: nobody is left to serve. It stays named
    until the registry knows. The same state when a candidate is beside it, or nothing has traffic."""
    release, champion = state.release, state.release.champion
    if release.candidates or champion is None or not champion.weight:
        return state
    # Nobody goes back to what is withdrawn: it is kept warm for nobody.
    left = replace(release, champion=replace(champion, weight=0), keep_warm_s=0.0, stage=release.stage + 1)
    return routed(replace(state, release=left), now)


def drop(state: State, versions: Sequence[str], reason: str, now: float, token: int) -> State:
    """Some candidates at 0 for the rest of the rollout, their weight the champion's; the others as they are.

    The same state when another holder has the rollout by now, it was aborted, or all this is so already.
    """
    release, champion = state.release, state.release.champion
    out = {arm.version for arm in release.candidates if arm.version in versions}
    if token < release.token or state.aborted or champion is None or out <= state.dropped.keys():
        return state
    freed = sum(arm.weight for arm in release.candidates if arm.version in out)
    left = replace(
        release,
        champion=replace(champion, weight=champion.weight + freed),
        candidates=tuple(replace(arm, weight=0) if arm.version in out else arm for arm in release.candidates),
    )
    dropped = {**dict.fromkeys(sorted(out), reason), **state.dropped}
    return routed(replace(state, release=left, dropped=dropped), now)


def _safe(state: State) -> Arm | None:
    """The champion with all traffic. One that was only just asked for and has never answered is not safe: then
    the version, other than a candidate, that the router gives most to; nothing where nothing serves."""
    wanted = state.release.champion
    if wanted is None:
        return None
    known = state.servers.get(wanted.version)
    if wanted.version not in state.slots and not (known and known.proven and known.digest == wanted.digest):
        candidates = {arm.version for arm in state.release.candidates}
        others = {v: n for v, n in state.weights.items() if v in state.servers and v not in candidates}
        if others:
            version = max(others, key=lambda v: others[v])
            server = state.servers[version]
            return Arm(version, server.digest, server.source, routing.SLOTS)
        if not state.slots:  # nothing serves, so nothing is lost when nothing goes on serving
            return replace(wanted, weight=0)
    return replace(wanted, weight=routing.SLOTS)


def lagging(state: State) -> bool:
    """The router divides otherwise than is wanted: somebody is applying, or died in the middle of it."""
    return state.weights != {version: weight for version, weight in state.wanted.items() if weight}


def renew(state: State, token: int, until: float) -> State:
    """The lease now ends at ``until``; the same state where no request reaches a candidate, and so nothing is leased: a
    gate that goes on after the guard has brought the traffic to the registry's champion leaves no lease behind.

    Raises:
        FencedError: ``token`` is not the current one, or the rollout was aborted.
    """
    if token != state.release.token:
        raise FencedError(
            f"{state.model}: token {token} does not hold the rollout, {state.release.token} does",
            hint="this rollout was taken over: stop renewing",
        )
    if state.aborted:
        raise FencedError(f"{state.model}: the rollout was aborted by {state.aborted['by']}: {state.aborted['reason']}")
    if not state.release.exposed:
        return state
    return replace(state, release=replace(state.release, lease_until=until))


def deployed(state: State, version: str, server: Server) -> State:
    """``version`` has a server (or is about to: the record comes first, so that none is ever forgotten)."""
    return replace(state, servers={**state.servers, version: server})


def routed(state: State, now: float) -> State:
    """The router is given the wanted weights; versions that fall out of the release begin to go.

    A former champion stays for the release's ``keep_warm_s``, any other version until its requests have drained.
    """
    release = state.release
    slots = routing.assign(state.slots, state.wanted)
    servers = dict(state.servers)
    champion = release.champion.version if release.champion else None
    if champion in servers and champion in slots:
        servers[champion] = replace(servers[champion], served=True)
    kept = {arm.version for arm in state.needed()}
    warm = {version: until for version, until in state.warm.items() if version not in kept and version in servers}
    for version, server in servers.items():
        if version not in kept and version not in warm:
            drain = server.serving.drain.total_seconds() + server.serving.timeout.total_seconds()
            warm[version] = now + (max(release.keep_warm_s, drain) if server.served else drain)
    return replace(state, slots=slots, route=_route(state, slots), servers=servers, warm=warm)


def due(state: State, now: float) -> list[str]:
    """Versions whose servers may go: past their time, not routed, not needed."""
    kept = {arm.version for arm in state.needed()} | set(state.slots)
    return [version for version, until in state.warm.items() if until <= now and version not in kept]


def forget(state: State, versions: list[str]) -> State:
    """The servers of ``versions`` are going."""
    return replace(
        state,
        servers={version: server for version, server in state.servers.items() if version not in versions},
        warm={version: until for version, until in state.warm.items() if version not in versions},
    )


def upstreams(state: State) -> list[routing.Upstream]:
    """The router's clusters of this model."""
    return [
        routing.Upstream(state.model, version, server.port, server.serving.max_concurrency, server.serving.queue)
        for version, server in state.servers.items()
    ]


def model_route(state: State) -> routing.ModelRoute:
    """The router's routes of this model."""
    slots = state.slots if set(state.slots) <= set(state.servers) else ()
    heaviest = max(state.weights, key=lambda version: state.weights[version], default=None)
    return routing.ModelRoute(
        state.model,
        slots,
        timeout_s=float(state.route.get("timeout_s", 10.0)),
        sticky=state.route.get("sticky"),
        ready_from=heaviest,
        mirror=_known(state, state.route.get("mirror"), 0),
        audience=_known(state, state.route.get("audience"), 2),
        segment_header=state.route.get("segment_header"),
    )


def _known(state: State, target: Sequence[Any] | None, at: int) -> Any:
    """Where mirror or audience goes, if that version has a server."""
    return tuple(target) if target and target[at] in state.servers else None


def _route(state: State, slots: tuple[str, ...]) -> dict[str, Any]:
    """Time-out: the longest of the arms that serve. Sticky header: the champion's, else the first arm's."""
    settings = {version: state.servers[version].serving for version in dict.fromkeys(slots) if version in state.servers}
    if not settings:
        return {}
    champion = state.release.champion
    first = champion.version if champion and champion.version in settings else next(iter(settings))
    longest = max(serving.timeout.total_seconds() for serving in settings.values())
    return {"timeout_s": longest, "sticky": settings[first].sticky} | _beside(state.release, slots)


def _beside(release: Release, slots: tuple[str, ...]) -> dict[str, Any]:
    """What the route does beside the weights; the keys that are needed only. A candidate that has all slots needs no
    audience: there is nobody else to tell its requests from."""
    found: dict[str, Any] = {}
    candidate = release.candidates[0].version if release.candidates else None
    if candidate and release.mirror:
        found["mirror"] = [candidate, release.mirror]
    if candidate and release.audience and set(slots) != {candidate}:
        found["audience"] = [release.audience[0].lower(), release.audience[1], candidate]
    if release.segment_header:
        found["segment_header"] = release.segment_header.lower()
    return found


# -- file


class StateFile:
    """``HOME/serving/models/MODEL/desired.json`` and its lock."""

    def __init__(self, home: Home, model: str) -> None:
        self.model = check_model_name(model)
        self.folder = home.serving_model(model)
        self.path = self.folder / "desired.json"

    def read(self) -> State:
        """The state; that of a model never deployed when there is no file.

        Raises:
            ServingError: the file is there and cannot be read (it is never taken for an empty one).
        """
        try:
            return from_dict(json.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return State(Release(self.model, None))
        except (ValueError, KeyError, TypeError) as error:
            raise ServingError(
                f"{self.path} cannot be read: {error!r}", hint="restore it, or remove it and apply the release again"
            ) from error

    def write(self, state: State) -> bool:
        """Replace the file if the state differs; True if it did. The lock must be held."""
        plain = json.loads(json.dumps(to_dict(state)))
        if files.read_json(self.path, broken_ok=True) == plain:
            return False
        files.write_json(self.path, plain)
        return True

    @contextmanager
    def locked(self) -> Iterator[State]:
        """The state, while nobody else may change it. Held for milliseconds: never wait for a server inside."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / ".desired.lock"):
            yield self.read()


def models(home: Home) -> list[str]:
    """All models that were ever deployed here."""
    return sorted(path.parent.name for path in (home.serving / "models").glob("*/desired.json"))


def to_dict(state: State) -> dict[str, Any]:
    """Plain JSON of a state; slots as runs. Settings are the state's own, not copies: they are large, and every look of
    a gate writes them."""
    release = _fields(state.release)
    arms = {
        "champion": asdict(release["champion"]) if release["champion"] else None,
        "candidates": [asdict(arm) for arm in release["candidates"]],
    }
    return {
        "schema": 1,
        "release": release | arms,
        "aborted": state.aborted,
        "slots": [[version, sum(1 for _ in run)] for version, run in groupby(state.slots)],
        "route": state.route,
        "servers": {version: _fields(server) for version, server in sorted(state.servers.items())},
        "warm": dict(sorted(state.warm.items())),
        "failed": state.failed,
        "dropped": state.dropped,
    }


def _fields(thing: Server | Release) -> dict[str, Any]:
    return {one.name: getattr(thing, one.name) for one in fields(thing)}


def from_dict(plain: Mapping[str, Any]) -> State:
    """The inverse of ``to_dict``."""
    release = dict(plain["release"])
    champion = release.pop("champion")
    candidates = release.pop("candidates")
    audience = release.pop("audience", None)
    segments = release.pop("segments", ())
    return State(
        release=Release(
            **release,
            champion=Arm(**champion) if champion else None,
            candidates=tuple(Arm(**arm) for arm in candidates),
            audience=tuple(audience) if audience else None,
            segments=tuple(segments),
        ),
        aborted=plain["aborted"],
        slots=tuple(version for version, count in plain["slots"] for _ in range(count)),
        route=dict(plain["route"]),
        servers={version: Server(**server) for version, server in plain["servers"].items()},
        warm={version: float(until) for version, until in plain["warm"].items()},
        failed=plain["failed"],
        dropped=dict(plain.get("dropped") or {}),
    )
