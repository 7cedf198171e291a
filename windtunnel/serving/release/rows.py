"""What the model servers logged of one rollout, and the labels and figures that came since, read once.

A gate looks every ten seconds for hours; its numbers are of all rows since the rollout's start. So what was read stays
in this process, and a look reads the files that are new. The files alone decide: where one is gone or another (merged
labels, erased rows) everything is read again, and a process that remembers nothing finds the same numbers, to the
last digit (sums are taken over sorted values, so that the order of arrival does not show).
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windtunnel.errors import DataError
from windtunnel.serving.predictions import columns, hour_of, publish
from windtunnel.serving.release.labelrows import Joined, LabelRows
from windtunnel.serving.routing import AUDIENCE

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from windtunnel.home import Home
    from windtunnel.rollout import PredictionNumbers

    Values = np.ndarray[Any, Any]

#: Rows kept in memory over all rollouts, about 60 bytes each; beyond it the rollouts looked at least recently are read
#: again at their next look, and so are those nobody asked for in so many seconds.
MAX_ROWS = 5_000_000
FORGET_AFTER_S = 900.0
#: A folder changed less than this long ago may change again without a new time of change (seconds).
_SETTLED_S = 2.0
_WANTED = ("prediction_id", "time", "version", "prediction", "shadow", "error", "arm")


@dataclass(slots=True)
class _Arm:
    """Rows of one arm: ids, and predictions as numbers (NaN is one) or text."""

    ids: pa.ChunkedArray
    predictions: pa.ChunkedArray

    @property
    def count(self) -> int:
        return len(self.ids)


class RolloutRows:
    """Answered rows of both arms of one rollout since its start.

    Use it with ``lock`` held: ``of`` hands it out so.

    Args:
        arms: champion and candidate.
        start: seconds since the epoch.
        shadow: the candidate's answers to mirrored requests count too; nobody got them, but they are its answers.
    """

    def __init__(self, home: Home, model: str, arms: tuple[str, str], start: float, *, shadow: bool = False) -> None:
        self.home, self.model, self.versions, self.start, self.shadow = home, model, arms, start, shadow
        self.lock = threading.Lock()
        self.held = 0  # rows in memory, and ...
        self.used = 0.0  # ... when somebody last asked
        self.forget()

    def forget(self) -> None:
        """As if nothing had been read."""
        self._folders: dict[str, tuple[int, list[tuple[str, int]]]] = {}
        self._files: dict[str, int] = {}
        self._arms: tuple[_Arm, _Arm] | None = None
        self._kind = "null"
        self._counted: tuple[Any, tuple[int, int], PredictionNumbers] | None = None
        self._labels: dict[str | None, LabelRows] = {}

    @property
    def counts(self) -> tuple[int, int]:
        """Rows of champion and candidate."""
        return (self._arms[0].count, self._arms[1].count) if self._arms else (0, 0)

    @property
    def weight(self) -> int:
        """Rows in memory, those of labels included."""
        return sum(self.counts) + sum(known.count for known in self._labels.values())

    def refresh(self) -> None:
        """Read the predictions that are new.

        Raises:
            OSError, pyarrow.ArrowException: a file cannot be read.
        """
        if self._read_new():
            return
        for _ in range(5):
            self.forget()
            if self._read_new():
                return
        raise DataError(f"the prediction log of model {self.model!r} changes faster than it can be read")

    def predictions(self, edges: tuple[float, ...] | tuple[str, ...] | None) -> PredictionNumbers | None:
        """Predictions of both arms in bins; arguments and result as of ``rollout.prediction_numbers``."""
        from windtunnel.rollout import prediction_numbers

        counted = self._counted
        if counted is None or edges is None or counted[0] != edges:
            found = prediction_numbers(self._values(0), self._values(1), edges)
        elif counted[1] == self.counts:
            return counted[2]
        else:
            more = prediction_numbers(self._values(0, counted[1][0]), self._values(1, counted[1][1]), edges)
            assert more is not None  # there are edges
            found = counted[2] + more
        self._counted = (found.edges, self.counts, found) if found is not None else None
        return found

    def joined(self, figure: str | None = None) -> tuple[Joined, Joined] | None:
        """Champion's and candidate's rows with their label, or the value of ``figure``; None without any.

        Only what came (``label_time``) since the rollout's start, and for each row the one that counts now.

        Raises:
            OSError, pyarrow.ArrowException: a file cannot be read.
        """
        known = self._labels.setdefault(figure, LabelRows(self.home, self.model, figure, self.start))
        known.refresh()
        if known.count == 0 or self._arms is None:
            return None
        champion, candidate = self._arms
        found = known.joined((champion.ids, champion.predictions), (candidate.ids, candidate.predictions))
        return found if len(found[0].label) + len(found[1].label) else None

    # -- rows

    def _values(self, arm: int, start: int = 0) -> Values:
        import numpy as np

        if self._arms is None:
            return np.zeros(0)
        found: Values = self._arms[arm].predictions.slice(start).to_numpy()
        return found

    def _read_new(self) -> bool:
        """False when what was read is not all there any more, or has to be read in another way."""
        import pyarrow as pa

        found = dict(self._listed())
        if any(found.get(path) != inode for path, inode in self._files.items()):
            return False
        try:
            read = [self._read(path) for path in sorted(found.keys() - self._files.keys())]
        except FileNotFoundError:
            return False  # gone between the listing and the reading
        self._files = found
        parts = [table for table in read if table is not None]
        if not parts:
            return True
        kinds = [columns.kind_name(table.schema.field("prediction").type) for table in parts]
        kind = columns.widest([self._kind, *("double" if kind == "bool" else kind for kind in kinds)])
        if kind != self._kind and self._arms is not None:
            return False  # what were numbers is text now
        self._kind = kind
        table = pa.concat_tables([columns.conform(part, {**_TYPES, "prediction": kind}) for part in parts])
        self._arms = (self._grown(0, table), self._grown(1, table))
        return True

    def _grown(self, arm: int, table: pa.Table) -> _Arm:
        """The arm with its rows of ``table`` that it does not have yet."""
        import pyarrow as pa
        import pyarrow.compute as pc

        mine = table.filter(pc.equal(table.column("version"), self.versions[arm]))
        before = self._arms[arm] if self._arms else None
        if before is not None and mine.num_rows:
            mine = mine.filter(pc.invert(pc.is_in(mine.column("prediction_id"), before.ids.combine_chunks())))
        ids = mine.column("prediction_id")
        if pc.count_distinct(ids).as_py() != len(ids):
            keys = pa.table({"id": ids, "row": pa.array(range(len(ids)), pa.int64())})
            first = keys.group_by("id").aggregate([("row", "min")]).column("row_min").combine_chunks()
            mine = mine.take(first.sort())
        ids, predictions = mine.column("prediction_id"), mine.column("prediction")
        if before is None:
            return _Arm(ids, predictions)
        return _Arm(_glued(before.ids, ids), _glued(before.predictions, predictions))

    def _read(self, path: str) -> pa.Table | None:
        """Rows of one file that count; None without any."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            table = file.read(columns=[name for name in _WANTED if name in file.schema_arrow.names], use_threads=False)
        kind = columns.kind_name(table.schema.field("prediction").type) if "prediction" in table.column_names else None
        if kind in (None, "null"):
            return None
        table = columns.conform(table, {**_TYPES, "prediction": str(kind)})
        champion, candidate = self.versions
        copied = pc.fill_null(table.column("shadow"), False)
        of_candidate = pc.equal(table.column("version"), candidate)
        if not self.shadow:
            of_candidate = pc.and_(of_candidate, pc.invert(copied))
        of_champion = pc.and_(pc.equal(table.column("version"), champion), pc.invert(copied))
        since = pa.scalar(round(self.start * 1e6), columns.arrow_type("time"))
        # Testers chose the candidate themselves: comparing them with users drawn by lot would compare two crowds.
        drawn = pc.invert(pc.equal(pc.fill_null(table.column("arm"), ""), AUDIENCE))
        # Null is no answer; NaN is one, and the gates say so (Parquet keeps the two apart).
        keep = pc.and_(pc.is_null(table.column("error")), pc.is_valid(table.column("prediction")))
        keep = pc.and_(keep, drawn)
        keep = pc.and_(pc.and_(keep, pc.greater_equal(table.column("time"), since)), pc.or_(of_champion, of_candidate))
        table = table.filter(keep).select(["prediction_id", "version", "prediction"])
        return table if table.num_rows else None

    def _listed(self) -> Iterator[tuple[str, int]]:
        """Files of both arms since the start's hour, with their inodes: a file that was replaced has another."""
        root = str(self.home.predictions / self.model)
        first = f"{hour_of(self.start):%Y-%m-%dT%H}"
        prefixes = tuple({f"{publish.safe(version)}-" for version in self.versions})
        for day, _ in self._folder(root):
            date = day.removeprefix("date=")
            if not day.startswith("date=") or date < first[:10]:
                continue
            for hour, _ in self._folder(f"{root}/{day}"):
                if not hour.startswith("hour=") or f"{date}T{hour.removeprefix('hour=')}" < first:
                    continue
                folder = f"{root}/{day}/{hour}"
                for name, inode in self._folder(folder):
                    if name.startswith(prefixes) and name.endswith(".parquet"):
                        yield f"{folder}/{name}", inode

    def _folder(self, folder: str) -> list[tuple[str, int]]:
        """Names in ``folder`` and their inodes; not listed again while the folder is as it was."""
        try:
            changed = os.stat(folder).st_mtime_ns  # noqa: PTH116 (thousands of names a look: strings, not paths)
            before = self._folders.get(folder)
            if before is not None and before[0] == changed:
                return before[1]
            with os.scandir(folder) as entries:
                found = sorted((entry.name, entry.inode()) for entry in entries)
        except FileNotFoundError:
            return []
        if time.time() - changed / 1e9 > _SETTLED_S:
            self._folders[folder] = changed, found
        return found


_TYPES = {
    "prediction_id": "string",
    "time": "time",
    "version": "string",
    "shadow": "bool",
    "error": "string",
    "arm": "string",
}


def _glued(before: pa.ChunkedArray, more: pa.ChunkedArray) -> pa.ChunkedArray:
    """Two columns as one, in few chunks."""
    import pyarrow as pa

    glued = pa.chunked_array([*before.chunks, *more.chunks], before.type)
    return glued if glued.num_chunks < 32 else pa.chunked_array([glued.combine_chunks()])


_known: OrderedDict[tuple[str, str, str, str], RolloutRows] = OrderedDict()
_known_lock = threading.Lock()


@contextmanager
def of(
    home: Home, model: str, rollout_id: str, arms: tuple[str, str], start: float, *, shadow: bool = False
) -> Iterator[RolloutRows]:
    """This process's rows of one rollout, up to date and for this thread alone.

    Raises: like ``RolloutRows.refresh``; then nothing is remembered of it.
    """
    key = (str(home.root), model, rollout_id, arms[1])
    with _known_lock:
        rows = _known.get(key)
        if rows is None or (rows.versions, rows.start, rows.shadow) != (arms, start, shadow):
            rows = _known[key] = RolloutRows(home, model, arms, start, shadow=shadow)
        _known.move_to_end(key)
        rows.used = time.monotonic()
    with rows.lock:
        try:
            rows.refresh()
            yield rows
        except Exception:
            rows.forget()
            raise
        finally:
            rows.held = rows.weight
    with _known_lock:
        total = sum(other.held for other in _known.values())
        while len(_known) > 1:
            oldest = next(iter(_known.values()))
            if total <= MAX_ROWS and time.monotonic() - oldest.used < FORGET_AFTER_S:
                break
            total -= _known.popitem(last=False)[1].held
