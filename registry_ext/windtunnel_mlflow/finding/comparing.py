"""Two versions read for ``differences``: their rows, their runs, their small files (REG-15)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam
from sqlalchemy import select
from sqlalchemy.orm import Session

from windtunnel_mlflow import records, tables
from windtunnel_mlflow.finding.differences import PYTHON, REQUIREMENTS, Side, compare
from windtunnel_mlflow.part import not_found
from windtunnel_mlflow.store import GovernedStore

#: Files of more bytes than this say nothing of an environment.
_LARGEST = 1 << 20
_D = tables.verdicts


class Comparing:
    """The operation behind ``/models/M/compare``."""

    def __init__(self, store: GovernedStore) -> None:
        self.store = store

    def compare(self, model: str, left: int, right: int) -> dict[str, Any]:
        """What differs between two versions of a model; see ``differences``."""
        with self.store.reading() as session:
            sides = [self._read(session, model, number) for number in (left, right)]
        made = [Side(side.record, side.metrics, side.params, self._files(side.record), side.verdicts) for side in sides]
        return {"model": model, **compare(*made)}

    def _read(self, session: Session, model: str, number: int) -> Side:
        record = records.version(session, model, number)
        if record is None:
            raise not_found(f"model {model!r} has no version {number}")
        run, last, param = record.get("run_id"), SqlLatestMetric, SqlParam
        metrics, params = {}, {}
        if run:
            rows: Any = session.execute(
                select(last.key, last.value).where(last.run_uuid == run, last.is_nan.is_(False))
            )
            metrics = {row.key: row.value for row in rows}
            rows = session.execute(select(param.key, param.value).where(param.run_uuid == run))
            params = {row.key: row.value for row in rows}
        return Side(record, metrics, params, {}, _verdicts(session, model, record))

    def _files(self, record: Mapping[str, Any]) -> dict[str, str]:
        """Text of the files that say what a version needs; of a sealed version the manifest names them."""
        repo, found = self.store._repo(), {}
        listed, location = (record.get("manifest") or {}).get("files") or {}, record.get("location")
        for name in (REQUIREMENTS, PYTHON):
            if location is None or name not in listed or listed[name][1] > _LARGEST:
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = f"{location}/{name}"
                local = Path(repo.get_local_path(path) or repo.download_artifacts(path, folder))
                found[name] = local.read_text(encoding="utf-8", errors="replace")
        return found


def _verdicts(session: Session, model: str, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Bodies of the newest verdicts that count, by kind, as policy reads them."""
    content, data = record.get("digest"), (record.get("recipe") or {}).get("data")
    subjects = [subject for subject in (content, data) if subject]
    rows = session.execute(
        select(_D.c.kind, _D.c.subject, _D.c.body)
        .where(_D.c.model == model, _D.c.subject.in_(subjects), _D.c.claimed.is_(False))
        .order_by(_D.c.seq)
    )
    return {row.kind: json.loads(row.body) for row in rows if row.subject == content or row.kind == "data-check"}
