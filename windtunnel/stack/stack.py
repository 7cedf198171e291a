"""``Stack``: up, down, status. The order of things; each thing itself lives in a module of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from windtunnel.errors import StackError, UnavailableError
from windtunnel.home import Home
from windtunnel.stack import airflow, dags, database, disk, files, mlflow, probes, processes, secretbox, serving
from windtunnel.stack import ports as port_choice
from windtunnel.stack import settings as settings_file
from windtunnel.stack.health import Answer, Level, Limits, judge, share, worst
from windtunnel.stack.programs import Program, configuration
from windtunnel.stack.schema import Migration
from windtunnel.stack.schema import needed as migration_needed
from windtunnel.stack.supervisor import ProgramState, Supervisor
from windtunnel.stackfile import StackFile

#: Order of display; also everything that must be well before ``up`` is done.
PROGRAMS = (*airflow.PROGRAMS, mlflow.NAME, *serving.PROGRAMS)

#: supervisord's configuration, Airflow's and SQLite's URLs quote paths each in their own way; a plain path suits all.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/@+=,~-]*")

#: Which program listens on the port of which server.
LISTENS = {"airflow-api": "airflow", mlflow.NAME: "mlflow", "envoy": "envoy"}

Tell = Callable[[str], None]


class _PortLost(StackError):
    """Somebody took a port between our choosing it and our server's listening on it."""

    def __init__(self, server: str, port: int, by: str | None) -> None:
        super().__init__(
            f"port {port} for {server} was taken by {by or 'another process'} while the stack was starting",
            hint=f"stop it, or give another one with --{server}-port",
        )
        self.server = server


@dataclass(frozen=True, slots=True)
class Component:
    """One line of ``windtunnel status``. ``memory_mb`` counts shared pages once (PSS)."""

    name: str
    level: Level
    reason: str
    pid: int | None = None
    memory_mb: float | None = None
    cpu_percent: float | None = None
    uptime_s: float | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What is, right now. ``level`` is the worst of the components; the machine is told apart."""

    running: bool
    level: Level
    components: tuple[Component, ...]
    machine: tuple[Component, ...]
    urls: Mapping[str, str] = field(default_factory=dict)
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """What ``up`` did.

    Attributes:
        already: the stack ran before.
        passwords: log-ins by server, only the first time; later they are in HOME/secrets.
        seconds: time of each phase.
    """

    file: StackFile
    already: bool
    passwords: dict[str, str]
    seconds: dict[str, float]


class Stack:
    """The embedded stack of one home.

    Args:
        home: where everything lives.
        only: start these programs and no others, for a test of one part; all by default.
    """

    def __init__(self, home: Home, *, only: Collection[str] = PROGRAMS) -> None:
        self.home = home
        self.only = tuple(name for name in PROGRAMS if name in only)
        self.supervisor = Supervisor(home)

    # ------------------------------------------------------------------ up
    def up(
        self,
        *,
        ports: Mapping[str, int] | None = None,
        dag_folders: Sequence[Path] = (),
        examples: Collection[str] | None = None,
        tell: Tell = lambda line: None,
        limit_s: float = 240.0,
    ) -> Started:
        """Start everything and wait until it is healthy. Running already: nothing is changed.

        Whatever interrupts it (an error, Ctrl-C, SIGTERM as KeyboardInterrupt) ends all it started.

        Args:
            ports: ``airflow``, ``mlflow``, ``envoy`` where they must be certain ones.
            dag_folders: added to those of earlier calls.
            examples: shipped example DAG files, added to those of earlier calls; None means all there are.
            tell: gets one line per step.

        Raises:
            StackError: a port is taken, the disk is full, a component does not become healthy ...
        """
        self._check_home()
        with self._lock():
            running = self._running()
            if running:
                self._check_same(running, ports or {}, dag_folders)
                return self._finish(running, already=True, seconds={}, tell=tell, limit_s=limit_s)
            try:
                wanted = dags.examples() if examples is None else frozenset(examples)
                return self._start_where_free(ports or {}, dag_folders, wanted, tell, limit_s)
            except BaseException:
                with _undisturbed():
                    tell("stopping what was started")
                    self._end_everything(grace_s=2.0)
                raise

    def _start_where_free(
        self,
        told: Mapping[str, int],
        dag_folders: Sequence[Path],
        examples: frozenset[str],
        tell: Tell,
        limit_s: float,
    ) -> Started:
        """Start; where a port that nobody told us is lost to another process meanwhile, again with another one."""
        for more in (2, 1, 0):
            try:
                return self._start(told, dag_folders, examples, tell, limit_s)
            except _PortLost as lost:
                if not more or lost.server in {**settings_file.read(self.home).ports, **told}:
                    raise
                tell(lost.message)
                with _undisturbed():
                    self._end_everything(grace_s=2.0)
        raise AssertionError("unreachable")

    def _start(
        self,
        told: Mapping[str, int],
        dag_folders: Sequence[Path],
        examples: frozenset[str],
        tell: Tell,
        limit_s: float,
    ) -> Started:
        clock = _Clock()
        home = self.home
        left = processes.of_home(home)
        if left:
            tell(f"ending {len(left)} processes that an earlier stack left")
            self._end_everything(grace_s=0.0)
        settings = settings_file.read(home)
        disk.require_space(home, settings)
        serving_python = serving.find_python(home)
        former = self._former()
        shown = sorted(examples | set(former.get("examples", [])))
        self._make_folders(shown)
        folders = tuple(dict.fromkeys([*former.get("dags", []), *map(str, settings.dags), *map(_folder, dag_folders)]))
        bundles = tuple(Path(folder) for folder in folders)
        dags.check_folders(bundles)
        chosen = port_choice.choose({**settings.ports, **told}, former.get("ports", {}))
        secretbox.ensure(home)
        databases = database.find(home)
        if databases.kind == "postgresql":
            database.create_postgres(databases)
        programs = self._write_configuration(settings, databases, chosen, (home.dags, *bundles))
        clock.lap("prepare")

        tell("starting the supervisor")
        pid = self.supervisor.start(home.supervisor / "supervisord.conf")
        file = StackFile(
            home=str(home.root),
            ports=chosen,
            urls={
                "airflow": f"http://127.0.0.1:{chosen['airflow']}",
                "mlflow": f"http://127.0.0.1:{chosen['mlflow']}",
                "inference": f"http://127.0.0.1:{chosen['envoy']}",
            },
            python={"main": sys.executable, "serving": serving_python},
            database=databases.kind,
            pid=pid,
            started_at=time.time(),
            extra={"dags": list(folders), "examples": shown, "supervisor_socket": str(self.supervisor.socket)},
        )
        files.write(home.stack_file, file.to_json())
        clock.lap("supervisor")

        if databases.kind == "sqlite":
            mlflow.sweep_unborn(home)
            for path in (mlflow.database_file(home), home.airflow / "airflow.db"):
                database.refresh_statistics(path)
        names = [program.name for program in programs]
        later = [name for name in names if name in airflow.PROGRAMS]
        if migration_needed(home, databases):
            tell("making Airflow's tables; starting MLflow and the router beside it")
            migration = Migration(home, databases)
            try:
                self.supervisor.start_programs(name for name in names if name not in later)
                self._wait_for(migration.done, limit_s, "airflow db migrate")
            except BaseException:
                with _undisturbed():
                    migration.stop()
                raise
            clock.lap("airflow tables")
            self.supervisor.start_programs(later)
        else:
            self.supervisor.start_programs(names)
        return self._finish(file, already=False, seconds=clock.laps, tell=tell, limit_s=limit_s)

    def _finish(
        self, file: StackFile, *, already: bool, seconds: dict[str, float], tell: Tell, limit_s: float
    ) -> Started:
        """Wait until all is healthy, bring releases back to their desired state, hand over the passwords."""
        clock = _Clock(seconds)
        if already:
            # An 'up' that was killed may have left programs it never started.
            self.supervisor.start_programs(self._not_started())
        self._wait_healthy(file, clock, tell, limit_s)
        if mlflow.NAME in self.only:
            mlflow.mark_born(self.home)
        clock.lap("health")
        if "envoy" in self.only:
            from windtunnel.serving.local import reconcile_all

            reconcile_all(self.home)
            clock.lap("serving")
        return Started(file, already, self._passwords_once(), clock.laps)

    def _wait_healthy(self, file: StackFile, clock: _Clock, tell: Tell, limit_s: float) -> None:
        waiting = list(self.only)
        deadline = time.monotonic() + limit_s
        while waiting:
            states = self._states()
            if not states:
                raise StackError("the supervisor went away while the stack was starting", hint=f"see {self.home.logs}")
            answers = self._ask(file, states)
            for name in list(waiting):
                state = states.get(name)
                if state and state.state == "RUNNING" and answers[name].ok and _is_of(answers[name], state):
                    waiting.remove(name)
                    tell(f"{name} is healthy ({clock.since_start():.1f} s)")
                    clock.note(name)
            self._check_ports(file, states, waiting)
            if waiting and time.monotonic() > deadline:
                name = waiting[0]
                state = states.get(name)
                raise StackError(
                    f"{name} did not become healthy within {limit_s:.0f} s: "
                    f"{state.state.lower() if state else 'unknown'}, {answers[name].text}"
                    + "".join(f"\n    {line}" for line in self.tail(name, 5)),
                    hint=f"see {self.log_file(name)}",
                )
            if waiting:
                time.sleep(0.3)

    def _ask(self, file: StackFile, states: Mapping[str, ProgramState], timeout_s: float = 5.0) -> dict[str, Answer]:
        """Every component's answer. A stranger on our port may answer too, and well: it does not count."""
        answers = probes.ask_all(self.home, file.ports, timeout_s)
        listening = port_choice.listeners()
        for name, server in LISTENS.items():
            state, port = states.get(name), file.ports[server]
            if state and state.pid and port in listening and not port_choice.is_below(listening[port], state.pid):
                by = port_choice.holder(port) or "another user's process"
                answers[name] = Answer(False, f"port {port} is held by {by}")
        return answers

    def _check_ports(self, file: StackFile, states: Mapping[str, ProgramState], waiting: Collection[str]) -> None:
        """Notice a stranger on one of our ports at once, not when patience ends.

        Raises:
            _PortLost: the process that listens there is not of this home.
        """
        listening = port_choice.listeners()
        for name, server in LISTENS.items():
            port = file.ports[server]
            if name not in waiting or name not in states or port not in listening:
                continue
            if self._is_ours(listening[port]):
                continue
            # Who listens is read in two parts, ports and their processes: one that began to listen between the two is
            # nobody's at the first look.
            again = port_choice.listeners()
            if port in again and not self._is_ours(again[port]):
                raise _PortLost(server, port, port_choice.holder(port))

    def _is_ours(self, pid: int | None) -> bool:
        """By its mark: one that was restarted a moment ago is not below the pid that we know."""
        return pid is not None and pid in {process.pid for process in processes.of_home(self.home)}

    # ------------------------------------------------------------------ down
    def down(self, *, tell: Tell = lambda line: None) -> list[str]:
        """End every process of this home; commands of those that would not go (normally none).

        Works without supervisord too, by looking for processes that belong to the home.
        """
        if not self.home.root.exists():
            return []
        with self._lock():
            tell("stopping")
            left = self._end_everything(grace_s=7.0)
            with contextlib.suppress(StackError):
                file = StackFile.read(self.home)
                files.write(self.home.stack_file, replace(file, pid=None, started_at=None).to_json())
            return [f"{process.command} (pid {process.pid})" for process in left]

    def _end_everything(self, *, grace_s: float) -> list[processes.Process]:
        """Whoever takes work first, so that running tasks can still report to servers that live."""
        if grace_s and self.supervisor.pid() is not None:
            with contextlib.suppress(UnavailableError, StackError):
                first = ["airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"]
                known = self.supervisor.states()
                self.supervisor.stop_programs(name for name in first if name in known)
                self._wait_stopped(first, grace_s)
                self.supervisor.stop_programs(name for name in self.supervisor.states() if name not in first)
                self._wait_stopped(list(known), min(grace_s, 4.0))
                self.supervisor.shutdown()
        left = processes.end_all(self.home, patience_s=min(grace_s, 3.0))
        self.supervisor.socket.unlink(missing_ok=True)
        (self.home.supervisor / "supervisord.pid").unlink(missing_ok=True)
        return left

    def _wait_stopped(self, names: Sequence[str], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            states = self.supervisor.states()
            if all(states[name].pid is None for name in names if name in states):
                return
            time.sleep(0.1)

    # ------------------------------------------------------------------ status
    def status(self, limits: Limits | None = None) -> Status:
        """How every component is, from supervisord, the components themselves and the machine."""
        limits = limits or Limits()
        settings = settings_file.read(self.home)
        machine = self._machine(settings, limits)
        try:
            file = StackFile.read(self.home)
        except StackError:
            return Status(False, Level.UNKNOWN, (), machine)
        states = self._states()
        answers: dict[str, Answer] = self._ask(file, states, limits.answer_s) if states else {}
        usage = _usage([state.pid for state in states.values() if state.pid])
        urls = {"airflow-api": file.urls["airflow"], "mlflow": file.urls["mlflow"], "envoy": file.urls["inference"]}
        components = []
        for name in [*self.only, *sorted(name for name in states if name not in PROGRAMS)]:
            state = states.get(name)
            uptime = time.time() - state.started_at if state and state.started_at and state.pid else None
            level, reason = judge(
                state.state if state else None, state.message if state else "", uptime, answers.get(name), limits
            )
            memory, cpu = usage.get(state.pid, (None, None)) if state and state.pid else (None, None)
            components.append(
                Component(name, level, reason, state.pid if state else None, memory, cpu, uptime, urls.get(name))
            )
        level = worst(component.level for component in components) if states else Level.UNHEALTHY
        return Status(bool(states), level, tuple(components), machine, file.urls, file.started_at)

    def _machine(self, settings: settings_file.Settings, limits: Limits) -> tuple[Component, ...]:
        import psutil

        lines = [
            ("cpu", *share("CPU", psutil.cpu_percent(0.2), limits.cpu)),
            ("memory", *share("memory", psutil.virtual_memory().percent, limits.memory)),
        ]
        place = self.home.root if self.home.root.exists() else Path("/")
        lines.append(("disk", *share("disk", psutil.disk_usage(str(place)).percent, limits.disk)))
        lines += [(usage.what, *usage.judge()) for usage in disk.usages(self.home, settings)]
        return tuple(Component(name, level, reason) for name, level, reason in lines)

    # ------------------------------------------------------------------ logs
    def log_file(self, name: str) -> Path:
        """The log of one program.

        Raises:
            StackError: there is no such program.
        """
        path = self.home.logs / f"{name}.log"
        if path.parent != self.home.logs or not path.exists():
            known = sorted(path.stem for path in self.home.logs.glob("*.log"))
            raise StackError(
                f"no log of {name!r} in {self.home.logs}", hint=f"one of: {', '.join(known) or '(none yet)'}"
            )
        return path

    def tail(self, name: str, lines: int) -> list[str]:
        """The last lines of a program's log; none where there is no log."""
        try:
            with self.log_file(name).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 65_536 - 512 * lines))
                return file.read().decode(errors="replace").splitlines()[-lines:]
        except (OSError, StackError):
            return []

    # ------------------------------------------------------------------ inside
    def _check_home(self) -> None:
        if not _PLAIN_PATH.fullmatch(str(self.home.root)):
            raise StackError(
                f"{str(self.home.root)!r} cannot be a home: its path may hold only letters, digits and ._/@+=,~-",
                hint="choose another place with --home",
            )

    def _make_folders(self, examples: Collection[str]) -> None:
        home = self.home
        for path in (
            home.root, home.secrets, home.supervisor, home.supervisor / "conf.d", home.logs, home.logs / "airflow",
            home.airflow, home.airflow / "plugins", home.mlflow, home.runs, home.pipelines, home.serving,
            home.predictions, home.labels, home.monitoring,
        ):  # fmt: skip
            files.folder(path)
        dags.place(home, examples)

    def _write_configuration(
        self,
        settings: settings_file.Settings,
        databases: database.Databases,
        chosen: Mapping[str, int],
        bundles: Sequence[Path],
    ) -> list[Program]:
        home = self.home
        options = airflow.config(
            home,
            ports=chosen,
            database_url=databases.airflow,
            bundles=bundles,
            cores=os.cpu_count() or 2,
            overrides=settings.airflow,
        )
        files.write(home.airflow / "airflow.cfg", airflow.render(options))
        files.write(home.airflow / "passwords.json", airflow.passwords(home))
        files.write(airflow.connections_path(home), airflow.connections(home, mlflow_port=chosen["mlflow"]))
        programs = [
            *(serving.programs(home, chosen["envoy"]) if set(serving.PROGRAMS) & set(self.only) else ()),
            *([mlflow.program(home, databases, chosen["mlflow"])] if mlflow.NAME in self.only else ()),
            *airflow.programs(home, bundles),
        ]
        programs = [program for program in programs if program.name in self.only]
        text = configuration(programs, folder=home.supervisor, socket=self.supervisor.socket, logs=home.logs)
        files.write(home.supervisor / "supervisord.conf", text)
        return programs

    def _running(self) -> StackFile | None:
        """The running stack's file, if its supervisor answers and it is not the half of one whose ``up`` was killed."""
        pid = self.supervisor.pid()
        if pid is None:
            return None
        try:
            file = StackFile.read(self.home)
        except StackError:
            return None
        half = set(airflow.PROGRAMS) & set(self.only) and migration_needed(self.home, database.find(self.home))
        return file if file.pid == pid and not half else None

    def _check_same(self, file: StackFile, told: Mapping[str, int], dag_folders: Sequence[Path]) -> None:
        for server, port in told.items():
            if file.ports.get(server) != port:
                raise StackError(
                    f"the stack in {self.home.root} runs already, with {server} on port {file.ports.get(server)}",
                    hint="'windtunnel down' first, then 'windtunnel up' with the other port",
                )
        new = [path for path in map(_folder, dag_folders) if path not in file.extra.get("dags", [])]
        if new:
            raise StackError(
                f"the stack in {self.home.root} runs already, without the DAG folder {new[0]}",
                hint="'windtunnel down' first, then 'windtunnel up --dags FOLDER'",
            )

    def _former(self) -> dict[str, Any]:
        """Ports, DAG folders and examples of last time."""
        with contextlib.suppress(StackError):
            file = StackFile.read(self.home)
            return {
                "ports": file.ports,
                "dags": [path for path in file.extra.get("dags", []) if Path(path).is_dir()],
                "examples": file.extra.get("examples", []),
            }
        return {}

    def _states(self) -> dict[str, ProgramState]:
        try:
            return self.supervisor.states()
        except UnavailableError:
            return {}

    def _not_started(self) -> list[str]:
        states = self._states()
        return [name for name in self.only if name in states and states[name].pid is None]

    def _passwords_once(self) -> dict[str, str]:
        """The log-ins, the first time they are asked for."""
        from windtunnel.stackfile import read_secret

        shown = self.home.secrets / ".shown"
        if shown.exists():
            return {}
        files.write(shown, "passwords were shown\n")
        return {server: read_secret(self.home, f"{server}-admin") for server in ("airflow", "mlflow")}

    def _wait_for(self, done: Callable[[], bool], limit_s: float, what: str) -> None:
        deadline = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > deadline:
                raise StackError(f"{what} did not end within {limit_s:.0f} s", hint=f"see {self.home.logs}")
            time.sleep(0.1)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One ``up`` or ``down`` at a time; the kernel frees the lock however its holder ends.

        Raises:
            StackError: another one is at work.
        """
        files.folder(self.home.root)
        path = self.home.root / ".lock"
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise StackError(
                    f"another 'windtunnel up' or 'down' is at work in {self.home.root} (pid {file.read().strip()})",
                    hint="wait for it",
                ) from None
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            yield


class _Clock:
    """Seconds of each phase, in order."""

    def __init__(self, laps: dict[str, float] | None = None) -> None:
        self.laps = dict(laps or {})
        self._start = self._last = time.monotonic()
        self._before = sum(self.laps.values())

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 2)
        self._last = now

    def note(self, name: str) -> None:
        self.laps[f"until {name}"] = round(self.since_start(), 2)

    def since_start(self) -> float:
        return self._before + time.monotonic() - self._start


def _is_of(answer: Answer, state: ProgramState) -> bool:
    """Whether a heartbeat is this process's and not that of one killed a moment ago."""
    if answer.beat_age_s is None or state.started_at is None:
        return True
    return time.time() - answer.beat_age_s >= state.started_at


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not interrupt the cleaning up after the first."""
    try:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals do not come here
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _folder(path: str | Path) -> str:
    return str(Path(path).expanduser().resolve())


def _usage(pids: Sequence[int]) -> dict[int | None, tuple[float, float]]:
    """Memory in MiB (PSS, children included) and CPU percent of one core, by program."""
    import psutil

    members: dict[int, list[Any]] = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid)
            members[pid] = [parent, *parent.children(recursive=True)]
    for process in (process for group in members.values() for process in group):
        with contextlib.suppress(psutil.Error):
            process.cpu_percent()
    time.sleep(0.1)
    found: dict[int | None, tuple[float, float]] = {}
    for pid, group in members.items():
        memory = cpu = 0.0
        for process in group:
            with contextlib.suppress(psutil.Error):
                memory += process.memory_full_info().pss / disk.MIB
                cpu += process.cpu_percent()
        found[pid] = (round(memory, 1), round(cpu, 1))
    return found
