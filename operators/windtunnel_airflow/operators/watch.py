"""Watch: close the next window, judge it, report it, react. Thin hands over ``windtunnel.monitoring.watch``."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from windtunnel.events import Event
from windtunnel_airflow.base import WindtunnelOperator, run_coordinates
from windtunnel_airflow.links import ModelVersionLink, ReportLink
from windtunnel_airflow.operators.announcing import announce, announce_by_alias
from windtunnel_airflow.story import Story, story_of

if TYPE_CHECKING:
    from windtunnel.monitoring.keeping import Keeping

#: In an event on ``behind``: the end of the window whose run called for the next, seconds since the epoch.
_CALLED_AT = "window_end"


class _Watching(WindtunnelOperator):
    """Base: what the tasks of a round share, whichever worker runs them."""

    @property
    def keeping(self) -> Keeping:
        """Where references and windows are kept: for a model that pods serve in the connection's object store, if it
        names one, so that workers need share nothing else; else in the home."""
        from windtunnel.monitoring import keeping

        return keeping.of(self.home, self.hook.object_store if self.served_at == "kubernetes" else None)

    def fetch(self, since: float) -> None:
        """Of a model that pods serve: what a collector has written of their predictions from ``since`` on (seconds
        since the epoch), brought to this worker.

        Raises:
            AirflowSkipException: none does.
        """
        if self.served_at != "kubernetes":
            return
        model = self.description
        if not model.serving.log:
            raise AirflowSkipException(
                f"nobody collects what the pods of {model.name} predict: set serving.log where a collector does"
            )
        self.hook.backend().bring_rows(self.home, model.name, since)


class WatchWindowOperator(_Watching):
    """The next window that may be closed, or skip: no champion, or its end has not passed all watermarks yet.

    Asked twice it is the same window, until ``WatchReactOperator`` closes it. Returns the window.

    Where more windows wait behind it, an outlet that is an ``AssetAlias`` gets an event on ``behind``: one more run, as
    soon as this one has ended. A run that meets the window of the one that called it calls no further: whatever keeps
    that window from being closed is tried again with the schedule, and not at once and for ever.
    """

    operator_extra_links: Any = (ModelVersionLink(),)

    def execute(self, context: Any) -> dict[str, Any]:
        from windtunnel.monitoring import logged, watch

        story = self.begin(context)
        model, now = self.description, time.time()
        champion = self.hook.registry.champion(model.name)
        if champion is None:
            raise AirflowSkipException(f"{model.name} has no champion to watch yet")
        kept = self.keeping
        if self.served_at == "kubernetes":
            self.fetch(logged.needed_to_choose(model, kept.state(model.name).closed_end, now))
        window = watch.next_window(
            self.home,
            model,
            str(champion.version),
            champion.digest,
            now,
            correlation_id=story.correlation_id,
            kept=kept,
        )
        if window is None:
            raise AirflowSkipException("no window to close yet")
        self.note_version(model.name, str(champion.version))
        event = Event(model.name, story.correlation_id, story.cause, str(champion.version), champion.digest)
        announce(self, context, "window", event)
        if window["behind"]:
            self._call_for_the_next(context, window)
        return window

    def _call_for_the_next(self, context: Any, window: Mapping[str, Any]) -> None:
        events = [one for found in (context.get("triggering_asset_events") or {}).values() for one in found]
        if any(window["start"] < float((one.extra or {}).get(_CALLED_AT, -math.inf)) for one in events):
            self.log.warning(
                "The run before did not close this window: the %d behind it wait for the schedule",
                window["behind"],
            )
            return
        self.log.info("%d more windows wait: the next run begins when this one has ended", window["behind"])
        event = Event(window["model"], uuid.uuid4().hex, "behind")  # each window is a story of its own
        announce_by_alias(self, context, window["model"], "behind", {**event.extra(), _CALLED_AT: window["end"]})


class _Window(_Watching):
    """Base of what works on a window.

    Args:
        window: what ``WatchWindowOperator`` returned.
    """

    operator_extra_links: Any = (
        ModelVersionLink(),
        ReportLink(),
    )

    template_fields: Sequence[str] = (*WindtunnelOperator.template_fields, "window")

    def __init__(self, *, window: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = window

    def start(self, context: Any) -> Story:
        found = story_of(context)
        story = Story(self.window.get("correlation_id") or found.correlation_id, found.cause)
        self.begin(context, story)
        self.note_version(self.window["model"], self.window["version"])
        return story

    def coordinates(self, context: Any) -> dict[str, str]:
        where = run_coordinates(context)
        return {key: str(where[key]) for key in ("dag_id", "dag_run_id", "task_id")}


class WatchDriftOperator(_Window):
    """Drift of features and predictions in the window. Returns the verdict; FAIL is a finding, not a failed task."""

    def execute(self, context: Any) -> dict[str, Any] | None:
        from windtunnel.monitoring import watch

        self.start(context)
        self.fetch(float(self.window["start"]))
        verdict = watch.judge_drift(
            self.home, self.description, self.window, dag=self.coordinates(context), kept=self.keeping
        )
        if verdict is None:
            raise AirflowSkipException("the description asks for no drift watch")
        self.log.info("drift %s: %s", verdict["outcome"], verdict["reason"])
        return verdict


class WatchPerformanceOperator(_Window):
    """Loss on labelled rows against the loss at evaluation. Returns the verdict; FAIL is a finding."""

    def execute(self, context: Any) -> dict[str, Any] | None:
        from windtunnel.monitoring import logged, watch

        self.start(context)
        self.fetch(logged.needed_to_judge(self.description, self.window))
        verdict = watch.judge_performance(
            self.home, self.description, self.window, dag=self.coordinates(context), kept=self.keeping
        )
        if verdict is None:
            raise AirflowSkipException("the description asks for no performance watch")
        self.log.info("performance %s: %s", verdict["outcome"], verdict["reason"])
        return verdict


class WatchReportOperator(_Window):
    """The Evidently report for the eyes; then the verdicts go to the registry, with the report's address.

    Args:
        verdicts: what the judging tasks returned; None of a skipped one is left out.
    """

    template_fields: Sequence[str] = (*_Window.template_fields, "verdicts")

    def __init__(self, *, verdicts: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verdicts = verdicts

    def execute(self, context: Any) -> dict[str, Any]:
        from windtunnel.evidence import Verdict
        from windtunnel.monitoring import logged, watch

        self.start(context)
        found = [one for one in self.verdicts if one]
        reported = watch.write_report(
            self.home,
            self.description,
            self.window,
            found,
            time.time(),
            kept=self.keeping,
            fetch=lambda: self.fetch(logged.needed_to_judge(self.description, self.window)),
        )
        self.note_report(reported["report_uri"])
        registry = self.hook.registry
        for plain in reported["verdicts"]:
            registry.post_verdict(Verdict.from_dict(plain))
        if reported["reason"]:
            self.log.info("No report: %s", reported["reason"])
        return reported


class WatchReactOperator(_Window):
    """Decide the reaction and close the window. Wakes ``MODEL.train`` when it says retrain, else ends as skipped.

    Airflow emits a task's asset events when it succeeds; a skipped task emits none. So the outlet
    ``windtunnel://MODEL/drift`` speaks exactly when there is something to say.

    Args:
        reported: what ``WatchReportOperator`` returned.
    """

    template_fields: Sequence[str] = (*_Window.template_fields, "reported")

    def __init__(self, *, reported: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reported = reported

    def execute(self, context: Any) -> dict[str, Any]:
        from windtunnel.monitoring import watch

        story = self.start(context)
        model, registry = self.description, self.hook.registry
        pending = registry.pending(model.name) is not None or self._releasing(registry, model.name)
        verdicts = self.reported["verdicts"]
        answer = watch.react(self.home, model, self.window, verdicts, time.time(), pending=pending, kept=self.keeping)
        self.note_report(self.reported.get("report_uri"))
        if answer["react"] != "retrain":
            raise AirflowSkipException(f"no retraining: {answer['cause']}")
        event = Event(model.name, story.correlation_id, answer["cause"], self.window["version"], self.window["digest"])
        announce(self, context, "drift", event)
        self.log.warning("Retraining %s: %s", model.name, answer["cause"])
        return answer

    @staticmethod
    def _releasing(registry: Any, model: str) -> bool:
        """A rollout is running, so a newer version is not decided yet."""
        newest = registry.rollouts(model, limit=1)
        return bool(newest) and not newest[0].ended
