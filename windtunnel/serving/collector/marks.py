"""The watermarks of one collector: of each model it has events of, how far the log is complete here."""

from __future__ import annotations

from collections.abc import Mapping

from windtunnel.serving.collector.places import Place
from windtunnel.serving.collector.totals import Totals
from windtunnel.serving.predictions.watermark import Mark, stale_after

WRITER = "collector"


class Marks:
    """Watermarks named ``collector-INSTANCE``.

    Args:
        place: where the log lies.
        instance: this collector's name.
        every_s: they are renewed so often.
        lateness_s: events may come so long after their time and still be before them.
    """

    def __init__(self, place: Place, instance: str, every_s: float, lateness_s: float) -> None:
        self._place, self._instance, self._every_s, self._lateness_s = place, instance, every_s, lateness_s
        self._through: dict[str, float] = {}

    @property
    def hold_s(self) -> float:
        """A watermark waits so long for what was handed over: until its home's speaks of it, or is silent for so long
        that the log is stale."""
        return stale_after(Mark("", WRITER, self._instance, 0, 0, every_s=self._every_s)) + 2 * self._every_s

    def through(self, model: str) -> float:
        """Seconds since the epoch up to which the model's log was said to be complete; 0 before it was."""
        return self._through.get(model, 0.0)

    def renew(
        self,
        totals: Totals,
        model: str,
        begun: float,
        oldest: Mapping[str, float],
        guests: Mapping[str, float],
        *,
        idle: bool,
    ) -> None:
        """Say how far the model's log is complete.

        Args:
            begun: what came before it is published, or in ``oldest``; seconds since the epoch.
            oldest, guests: by model, the oldest that waits here or is not at its home yet; of what others handed over.
            idle: nothing has come for long: the watermark is closed.

        Raises: like ``Place.mark``.
        """
        through, before = min(begun - self._lateness_s, oldest.get(model, begun)), self.through(model)
        # Back only for a guest: the watermark of the one that handed it over stays until this one is there.
        self._through[model] = through if guests.get(model, before) < before else max(through, before)
        self._put(totals, model, begun, closed=idle)

    def close(self, totals: Totals, at: float) -> None:
        """Everything is published and this collector ends; ``renew`` opens them again.

        Raises: like ``Place.mark``.
        """
        for model in totals.seen:
            self._put(totals, model, at, closed=True)

    def _put(self, totals: Totals, model: str, at: float, *, closed: bool) -> None:
        mark = Mark(model, WRITER, self._instance, flushed_through=self.through(model), at=at, closed=closed)
        mark.rows, mark.late = totals.rows.get(model, 0), totals.late.get(model, 0)
        mark.dropped, mark.every_s, mark.run = totals.dropped.get(model, 0), self._every_s, totals.born
        self._place.mark(mark, f"{WRITER}-{self._instance}")
