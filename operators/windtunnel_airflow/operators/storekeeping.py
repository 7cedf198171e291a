"""The house's own work in the object store where workers and pods meet."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from windtunnel_airflow.operators.steward import _Steward


class StoreRetentionOperator(_Steward):
    """Remove from the object store what no run needs any more; a run that may go on keeps its checkpoints.

    Args:
        content: age after which inputs, checkpoints and models of runs that are over go; None keeps them.
        papers: age after which such runs go with logs and evidence.
        steps: age after which outputs of steps go that no run may still need.
        abandoned: a run that could go on, and did not for so long, counts as over.
    """

    def __init__(
        self,
        *,
        content: timedelta | None = timedelta(days=7),
        papers: timedelta | None = timedelta(days=90),
        steps: timedelta | None = timedelta(days=30),
        abandoned: timedelta | None = timedelta(days=90),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.content = content
        self.papers = papers
        self.steps = steps
        self.abandoned = abandoned

    def execute(self, context: Any) -> dict[str, int]:
        from windtunnel.errors import DescriptionError
        from windtunnel.tracking.pods.keeping import Ages, tidy

        try:
            objects = self.hook.objects
        except DescriptionError as error:  # nothing trains in pods by this connection
            raise AirflowSkipException(error.message) from error
        ages = [
            None if age is None else age.total_seconds()
            for age in (self.content, self.papers, self.steps, self.abandoned)
        ]
        done = tidy(objects, time.time(), Ages(*ages))
        self.log.info("Removed %s; runs that may go on: %s", done.removed, ", ".join(done.running) or "none")
        return done.removed
