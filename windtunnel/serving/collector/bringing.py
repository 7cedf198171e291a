"""What an object store has of a model's log, brought to where gates and monitoring read it (``HOME/predictions``).

Files are never changed, so each is fetched once; watermarks are fetched each time. What comes late into an hour that
has passed is found by a look at all hours every ``AGAIN_S``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel import files
from windtunnel.names import check_model_name

if TYPE_CHECKING:
    from windtunnel.data.objects import Objects

#: Hours before this one that are looked at each time.
_FRESH_HOURS = 1
AGAIN_S = 300.0
#: For more days than these all keys are listed at once.
_MANY_DAYS = 31


class Brought:
    """One store's log, brought below ``root``; safe to call from several threads.

    Args:
        store: where collectors write it; ``windtunnel.data.objects.connect``.
        root: ``HOME/predictions``.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Objects, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._store, self._root, self._clock = store, root, clock
        self._lock = threading.Lock()
        self._whole: dict[str, tuple[float, float]] = {}  # by model: since when, and when last looked at

    def bring(self, model: str, since: float) -> int:
        """Fetch what is new in the hours from ``since`` (seconds since the epoch) on; files fetched.

        Raises:
            UnavailableError: the store does not answer; what is here is as it was, its watermarks too, so that the log
                becomes stale.
            DataError: it refuses.
        """
        check_model_name(model)
        now = self._clock()
        with self._lock:
            # Watermarks first: they speak of files that are there by then.
            marks = {key: self._store.get_bytes(key) for key in self._store.sizes(f"{model}/_watermark/")}
            looked = self._whole.get(model)
            whole = looked is None or since < looked[0] or now - looked[1] > AGAIN_S
            start = since if whole else max(since, now - 3600 * _FRESH_HOURS)
            fetched = 0
            for key in self._keys(model, start, now):
                target = self._root / key
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    files.write_with(target, lambda part, key=key: self._get(key, part), mode=files.SHARED)  # type: ignore[misc]
                    fetched += 1
            for key, data in marks.items():
                if data is not None:
                    files.write_bytes(self._root / key, data, mode=files.SHARED, durable=False, parents=True)
            if whole:
                self._whole[model] = since, now
            return fetched

    def _get(self, key: str, part: Path) -> None:
        self._store.get(key, part)

    def _keys(self, model: str, start: float, now: float) -> list[str]:
        """Files of the hours from ``start`` to the next one; by the day, or by the hour where there are few."""
        begin = first = datetime.fromtimestamp(max(start, 0), UTC).replace(minute=0, second=0, microsecond=0)
        last = datetime.fromtimestamp(now, UTC) + timedelta(hours=1)
        hours: list[datetime] = []
        if (last - begin).days > _MANY_DAYS:
            return [
                key
                for key in self._store.sizes(f"{model}/date=")
                if key.endswith(".parquet") and _hour(key) >= f"{begin:%Y-%m-%dT%H}"
            ]
        while first <= last and len(hours) <= 4:
            hours.append(first)
            first += timedelta(hours=1)
        if first > last:
            prefixes = [f"{model}/date={hour:%Y-%m-%d}/hour={hour:%H}/" for hour in hours]
        else:
            day, days = hours[0].date(), []
            while day <= last.date():
                days.append(day)
                day += timedelta(days=1)
            prefixes = [f"{model}/date={one:%Y-%m-%d}/" for one in days]
        found = [key for prefix in prefixes for key in self._store.sizes(prefix) if key.endswith(".parquet")]
        oldest = f"{hours[0]:%Y-%m-%dT%H}"
        return [key for key in found if _hour(key) >= oldest]


def _hour(key: str) -> str:
    day, hour = key.split("/")[1:3]
    return f"{day.removeprefix('date=')}T{hour.removeprefix('hour=')}"


_brought: dict[tuple[str, Path], Brought] = {}
_brought_lock = threading.Lock()


def bring(url: str, root: Path, model: str, since: float) -> int:
    """Fetch what is new of ``model`` from the log at ``url``; this process remembers what it looked at.

    Args:
        url: ``s3://BUCKET/PREFIX`` or ``file:///FOLDER``; where that folder is ``root`` itself, nothing is done.

    Raises: like ``Brought.bring``.
    """
    from windtunnel.data import objects

    if url.startswith("file:") and Path(url.removeprefix("file://")) == root:
        return 0
    with _brought_lock:
        known = _brought.get((url, root))
        if known is None:
            known = _brought[url, root] = Brought(objects.connect(url), root)
    return known.bring(model, since)
