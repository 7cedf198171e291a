"""The house's own work: abandoned runs, versions past their keep-warm time, old files, fresh statistics."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from windtunnel_airflow.hook import WindtunnelHook

if TYPE_CHECKING:
    from windtunnel.home import Home


class _Steward(BaseOperator):
    """Base: a task of the house, of no model.

    Args:
        windtunnel_conn_id: connection to the MLflow server with the governed registry.
    """

    template_fields: Sequence[str] = ("windtunnel_conn_id",)
    ui_color = "#e8e8e8"

    def __init__(self, *, windtunnel_conn_id: str = WindtunnelHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.windtunnel_conn_id = windtunnel_conn_id

    @property
    def hook(self) -> WindtunnelHook:
        return WindtunnelHook(self.windtunnel_conn_id)


class CloseAbandonedRunsOperator(_Steward):
    """Close training runs whose runner died, and deliver what waited for the tracking server (TRK-8)."""

    def execute(self, context: Any) -> dict[str, str]:
        from windtunnel.tracking.closing import close_abandoned

        hook = self.hook
        done = close_abandoned(hook.home, env=hook.mlflow_env())
        for run_id, word in done.items():
            self.log.info("Run %s: %s", run_id, word)
        return done


class SweepOperator(_Steward):
    """Unload versions whose keep-warm time is over (ROL-12)."""

    def execute(self, context: Any) -> Any:
        backend: Any = self.hook.backend()
        sweep = getattr(backend, "sweep", None)
        if sweep is None:
            raise AirflowSkipException("this serving backend unloads versions by itself")
        unloaded = sweep()
        self.log.info("Unloaded: %s", unloaded or "nothing")
        return unloaded


class RetentionOperator(_Steward):
    """Remove step data, ended runs, predictions and labels that are older than their time.

    Args:
        steps, runs, predictions, labels: age after which they go; None keeps them.
    """

    def __init__(
        self,
        *,
        steps: timedelta | None = timedelta(days=30),
        runs: timedelta | None = timedelta(days=30),
        predictions: timedelta | None = timedelta(days=90),
        labels: timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.steps = steps
        self.runs = runs
        self.predictions = predictions
        self.labels = labels

    def execute(self, context: Any) -> dict[str, int]:
        home, now = self.hook.home, time.time()
        removed = {
            "steps": _remove(home.pipelines.glob("*/runs/*"), self.steps, now),
            "runs": _remove(_ended(home), self.runs, now),
            "predictions": _remove(home.predictions.glob("*/date=*/hour=*"), self.predictions, now),
            "labels": _remove(home.labels.glob("*/*.parquet"), self.labels, now),
        }
        self.log.info("Removed %s", removed)
        return removed


class StatisticsOperator(_Steward):
    """Keep the SQLite databases' statistics fresh: without, MLflow's sorted searches take minutes at 100,000 runs."""

    def execute(self, context: Any) -> list[str]:
        home = self.hook.home
        done = [str(path) for path in databases(home) if analyze(path)]
        self.log.info("Fresh statistics: %s", done or "none")
        return done


class IntegrityOperator(_Steward):
    """Verify sealed versions again, files and signature (REG-3): champions each time, of the others those looked at
    longest ago, as far as ``budget`` goes. Each result is a verdict of kind ``integrity``; the task fails on a FAIL.

    Args:
        budget: bytes to read at most; one version is always looked at.
    """

    def __init__(self, *, budget: int = 20 * 2**30, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.budget = budget

    def execute(self, context: Any) -> dict[str, Any]:
        from windtunnel.errors import IntegrityError, ServingError, UnavailableError
        from windtunnel.serving import verification

        home, registry = self.hook.home, self.hook.registry
        broken, looked, unknown, left = [], 0, [], self.budget
        for record in self._due(registry):
            size = sum(int(entry[1]) for entry in record.manifest.get("files", {}).values())
            if looked and size > left:
                continue
            left -= size
            try:
                found = verification.verify(home, record)
            except (UnavailableError, ServingError) as error:
                unknown.append(f"{record.model} {record.version}: {error.message}")
                continue
            looked += 1
            registry.post_verdict(found.verdict(time.time()))
            if not found.whole:
                broken.append(f"{record.model} version {record.version}: {found.reason}")
        self.log.info("Looked at %s versions; broken: %s; unknown: %s", looked, broken or "none", unknown or "none")
        if broken:
            raise IntegrityError(
                "; ".join(broken),
                hint="do not load these; put the files back from a backup, or release another version",
            )
        return {"looked": looked, "unknown": unknown}

    def _due(self, registry: Any) -> list[Any]:
        """Sealed versions: champions first, then by when they were last looked at."""
        due = []
        for summary in registry.models():
            last: dict[str, float] = {}
            for posted in registry.verdicts(summary.name, kind="integrity", limit=1000):
                if not posted.claimed and posted.verdict.version is not None:
                    last.setdefault(posted.verdict.version, posted.verdict.created_at or 0.0)
            for record in registry.versions(summary.name):
                if record.ready and record.digest is not None:
                    champion = summary.champion is not None and summary.champion.version == record.version
                    due.append((not champion, last.get(record.version, 0.0), record.model, record))
        return [entry[3] for entry in sorted(due, key=lambda entry: entry[:3])]


class PurgeOperator(_Steward):
    """Remove the files of deleted versions whose retention has ended; their rows, history and audit stay (REG-10)."""

    def execute(self, context: Any) -> list[dict[str, Any]]:
        done: list[dict[str, Any]] = []
        while True:
            found = self.hook.registry.purge()
            done += found["purged"]
            if not found["left"]:
                break
        self.log.info("Purged: %s", done or "nothing")
        return done


class CollectOperator(_Steward):
    """Remove folders of the artifact store that belong to no run and no logged model and are a week old."""

    def execute(self, context: Any) -> list[dict[str, Any]]:
        from windtunnel.errors import RefusedError

        try:
            found = list(self.hook.registry.collect()["collected"])
        except RefusedError as error:
            if error.code != "WT_SERVER":
                raise
            raise AirflowSkipException(error.message) from error
        self.log.info("Collected: %s", found or "nothing")
        return found


class AgreementOperator(_Steward):
    """Hold MLflow's tables against the registry's own history: a second MLflow server on the same database is outside
    the law, and what it did is found here. Kept as a FAIL verdict of kind ``integrity`` per model; the task fails.
    """

    def execute(self, context: Any) -> list[dict[str, Any]]:
        from windtunnel import canonical
        from windtunnel.errors import IntegrityError
        from windtunnel.evidence import Kind, Outcome, Verdict

        registry = self.hook.registry
        found = registry.agreement()
        for model in sorted({one["model"] for one in found}):
            mine = [one for one in found if one["model"] == model]
            # Named by what differs: the same difference found again is the same verdict.
            registry.post_verdict(
                Verdict(
                    model=model,
                    kind=Kind.INTEGRITY,
                    outcome=Outcome.FAIL,
                    reason=f"MLflow's tables were changed past the registry: {_sentence(mine[0])}"
                    + (f", and {len(mine) - 1} more" if len(mine) > 1 else ""),
                    subject=canonical.digest({"model": model, "differences": mine}),
                    numbers={"differences": mine[:100]},
                )
            )
        if found:
            raise IntegrityError(
                "MLflow's tables were changed past the registry: " + "; ".join(map(_sentence, found[:20])),
                hint="look at 'windtunnel registry agree', stop whatever writes past the server (a second MLflow "
                "server, a database role), then 'windtunnel registry mend MODEL'",
            )
        self.log.info("MLflow's tables say what the registry's history says")
        return found


def _sentence(one: dict[str, Any]) -> str:
    which = one["model"] if one["version"] is None else f"{one['model']} {one['version']}"
    return f"{which}: {one['found']} (expected: {one['expected']})"


def databases(home: Home) -> list[Path]:
    """SQLite files of Airflow and MLflow below the home."""
    return sorted(path for folder in (home.airflow, home.mlflow) for path in folder.glob("*.db") if path.is_file())


def analyze(path: Path) -> bool:
    """Bring one database's statistics up to date; False when it is busy (the next round does it)."""
    import sqlite3

    try:
        with closing(sqlite3.connect(path, timeout=5.0, isolation_level=None)) as connection:
            # Bounded: it looks at so many rows of each index, however large the table is.
            connection.execute("PRAGMA analysis_limit = 4000")
            connection.execute("ANALYZE")
    except sqlite3.OperationalError:
        return False
    return True


def _ended(home: Home) -> list[Path]:
    """Folders of runs that have ended and were closed."""
    if not home.runs.is_dir():
        return []
    return [folder for folder in home.runs.iterdir() if (folder / "closed.json").exists()]


def _remove(paths: Any, age: timedelta | None, now: float) -> int:
    if age is None:
        return 0
    count = 0
    for path in list(paths):
        try:
            if now - _newest(path) < age.total_seconds():
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            count += 1
        except FileNotFoundError:
            continue  # somebody else removed it meanwhile
    return count


def _newest(path: Path) -> float:
    """Time of the newest thing below ``path``: a folder's own time does not change with its files."""
    if not path.is_dir():
        return path.stat().st_mtime
    times = [path.stat().st_mtime]
    times += [found.stat().st_mtime for found in path.rglob("*")]
    return max(times)
