"""A supervised program, and supervisord's configuration made of them. Text only: nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """One long-running process.

    Attributes:
        argv: the command; never with a secret in it, for everybody can read command lines.
        env: variables added to the supervisor's own environment.
        stop_signal: what it takes as a polite request.
        stop_wait_s: how long it may take before SIGKILL to its whole process group.
        start_s: it must live this long to count as started.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    stop_signal: str = "TERM"
    stop_wait_s: int = 8
    start_s: int = 2


def quote(word: str) -> str:
    """A word as supervisord's command parser (shlex, then %-expansion) reads it back."""
    if not word or not all(char.isalnum() or char in "@+=:,./-_" for char in word):
        word = "'" + word.replace("'", "'\"'\"'") + "'"
    return word.replace("%", "%%")


def value(text: str) -> str:
    """An environment value as supervisord reads it back: quoted, %-escaped, one line.

    Raises:
        ValueError: it has a newline or a quote, which supervisord cannot carry.
    """
    if any(char in text for char in "\n\"'"):
        raise ValueError("a supervised program's environment cannot hold newlines or quotes")
    return '"' + text.replace("%", "%%") + '"'


def section(program: Program, logs: Path, *, log_mb: int = 10, log_backups: int = 3) -> str:
    """The program's part of the configuration.

    ``autostart`` is off: ``up`` starts programs in its own order. ``startretries`` is as good as endless, because
    a server whose database is briefly away must come back by itself.
    """
    lines = [
        f"[program:{program.name}]",
        "command=" + " ".join(quote(word) for word in program.argv),
        "autostart=false",
        "autorestart=true",
        "startretries=1000000",
        f"startsecs={program.start_s}",
        f"stopsignal={program.stop_signal}",
        f"stopwaitsecs={program.stop_wait_s}",
        "stopasgroup=true",
        "killasgroup=true",
        "redirect_stderr=true",
        f"stdout_logfile={str(logs / (program.name + '.log')).replace('%', '%%')}",
        f"stdout_logfile_maxbytes={log_mb}MB",
        f"stdout_logfile_backups={log_backups}",
    ]
    if program.cwd:
        lines.append(f"directory={str(program.cwd).replace('%', '%%')}")
    if program.env:
        lines.append("environment=" + ",".join(f"{key}={value(text)}" for key, text in sorted(program.env.items())))
    return "\n".join(lines) + "\n"


def configuration(programs: Sequence[Program], *, folder: Path, socket: Path, logs: Path) -> str:
    """supervisord.conf: no inet server, a 0600 unix socket, logs that rotate, and room for model servers.

    Args:
        folder: HOME/supervisor; ``conf.d/*.conf`` below it is included (model servers, written by the local
            serving backend).
    """

    def plain(path: Path) -> str:
        return str(path).replace("%", "%%")

    head = [
        "; written by 'windtunnel up'; changes are lost",
        "[supervisord]",
        f"pidfile={plain(folder / 'supervisord.pid')}",
        f"logfile={plain(logs / 'supervisord.log')}",
        "logfile_maxbytes=5MB",
        "logfile_backups=2",
        f"childlogdir={plain(logs)}",
        f"directory={plain(folder)}",
        "nodaemon=true",
        "silent=true",
        "umask=077",
        "minfds=1024",
        "identifier=windtunnel",
        "",
        "[unix_http_server]",
        f"file={plain(socket)}",
        "chmod=0600",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "",
        "[supervisorctl]",
        f"serverurl=unix://{plain(socket)}",
        "",
        "[include]",
        "files=conf.d/*.conf",  # relative to this file, and so free of its path's peculiarities
        "",
    ]
    return "\n".join(head) + "\n" + "\n".join(section(program, logs) for program in programs)
