"""Folders in the artifact store that belong to no run and no logged model any more: found, and removed when old.

Ours is only what nobody else cleans. Runs, with their artifacts, are deleted by MLflow's ``mlflow gc``, models by
whoever owns them. What stays behind is what such a deletion did not reach, or what was uploaded for a run that never
came to be: a folder named by an id that no table knows. A folder that is not named by an id is left alone.

It never takes a live one, because ids are never used again: no run, and so no registration, can come to be for a folder
whose run is gone. What may still happen to such a folder is an upload, so the proxy is held meanwhile, and the grace is
counted from the newest file.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun
from sqlalchemy import or_, select

from windtunnel_mlflow import tables
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.replicas import tracking_store
from windtunnel_mlflow.service import Service

#: Seconds after the newest change in a folder before it may go.
GRACE = 7 * 86_400.0
#: Folders removed in one request.
MOST = 100
#: Folders above one that is named by an id: an experiment's, and ``models``; an experiment's own place may be deeper.
_DEEPEST = 4
_ID = re.compile(r"[0-9a-f]{32}|m-[0-9a-f]{32}")
_LEAVING = ".windtunnel-collected-"
#: Ids in one question to the database.
_CHUNK = 500
#: Seconds to wait for an upload; who uploads to a folder makes it young anyway.
_UPLOAD = 1.0


class Collecting:
    """The operation behind ``/collect``."""

    def __init__(self, service: Service) -> None:
        self.store = service.store

    def collect(self, dry_run: bool = False, grace: float = GRACE) -> dict[str, Any]:
        """Remove folders that nobody needs, at most ``MOST``.

        Args:
            grace: seconds after the newest change in a folder.

        Returns:
            ``collected``: ``path`` below the artifact root and ``bytes``; ``left``: how many the next call takes up.

        Raises:
            Refusal: WT_ROLE; WT_SERVER where the artifact store is not a folder of this machine.
        """
        with self.store.change(tables.HOUSE, "collect") as change:
            change.silent = True
            permission.need(change.actor, "clean", "remove files that nobody needs")
            root = self._root()
        if not dry_run:
            for path in root.glob(f"{_LEAVING}*"):
                shutil.rmtree(path, ignore_errors=True)  # its removal did not come to its end
        now = time.time()
        due = [path for path in self._unknown(owners(root)) if now - newest(path) > grace]
        found = []
        for path in due[:MOST]:
            told = {"path": path.relative_to(root).as_posix(), "bytes": size(path)}
            if dry_run or self._take(root, path, grace):
                found.append(told)
        if found and not dry_run:
            with self.store.change(tables.HOUSE, "collect", folders=[one["path"] for one in found]):
                pass
        return {"collected": found, "left": max(0, len(due) - MOST)}

    def _root(self) -> Path:
        try:
            local = self.store._repo().get_local_path("")
        except Exception:
            local = None
        if not local or not Path(local).is_dir():
            raise Refusal(
                "WT_SERVER",
                "the artifact store is not a folder of this machine, so files that nobody needs cannot be told by age",
                hint="let the store's own rules for old objects do it",
                status=409,
            )
        return Path(local).resolve()

    def _take(self, root: Path, path: Path, grace: float) -> bool:
        """Remove one folder, unless somebody needs it or writes to it now."""
        place = path.relative_to(root).as_posix()
        try:
            with self.store.writes.held({place}, _UPLOAD):
                # Once more, with the door shut: the first look was before it.
                if time.time() - newest(path) <= grace or not list(self._unknown([path])):
                    return False
                leaving = root / f"{_LEAVING}{path.name}"
                path.rename(leaving)
        except (Refusal, FileNotFoundError):
            return False
        shutil.rmtree(leaving, ignore_errors=True)
        return True

    def _unknown(self, paths: Iterable[Path]) -> Iterator[Path]:
        """Those whose id is neither a run's nor a logged model's, deleted ones included, and is named by nothing."""
        waiting = list(paths)
        with tracking_store().ManagedSessionMaker() as session:
            known: set[str] = set()
            for start in range(0, len(waiting), _CHUNK):
                ids = [path.name for path in waiting[start : start + _CHUNK]]
                known |= set(session.execute(select(SqlRun.run_uuid).where(SqlRun.run_uuid.in_(ids))).scalars())
                models = select(SqlLoggedModel.model_id).where(SqlLoggedModel.model_id.in_(ids))
                known |= set(session.execute(models).scalars())
        for path in waiting:
            if path.name not in known and not self._mentioned(path.name):
                yield path

    def _mentioned(self, identifier: str) -> bool:
        """Whether any place that MLflow or we know holds the id: a run below another's folder, an unadopted version."""
        like = f"%{identifier}%"
        places = (SqlRun.artifact_uri, SqlLoggedModel.artifact_location, SqlExperiment.artifact_location)
        with tracking_store().ManagedSessionMaker() as session:
            if any(session.execute(select(one).where(one.like(like)).limit(1)).first() for one in places):
                return True
        version, ours = SqlModelVersion, tables.versions.c
        with self.store.reading() as session:
            theirs = select(version.name).where(or_(version.source.like(like), version.storage_location.like(like)))
            sealed = select(ours.model).where(ours.location.like(like))
            return any(session.execute(query.limit(1)).first() for query in (theirs, sealed))


def owners(root: Path) -> Iterator[Path]:
    """Folders that are named by the id of a run or a logged model and hold its ``artifacts``; none within another."""
    for folder, inner, _ in os.walk(root):
        here = Path(folder)
        depth = len(here.relative_to(root).parts)
        for name in [name for name in inner if _ID.fullmatch(name)]:
            inner.remove(name)
            path = here / name
            if depth and not path.is_symlink() and [one.name for one in path.iterdir()] == ["artifacts"]:
                yield path
        inner[:] = [] if depth >= _DEEPEST else [name for name in inner if not name.startswith(".")]


def newest(path: Path) -> float:
    """Time of the newest change at or below a path, seconds since the epoch."""
    found = path.lstat().st_mtime
    for folder, inner, files in os.walk(path):
        for name in (*inner, *files):
            found = max(found, (Path(folder) / name).lstat().st_mtime)
    return found


def size(path: Path) -> int:
    """Bytes of all files below a path."""
    return sum((Path(folder) / name).lstat().st_size for folder, _, files in os.walk(path) for name in files)
