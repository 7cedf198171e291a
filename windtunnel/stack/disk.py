"""Space: what is left, what we use, and when it starts to matter."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack.health import Level
from windtunnel.stack.settings import Settings

MIB = 1024 * 1024
#: Share of a quota from which status and doctor warn.
WARN_AT = 0.8


@dataclass(frozen=True, slots=True)
class Usage:
    """MiB used of a quota; a quota of 0 is no quota."""

    what: str
    used_mb: float
    quota_mb: int

    def judge(self) -> tuple[Level, str]:
        if not self.quota_mb:
            return Level.HEALTHY, f"{self.what}: {self.used_mb:.0f} MiB, no quota"
        text = f"{self.what}: {self.used_mb:.0f} of {self.quota_mb} MiB"
        if self.used_mb >= self.quota_mb:
            return Level.UNHEALTHY, f"{text}; over quota"
        if self.used_mb >= WARN_AT * self.quota_mb:
            return Level.DEGRADED, f"{text}; {100 * self.used_mb / self.quota_mb:.0f} % of the quota"
        return Level.HEALTHY, text


def size_mb(*folders: Path) -> float:
    """MiB that files below ``folders`` take on disk; links are not followed."""
    total = 0
    pending = [str(folder) for folder in folders]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue  # it went away while we looked
    return total / MIB


def usages(home: Home, settings: Settings) -> list[Usage]:
    """Logs, and everything models leave behind."""
    return [
        Usage("logs", size_mb(home.logs), settings.logs_mb),
        Usage(
            "artifacts",
            size_mb(
                home.mlflow, home.runs, home.pipelines, home.serving, home.predictions, home.labels, home.monitoring
            ),
            settings.artifacts_mb,
        ),
    ]


def free_mb(home: Home) -> float:
    """MiB free on the disk that holds (or will hold) the home."""
    place = home.root
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free / MIB


def require_space(home: Home, settings: Settings) -> None:
    """Refuse to start on a disk that would fill while we start.

    Raises:
        StackError: less than ``min_free_mb`` is free, or a byte cannot be written.
    """
    free = free_mb(home)
    if free < settings.min_free_mb:
        raise StackError(
            f"only {free:.0f} MiB free where {home.root} is; {settings.min_free_mb} MiB are needed to start",
            hint="free some space, choose another place with --home, or lower [limits] min_free_mb in windtunnel.toml",
        )
