"""What a person may set for the embedded stack: ``HOME/windtunnel.toml``.

[ports]
airflow = 8080            # else a free one, kept from then on
[limits]
logs_mb = 1024            # quota of logs; status and doctor warn from 80 %
artifacts_mb = 20480      # quota of artifacts, runs and predictions
min_free_mb = 1024        # 'up' refuses to start with less
[dags]
paths = ["/path/to/our/dags"]
[audit]
publish = "s3://kept/audit"  # a second place for the audit's checkpoints: a folder or an fsspec URL
every_s = 60              # seconds between two
[people]
default_role = "viewer"   # of a registry's user who was given none; else data_scientist
[oidc]                    # tokens of an identity provider; windtunnel.registry.signin.SignIn has every key
issuer = "https://login.example.org"
audience = "windtunnel"
[airflow.scheduler]       # any option of airflow.cfg
task_instance_heartbeat_timeout = 60
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.registry import signin
from windtunnel.registry.launch import DEFAULT_ROLES
from windtunnel.registry.signin import SignIn

SERVERS = ("airflow", "mlflow", "envoy")


@dataclass(frozen=True, slots=True)
class Settings:
    """The file's content with defaults filled in. Sizes in MiB."""

    ports: dict[str, int] = field(default_factory=dict)
    dags: tuple[Path, ...] = ()
    airflow: dict[str, dict[str, str]] = field(default_factory=dict)
    logs_mb: int = 1024
    artifacts_mb: int = 20_480
    min_free_mb: int = 1024
    audit_publish: str | None = None
    audit_every_s: int = 60
    oidc: SignIn | None = None
    default_role: str | None = None


def path_of(home: Home) -> Path:
    return home.root / "windtunnel.toml"


def read(home: Home) -> Settings:
    """The settings of ``home``; defaults when there is no file.

    Raises:
        StackError: the file is not what the module's docstring says.
    """
    path = path_of(home)
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, tomllib.TOMLDecodeError, UnicodeError) as error:
        raise StackError(f"{path} cannot be read: {error}", hint="correct it or remove it") from error
    return parse(plain, str(path))


def parse(plain: dict[str, Any], name: str) -> Settings:
    """Settings from the parsed file called ``name``.

    Raises:
        StackError: an unknown key or a value of the wrong type.
    """

    def wrong(what: str, expected: str) -> StackError:
        return StackError(f"{name}: {what}", hint=f"expected {expected}")

    for section in plain:
        if section not in ("ports", "limits", "dags", "audit", "people", "oidc", "airflow"):
            raise wrong(
                f"unknown section [{section}]",
                "[ports], [limits], [dags], [audit], [people], [oidc] or [airflow.SECTION]",
            )
        if not isinstance(plain[section], dict):
            raise wrong(f"{section} is not a section", f"[{section}]")
    ports = plain.get("ports", {})
    for server, port in ports.items():
        if server not in SERVERS:
            raise wrong(f"[ports] names {server!r}", f"one of {', '.join(SERVERS)}")
        if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
            raise wrong(f"[ports] {server} = {port!r}", "a port from 1 to 65535")
    limits = plain.get("limits", {})
    for key, value in limits.items():
        if key not in ("logs_mb", "artifacts_mb", "min_free_mb"):
            raise wrong(f"[limits] names {key!r}", "logs_mb, artifacts_mb or min_free_mb")
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise wrong(f"[limits] {key} = {value!r}", "a number of MiB")
    dags = plain.get("dags", {})
    paths = dags.get("paths", [])
    if set(dags) - {"paths"} or not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise wrong("[dags] is not understood", 'paths = ["/absolute/folder", ...]')
    audit = plain.get("audit", {})
    publish, every = audit.get("publish"), audit.get("every_s", 60)
    if set(audit) - {"publish", "every_s"} or not (publish is None or (isinstance(publish, str) and publish)):
        raise wrong("[audit] is not understood", 'publish = "a folder or an fsspec URL" and every_s = seconds')
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise wrong(f"[audit] every_s = {every!r}", "a number of seconds from 1 on")
    people = plain.get("people", {})
    role = people.get("default_role")
    if set(people) - {"default_role"} or (people and role not in DEFAULT_ROLES):
        raise wrong("[people] is not understood", f"default_role = {' or '.join(map(repr, DEFAULT_ROLES))}")
    airflow: dict[str, dict[str, str]] = {}
    for section, options in plain.get("airflow", {}).items():
        if not isinstance(options, dict):
            raise wrong(f"[airflow] {section} is not a section", "[airflow.SECTION] with options of airflow.cfg")
        airflow[section] = {key: str(value) for key, value in options.items()}
    return Settings(
        ports=dict(ports),
        dags=tuple(Path(path).expanduser().resolve() for path in paths),
        airflow=airflow,
        audit_publish=publish,
        audit_every_s=every,
        oidc=signin.settings(plain["oidc"], f"{name}: [oidc]") if "oidc" in plain else None,
        default_role=role,
        **limits,
    )
