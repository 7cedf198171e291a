"""Data: take a snapshot of it, and check the snapshot before anything learns from it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseHook

from windtunnel.errors import WindtunnelError
from windtunnel_airflow.base import WindtunnelOperator, run_coordinates
from windtunnel_airflow.ending import refuse_unless_pass
from windtunnel_airflow.links import ReportLink
from windtunnel_airflow.steps import publish


class DataSnapshotOperator(WindtunnelOperator):
    """Read the rows a model learns from and keep them: ``rows`` to learn from, ``holdout`` to be judged on.

    Returns ``{"outputs": {"rows", "holdout"}, "digest", "rows", "holdout_rows", "start", "end", "source"}``. The
    snapshot lies below the step's outputs (PIP-2), so that everything after it works on the same bytes whatever the
    source does.

    Args:
        model: the description; ``data`` and ``evaluation.holdout`` are used.
        source: read this path, glob, URI or SELECT instead of ``data.source`` (templated).
    """

    template_fields: Sequence[str] = (*WindtunnelOperator.template_fields, "source")

    def __init__(self, *, source: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    def execute(self, context: Any) -> dict[str, Any]:
        from time import time

        from windtunnel.data.snapshot import snapshot

        self.begin(context)
        model, home, where = self.description, self.home, run_coordinates(context)
        data = model.data.model_copy(update={"source": self.source}) if self.source else model.data
        home.pipelines.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".snapshot-", dir=home.pipelines))
        try:
            taken = snapshot(data, work, evaluation=model.evaluation, now=time(), sql_reader=read_sql)
            made = publish(home, where, {"rows": taken.rows_path, "holdout": taken.holdout_path})
        finally:
            shutil.rmtree(work, ignore_errors=True)
        outputs = self.handing.over(made)
        self.note_lineage(
            [] if data.connection else [(_address(data.source), None)], [(f"{model.name}/data", taken.digest)]
        )
        self.log.info(
            "Snapshot of %s rows to learn from and %s to be judged on, digest %s",
            taken.rows,
            taken.holdout_rows,
            taken.digest,
        )
        return {
            "outputs": outputs,
            "digest": taken.digest,
            "rows": taken.rows,
            "holdout_rows": taken.holdout_rows,
            "start": float(taken.start),
            "end": float(taken.end),
            "source": f"{data.connection}: {data.source}" if data.connection else data.source,
        }


class DataCheckOperator(WindtunnelOperator):
    """Great Expectations on a snapshot; the verdict ``data-check`` goes to the registry, FAIL ends the task for good.

    Args:
        data: what ``DataSnapshotOperator`` returned.
    """

    operator_extra_links: Any = (ReportLink(),)

    template_fields: Sequence[str] = (*WindtunnelOperator.template_fields, "data")

    def __init__(self, *, data: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data = data

    def execute(self, context: Any) -> dict[str, Any]:
        from windtunnel.data import checks
        from windtunnel.data.steps import step_folder
        from windtunnel.evidence import Kind

        story = self.begin(context)
        rows = self.handing.take(self.data, "rows")
        where = run_coordinates(context)
        folder = step_folder(self.home, where["dag_id"], where["dag_run_id"], where["task_id"])
        result = checks.check(self.description.data, rows.path, report_dir=folder)
        report = self._kept(folder, result.report_path) if result.report_path else None
        self.note_report(report)
        verdict = self.verdict(
            context,
            story,
            kind=Kind.DATA_CHECK,
            outcome=result.outcome,
            reason=result.reason,
            subject=self.data["digest"],
            numbers=dict(result.numbers),
            thresholds=dict(result.thresholds),
            window=_window(self.data),
            inputs=(rows.digest,),
            report_uri=report,
        )
        identity = self.hook.registry.post_verdict(verdict)
        refuse_unless_pass(verdict, "training does not start")
        self.log.info("data-check PASS: %s", result.reason)
        return {"verdict": identity, "outcome": str(result.outcome), "digest": self.data["digest"]}

    def _kept(self, folder: Path, page: Path) -> str:
        """Where readers find the page: of a training in pods in the connection's object store, with Great Expectations'
        own result, for the API server that shows it may have another disk; else, and where the store fails, here."""
        from windtunnel.data.steps import keep_pages

        if self.description.training_target == "kubernetes":
            try:
                store = self.hook.object_store
                if store is not None:
                    return keep_pages(store, self.home, folder, "data-check", [page, page.with_suffix(".json")])[0]
            except WindtunnelError as error:  # a page for the eyes costs no verdict
                self.log.warning("The report is kept on this worker only: %s", error.message)
        return str(page)


def _address(source: str) -> str:
    return source if "://" in source else str(Path(source).absolute())


def _window(data: Any) -> tuple[float, float] | None:
    start, end = data.get("start"), data.get("end")
    return (float(start), float(end)) if start is not None and end is not None else None


def read_sql(connection: str, query: str) -> Any:
    """A SELECT through an Airflow connection, as a pandas DataFrame."""
    hook: Any = BaseHook.get_connection(connection).get_hook()
    return hook.get_df(query, df_type="pandas")
