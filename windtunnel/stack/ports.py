"""Ports on loopback: free ones unless told, and who holds a taken one."""

from __future__ import annotations

from collections.abc import Mapping

from windtunnel.errors import StackError
from windtunnel.loopback import any_free, is_free

#: Tried first, so that URLs look familiar where nothing else runs.
PREFERRED = {"airflow": 8080, "mlflow": 5000, "envoy": 8085}


def listeners() -> dict[int, int | None]:
    """Port to pid of everything that listens on TCP here; None where the process is another user's."""
    import psutil

    found: dict[int, int | None] = {}
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr:
                continue
            if found.get(connection.laddr.port) is None:
                found[connection.laddr.port] = connection.pid
    except (psutil.Error, OSError):
        pass
    return found


def holder(port: int) -> str | None:
    """``name (pid N)`` of the process that listens on ``port``, if this user may know."""
    import psutil

    pid = listeners().get(port)
    if pid is None:
        return None
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return None


def is_below(pid: int | None, ancestor: int) -> bool:
    """Whether a process is ``ancestor`` or one of its descendants."""
    import psutil

    if pid is None:
        return False
    if pid == ancestor:
        return True
    try:
        return any(parent.pid == ancestor for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False


def choose(told: Mapping[str, int], remembered: Mapping[str, int]) -> dict[str, int]:
    """A port for each server: the one told, else the one of last time, else a free one.

    Raises:
        StackError: a told port is taken, or named twice; the message says who holds it where that can be found.
    """
    chosen: dict[str, int] = {}
    for server, port in told.items():
        if port in chosen.values():
            raise StackError(f"port {port} is named for two servers", hint="give each server a port of its own")
        if not is_free(port):
            by = holder(port)
            raise StackError(
                f"port {port} for {server} is taken" + (f" by {by}" if by else " (its holder is another user's)"),
                hint=f"stop it, or give another one with --{server}-port, or leave the option out for a free one",
            )
        chosen[server] = port
    for server in PREFERRED:
        if server in chosen:
            continue
        for wanted in (remembered.get(server), PREFERRED[server]):
            if wanted and wanted not in chosen.values() and is_free(wanted):
                chosen[server] = wanted
                break
        else:
            port = any_free()
            while port in chosen.values():
                port = any_free()
            chosen[server] = port
    return {server: chosen[server] for server in PREFERRED}
