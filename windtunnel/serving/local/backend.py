"""The local serving backend: real model servers behind Envoy on this machine.

``LocalBackend(home).apply(release)`` writes the desired state first and then brings the world to it, in an
order in which traffic can never point at something that is not there:

1. accept: token and release under the state's lock (``desired.accept``);
2. each version that will get more traffic than it has: private copy verified, server started, loaded, warmed,
   ready by a real inference. A version that keeps or loses traffic is not waited for: a rollback must not
   hang on the candidate it takes away;
3. clusters to the router, acknowledged; then routes, acknowledged;
4. versions that fell out begin to drain; ``sweep`` ends their servers when their time has come.

Every step looks at what is before it acts, so killing ``apply`` at any line and applying again ends in the
same place, and ``reconcile`` can finish it for anybody from the file alone. ``abort`` needs the state's file
and the router, nothing else.

``Release.settings[version]`` holds, all optional:

- ``serving``: ``spec.Serving`` as a plain dict;
- ``features``: ``spec.Feature`` as plain dicts, for request checks and the prediction log;
- ``warmup``: rows (feature to value) predicted before the version is ready; without any, the version is ready
  when it is loaded.

They are taken when a version is deployed and stay while it is up.

Who runs as the same OS user can reach the model servers' ports directly; the embedded stack guards against
mistakes, not against its own user.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from windtunnel.errors import (
    FencedError,
    IntegrityError,
    NotReadyError,
    ServingError,
    UnavailableError,
    WindtunnelError,
)
from windtunnel.home import Home
from windtunnel.loopback import is_free
from windtunnel.serving import artifacts, desired, routing
from windtunnel.serving.artifacts import Folder
from windtunnel.serving.backend import Arm, ArmStatus, Capability, Observed, Release, Traffic
from windtunnel.serving.desired import Server, State, StateFile
from windtunnel.serving.local import envoy, servers
from windtunnel.serving.local.servers import ServerManager, SupervisorServers

#: How long ``apply`` waits for another ``apply`` of the same model to end or to see that it was fenced off.
_WAIT_FOR_TURN_S = 30.0
#: How long ``abort`` waits for the router's word; its file is written by then and will be read.
_ABORT_ACKNOWLEDGED_S = 2.0


class LocalBackend:
    """``ServingBackend`` of one home.

    Args:
        manager: who runs the model servers; the home's supervisord by default.
        clock: seconds since the epoch.
    """

    capabilities: frozenset[Capability] = frozenset({"mirror", "audience", "segments", "several", "sticky"})

    def __init__(
        self, home: Home, manager: ServerManager | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.home = home
        self.manager: ServerManager = manager or SupervisorServers(home)
        self.router = envoy.Router(home)
        self.clock = clock

    # -- the contract

    def refusals(self, release: Release) -> list[str]:
        """See ``ServingBackend.refusals``."""
        from windtunnel.serving.mismatch import release_refusals

        return release_refusals(self.home, release)

    def apply(self, release: Release) -> Observed:
        """See ``ServingBackend.apply``."""
        file = StateFile(self.home, release.model)
        with file.locked() as state:
            desired.accept(state, release)  # a stale holder is refused before it waits for anything
        with self._turn(file, release.token):
            with file.locked() as before:
                file.write(desired.accept(before, release))
            try:
                self._converge(file, release.token)
            except FencedError:
                raise
            except WindtunnelError as error:
                self._give_up(file, before, release, error)
                raise
        return self.observe(release.model)

    def observe(self, model: str) -> Observed:
        """See ``ServingBackend.observe``.

        Raises:
            UnavailableError: the router or the supervisor does not answer.
        """
        state = StateFile(self.home, model).read()
        routed = self.router.routed().get(model) if state.servers or state.release.arms() else None
        return self._observed(state, routed or routing.Routed())

    def renew(self, model: str, token: int, until: float) -> None:
        """See ``ServingBackend.renew``."""
        file = StateFile(self.home, model)
        with file.locked() as state:
            file.write(desired.renew(state, token, until))

    def abort(self, model: str, reason: str, by: str, *, token: int | None = None) -> Observed:
        """See ``ServingBackend.abort``. Done in milliseconds, also with the router down.

        Nothing happens when no candidate is deployed.
        """
        file = StateFile(self.home, model)
        with file.locked() as state:
            aborted = desired.abort(state, reason, by, self.clock(), token)
            if aborted.aborted:
                file.write(aborted)
                self._publish_routes()
        return self._soon(aborted)

    def drop(self, model: str, versions: Sequence[str], reason: str, *, token: int) -> Observed:
        """See ``ServingBackend.drop``. As quick as ``abort``."""
        file = StateFile(self.home, model)
        with file.locked() as state:
            left = desired.drop(state, versions, reason, self.clock(), token)
            if left.dropped:
                file.write(left)
                self._publish_routes()
        return self._soon(left)

    def _soon(self, state: desired.State) -> Observed:
        """What the router has, once it has taken its routes, or after a while."""
        model = state.model
        try:
            self.router.await_routes(_ABORT_ACKNOWLEDGED_S)
            routed = self.router.routed().get(model) or routing.Routed()
        except UnavailableError:  # nothing flows; it will start without the candidates
            routed = routing.Routed()
        return self._observed(state, routed)

    def desired(self, model: str) -> Release | None:
        """The release that was last accepted (after an abort: with its candidates at 0); None when there was none."""
        release = StateFile(self.home, model).read().release
        return release if release.arms() else None

    def lagging(self, model: str) -> bool:
        """Whether the router was told otherwise than is wanted: an ``apply`` is under way, or died."""
        return desired.lagging(StateFile(self.home, model).read())

    def traffic(self, model: str) -> Traffic:
        """See ``ServingBackend.traffic``."""
        from windtunnel.serving.traffic.meter import read_traffic

        return read_traffic(self.home, model)

    def check_target(self, model: str) -> list[str]:
        """Why the version that a rollback would go to could not take over now; see ``target.check_target``."""
        from windtunnel.serving.target import check_target

        return check_target(self.home, model)

    # -- upkeep, for whoever looks after the house

    def reconcile(self, model: str) -> Observed:
        """Bring the world to the state on disk: after a power cut, or an ``apply`` that was killed.

        Raises: like ``apply``.
        """
        file = StateFile(self.home, model)
        token = file.read().release.token
        with self._turn(file, token):
            self._converge(file, token)
        state = file.read()
        for version in state.weights:  # their servers may still be starting
            server = state.servers[version]
            deadline = time.monotonic() + server.serving.ready_within.total_seconds()
            while not servers.is_ready(model, server.port) and time.monotonic() < deadline:
                time.sleep(0.1)
        return self.observe(model)

    def sweep(self, now: float | None = None) -> list[str]:
        """End the servers whose time has come; returns ``MODEL.vVERSION`` of each. Safe to call at any time.

        Models that somebody is applying to are left for the next sweep.
        """
        gone: list[str] = []
        for model in desired.models(self.home):
            file = StateFile(self.home, model)
            with artifacts.file_lock(file.folder / ".apply.lock", wait=False) as mine:
                if mine:
                    gone += self._sweep(file, self.clock() if now is None else now)
        return gone

    # -- steps

    def _converge(self, file: StateFile, token: int) -> None:
        start = file.read()
        fence = _Fence(file, token, start.aborted)
        fence.check(start)
        began = time.time()
        waiting: list[tuple[Arm, Server]] = []
        for arm in start.needed():
            must = _must_be_ready(start, arm)
            try:
                server = self._start(file, arm, fence)
                if must:
                    waiting.append((arm, server))
            except FencedError:
                raise
            except WindtunnelError:
                if must:
                    raise
                # It keeps or loses traffic: what is wrong with it must not hold up the others.
        for version in [version for version in start.warm if version in start.servers]:
            with contextlib.suppress(WindtunnelError):
                self._start_warm(file, start, version)
        for arm, server in waiting:
            self._await_ready(file, arm, server, fence, began)
            with file.locked() as state:
                fence.check(state)
                file.write(desired.deployed(state, arm.version, replace(server, proven=True)))
        self._publish_clusters()
        self.router.await_clusters()
        with file.locked() as before:
            fence.check(before)
            file.write(desired.routed(replace(before, failed=None), self.clock()))
            self._publish_routes()
        try:
            self.router.await_routes()
        except (ServingError, UnavailableError):
            # Not acknowledged is not done: the files go back to what they were.
            with file.locked() as state:
                if state.release == before.release and state.aborted == before.aborted:
                    file.write(before)
                    self._publish_routes()
            raise

    def _give_up(self, file: StateFile, before: State, release: Release, error: WindtunnelError) -> None:
        """The release could not be reached: what was wanted before is wanted again; the token stays spent."""
        with file.locked() as state:
            if state.release != release or state.aborted:
                return
            # Same numbers as before, but the new holder keeps the rollout (and may be aborted or try again).
            old = replace(before.release, token=release.token)
            kept = replace(state, release=old, aborted=before.aborted, failed=str(error.message))
            lost = set(kept.servers) - {arm.version for arm in old.arms()} - set(kept.slots) - set(kept.warm)
            file.write(replace(kept, warm={**kept.warm, **dict.fromkeys(lost, self.clock())}))
        with contextlib.suppress(WindtunnelError):
            self._sweep(file, self.clock())

    def _start(self, file: StateFile, arm: Arm, fence: _Fence) -> Server:
        """Copy, record, configure and start one version; what is so already is left alone."""
        with file.locked() as state:
            fence.check(state)
        settings = state.release.settings.get(arm.version)
        known = state.servers.get(arm.version)
        folder = Folder.of(self.home, file.model, arm.version)
        name = servers.program_name(file.model, arm.version)
        running = self.manager.status(name).state == "running"
        if known and known.digest != arm.digest and arm.version in state.slots:
            raise IntegrityError(
                f"{file.model} version {arm.version} serves with digest {known.digest}, asked for is {arm.digest}",
                hint="a version never changes: register the other content as a version of its own",
            )
        if not (running and known and known.digest == arm.digest and folder.digest() == arm.digest):
            folder = artifacts.ensure(self.home, file.model, arm)
        if known and (settings is None or (running and known.proven and known.digest == arm.digest)):
            # A version that is up keeps its settings: another number in the description must not restart a champion.
            settings = known.settings
        port = known.port if known and (running or is_free(known.port)) else None
        same = known if known and known.digest == arm.digest else None
        server = Server(
            arm.digest, arm.source, port or 0, bool(same and same.proven), bool(same and same.served), settings or {}
        )
        with artifacts.file_lock(self._lock("ports")), file.locked() as state:
            fence.check(state)
            if port is None:
                server = replace(server, port=self._free_port(file.model, arm.version))
            file.write(desired.deployed(state, arm.version, server))
        self._run(file.model, arm.version, server, folder)
        return server

    def _start_warm(self, file: StateFile, state: State, version: str) -> None:
        """A version that stays warm is kept up too; its copy is verified by the server itself."""
        if state.arm(version) is not None:
            return
        name = servers.program_name(file.model, version)
        if self.manager.status(name).state != "running":
            self._run(file.model, version, state.servers[version], Folder.of(self.home, file.model, version))

    def _run(self, model: str, version: str, server: Server, folder: Folder) -> None:
        self.manager.start(
            servers.configure(
                folder,
                home=self.home,
                model=model,
                version=version,
                digest=server.digest,
                port=server.port,
                serving=server.serving,
                features=server.settings.get("features") or (),
                warmup=server.settings.get("warmup") or (),
            )
        )

    def _await_ready(self, file: StateFile, arm: Arm, server: Server, fence: _Fence, began: float) -> None:
        """Return when the version has answered a real inference.

        Raises:
            NotReadyError: it did not within ``Serving.ready_within``, or cannot.
            FencedError: somebody else took over meanwhile.
        """
        name = servers.program_name(file.model, arm.version)
        folder = Folder.of(self.home, file.model, arm.version)
        limit = server.serving.ready_within.total_seconds()
        deadline = time.monotonic() + limit
        rows = server.settings.get("warmup") or []
        again = False
        while True:
            fence.check(file.read())
            try:
                if servers.is_ready(file.model, server.port):
                    if rows:
                        timeout = server.serving.timeout.total_seconds()
                        servers.infer(file.model, arm.version, server.port, rows[0], timeout)
                    return
            except UnavailableError:
                pass  # it said it was ready, and is gone: look again
            except ServingError as error:
                raise NotReadyError(f"{error.message}: it is not ready") from error
            status, note = self.manager.status(name), folder.read_note("failed")
            fresh = note is not None and note["at"] >= began
            why = str(note["message"]) if note and fresh else status.message
            if status.state != "running" and not fresh and not again:
                # It died before the supervisor saw it, so that starting it did nothing: start it once more.
                again = True
                self._run(file.model, arm.version, server, folder)
                continue
            if status.state != "running" and why.startswith("integrity"):
                raise IntegrityError(f"{file.model} version {arm.version}: {why}")
            if status.state != "running" or fresh:
                raise NotReadyError(
                    f"{file.model} version {arm.version} cannot be loaded: {why}",
                    hint=f"its log is {self.home.logs / f'server-{file.model}-{arm.version}.log'}",
                )
            if time.monotonic() > deadline:
                raise NotReadyError(
                    f"{file.model} version {arm.version} was not ready within {limit:g} s",
                    hint="raise serving.ready_within, or see its log",
                )
            time.sleep(0.1)

    def _sweep(self, file: StateFile, now: float) -> list[str]:
        with file.locked() as state:
            versions = desired.due(state, now)
            if versions:
                file.write(desired.forget(state, versions))
        if versions:
            # Nothing routes to them any more; the router lets go before the servers do.
            self._publish_clusters()
            with contextlib.suppress(ServingError, UnavailableError):
                self.router.await_clusters()
        known = {*state.servers} - {*versions}
        folder = file.folder / "versions"
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.name not in known:  # also what a killed sweep or apply left behind
                self.manager.stop(servers.program_name(file.model, path.name))
                shutil.rmtree(path, ignore_errors=True)
        return [routing.Upstream(file.model, version, 0).cluster for version in versions]

    # -- the router's files, made from the states of all models

    def _publish_clusters(self) -> None:
        with artifacts.file_lock(self._lock("router")):
            config = routing.clusters(upstream for state in self._states() for upstream in desired.upstreams(state))
            self.router.write_clusters(config)

    def _publish_routes(self) -> None:
        with artifacts.file_lock(self._lock("router")):
            config = routing.routes(desired.model_route(state) for state in self._states())
            self.router.write_routes(config)

    def _states(self) -> list[State]:
        return [StateFile(self.home, model).read() for model in desired.models(self.home)]

    def _lock(self, name: str) -> Path:
        folder = envoy.folder(self.home)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f".{name}.lock"

    def _free_port(self, model: str, version: str) -> int:
        taken = {server.port for state in self._states() for server in state.servers.values()}
        return servers.free_port(taken, zlib.crc32(f"{self.home.root}/{model}/{version}".encode()))

    # -- turns

    @contextmanager
    def _turn(self, file: StateFile, token: int) -> Iterator[None]:
        """One ``apply`` of a model at a time; a holder that was fenced off ends by itself and lets us in."""
        deadline = time.monotonic() + _WAIT_FOR_TURN_S
        while True:
            with artifacts.file_lock(file.folder / ".apply.lock", wait=False) as mine:
                if mine:
                    yield
                    return
            if token < file.read().release.token:
                raise _fenced(file.model, token, file.read().release.token)
            if time.monotonic() > deadline:
                raise ServingError(
                    f"{file.model}: another release has been applying for more than {_WAIT_FOR_TURN_S:g} s",
                    hint="try again when it has ended",
                )
            time.sleep(0.1)

    # -- reading back

    def _observed(self, state: State, routed: routing.Routed) -> Observed:
        versions = dict.fromkeys([*(arm.version for arm in state.release.arms()), *state.servers])
        return Observed(
            model=state.model,
            arms={version: self._status(state, version, routed.weights.get(version, 0)) for version in versions},
            token=state.release.token,
            rollout_id=state.release.rollout_id,
            aborted=str(state.aborted["reason"]) if state.aborted else None,
            lease_until=state.release.lease_until,
            mirror=routed.mirror[1] if routed.mirror else 0,
            audience=routed.audience[:2] if routed.audience else None,
        )

    def _status(self, state: State, version: str, weight: int) -> ArmStatus:
        server = state.servers.get(version)
        if server is None:
            return ArmStatus(version, weight, False, "absent")
        if servers.is_ready(state.model, server.port):
            needed = any(arm.version == version for arm in state.needed())
            return ArmStatus(version, weight, True, "ready" if needed else "warm")
        try:
            status = self.manager.status(servers.program_name(state.model, version))
        except UnavailableError as error:  # the traffic can be read all the same
            return ArmStatus(version, weight, False, "failed", error.message)
        note = Folder.of(self.home, state.model, version).read_note("failed")
        message = str(note["message"]) if note else status.message
        if status.state == "running":
            return ArmStatus(version, weight, False, "loading", message)
        return ArmStatus(version, weight, False, status.state, message)


class _Fence:
    """Whether the holder who began with ``token`` may still go on."""

    def __init__(self, file: StateFile, token: int, aborted: dict[str, Any] | None) -> None:
        self._model, self._token, self._aborted = file.model, token, aborted

    def check(self, state: State) -> None:
        """Raise FencedError when another holder wrote, or somebody aborted, since we began."""
        if state.release.token != self._token:
            raise _fenced(self._model, self._token, state.release.token)
        if state.aborted != self._aborted and state.aborted is not None:
            raise FencedError(
                f"{self._model}: the rollout was aborted by {state.aborted['by']}: {state.aborted['reason']}",
                hint="its candidates get no traffic; a new rollout (with a new token) may begin",
            )


def _fenced(model: str, token: int, newer: int) -> FencedError:
    return FencedError(
        f"{model}: token {token} no longer holds the rollout, {newer} does",
        hint="this rollout was taken over: stop writing",
    )


def _must_be_ready(state: State, arm: Arm) -> bool:
    """Whether traffic may move only once this arm is ready: it is new, or gets more traffic than it has, or of
    another kind (copies, an audience).

    A champion that serves already is not waited for when it takes back what a candidate had.
    """
    server = state.servers.get(arm.version)
    if server is None or server.digest != arm.digest or not server.proven:
        return True
    now = state.weights.get(arm.version, 0)
    first = next(iter(state.release.candidates), None)
    if first and first.version == arm.version:
        new = (state.release.mirror, "mirror"), (state.release.audience, "audience")
        if any(asked and kind not in state.route for asked, kind in new):
            return True
    return arm.weight > now and not (server.served and now > 0)


def reconcile_all(home: Home, manager: ServerManager | None = None) -> dict[str, Observed | WindtunnelError]:
    """Bring every model of ``home`` to its state on disk; ``windtunnel up`` calls it after a stop or a power cut.

    One model that cannot be brought back does not keep the others down: its error stands in the answer.
    """
    backend = LocalBackend(home, manager)
    found: dict[str, Observed | WindtunnelError] = {}
    for model in desired.models(home):
        try:
            found[model] = backend.reconcile(model)
        except WindtunnelError as error:
            found[model] = error
    return found
