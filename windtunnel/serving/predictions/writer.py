"""The writer inside the model server: takes rows from requests and gets them into the prediction log.

``write`` only puts the request's objects into a bounded buffer and counts them in shared memory, so it
costs a request some microseconds and can neither block nor raise. A thread of its own drains the buffer
into the spool (every ``spool_s``) and publishes the spool as Parquet (every ``flush_s``).

What is lost when: killed process, the rows of the last ``spool_s``, and their number is known exactly;
power cut, at most the last ``flush_s`` (published files are fsynced, the spool is not); disk full,
nothing until the buffer is full, then rows are refused and counted.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
import time
import uuid
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel import files
from windtunnel.names import check_model_name
from windtunnel.serving.predictions import columns, publish, spool, watermark
from windtunnel.serving.predictions.watermark import Mark

if TYPE_CHECKING:
    import pyarrow as pa

_ROTATE_BYTES = 64 * 2**20


def new_prediction_ids(n: int) -> list[str]:
    """``n`` fresh prediction ids, to be returned with the response.

    Never derived from the request id: a client may send the same one twice.
    """
    stem = uuid.uuid4().hex
    return [f"{stem}-{i}" for i in range(n)]


def in_sample(request_id: str, fraction: float) -> bool:
    """Whether the sampling rule keeps this request: by its id, so every arm and mirror keeps the same ones."""
    return fraction >= 1.0 or zlib.crc32(request_id.encode("utf-8", "replace")) < fraction * 2**32


class PredictionWriter:
    """One model server's way into the log; safe to call from several threads.

    Args:
        root: root of the prediction log (``HOME/predictions``).
        instance: name of this server among those of the version, the same after a restart (``"0"``):
            then the successor publishes what a killed predecessor left. If another living process
            has the name, a number is added to it.
        flush_s: rows are published at least this often (``Serving.flush``).
        sample: fraction of requests logged (``Serving.sample``), chosen by request id.
        features: names of the model's inputs; other keys of a row are not logged.
        kinds: ``numeric``, ``categorical`` or ``boolean`` by feature; a feature without one gets the type of
            the first value seen.
        prediction_kind: ``numeric`` or ``categorical``, else as the first output seen.
        lateness_s: rows may come this long after their ``time`` (time in queue and model) and still be
            before the watermark. A server that brackets requests with ``started`` and ``finished``
            is exact however long they take.
        buffer_rows: bound of the buffer; what comes beyond it is dropped and counted.
        spool_s: how often the buffer goes to the spool: what ``kill -9`` may cost.
    """

    def __init__(
        self,
        root: Path,
        model: str,
        version: str,
        instance: str,
        *,
        flush_s: float,
        sample: float = 1.0,
        features: Sequence[str],
        kinds: Mapping[str, str] | None = None,
        prediction_kind: str | None = None,
        lateness_s: float = 1.0,
        buffer_rows: int = 50_000,
        spool_s: float | None = None,
    ) -> None:
        self._root = Path(root)
        self._model = check_model_name(model)
        self._version = str(version)
        self._instance = publish.safe(instance)
        self._flush_s = max(0.05, float(flush_s))
        self._spool_s = max(0.02, min(0.25, self._flush_s / 2) if spool_s is None else spool_s)
        self._beat_s = min(2.0, self._flush_s)
        self._sample = float(sample)
        self._features = list(features)
        self._declared = columns.declared(kinds)
        self._kinds = dict(self._declared)
        if prediction_kind is not None:
            self._declared |= columns.declared({_OUTPUT: prediction_kind})
            self._kinds |= self._declared
        self._lateness_s = float(lateness_s)
        self._limit = int(buffer_rows)

        self._lock = threading.Lock()
        self._queue: deque[tuple[Any, ...]] = deque()
        self._held: list[tuple[Any, ...]] = []  # drained, but the spool did not take it yet
        self._pending = 0  # rows in queue and held
        self._counts = spool.Counts()
        self._shared: spool.SharedCounts | None = None
        self._encode_lost = 0
        self._in_flight: dict[int, float] = {}
        self._tickets = itertools.count(1)
        self._closed = False

        self._folder: Path | None = None
        self._locked: int | None = None
        self._spool: spool.SpoolFile | None = None
        self._spool_tables_since = 0.0
        self._waiting: list[Path] = []  # spool files that could not be published yet
        self._sequence = 0
        self._run = 0
        self._published = 0
        self._flushed_through = 0.0
        self._drained_through = 0.0
        self._beat_at = 0.0
        self._mark: Mark | None = None
        self._error: str | None = None

        import pyarrow.parquet  # noqa: F401

        # pyarrow loads itself and pandas when first used: a second, spent here and not beside the first request.
        self._table([(1, 0.0, "", [], [], None, None, 0, None, None, None, None, None, False, None, None)])
        self._flushed_through = self._drained_through = time.time()
        self._guarded(self._open)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"prediction-log {model} {version}", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    # -- called by requests

    def write(
        self,
        request_id: str,
        time: float | datetime,
        prediction_ids: Sequence[str] | None,
        rows: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]],
        outputs: Sequence[Any] | None,
        latency_ms: float | None,
        status: int,
        error: str | None = None,
        arm: str | None = None,
        correlation_id: str | None = None,
        client: str | None = None,
        segment: str | None = None,
        shadow: bool = False,
        queue_ms: float | None = None,
        confidence: float | Sequence[float] | None = None,
    ) -> None:
        """Log one request. Never raises, never waits for a disk; what cannot be taken is counted as dropped.

        Args:
            time: when the request came: seconds since the epoch, or a datetime with a zone.
            prediction_ids: one per row, as returned to the client; fresh ones are made for missing ones.
            rows: one mapping of feature to value per row, or one mapping of feature to column.
                They must not be changed afterwards.
            outputs: one per row; None or shorter when the model failed.
            confidence: of all rows, or one per row.
        """
        count = 1
        try:
            if isinstance(rows, Mapping):
                count = max((len(column) for column in rows.values()), default=0)
            else:
                count = len(rows)
            count = max(count, len(prediction_ids) if prediction_ids is not None else 0, 1)
            second = time.timestamp() if isinstance(time, datetime) else float(time)
            keep = in_sample(str(request_id), self._sample)
            counts = self._counts
            with self._lock:
                if not keep:
                    counts.sampled_out += count
                elif self._closed or self._pending + count > self._limit:
                    counts.overflow += count
                else:
                    counts.accepted += count
                    self._pending += count
                    if second < self._flushed_through:
                        counts.late += count
                    self._queue.append(
                        (count, second, request_id, prediction_ids, rows, outputs, latency_ms, status, error, arm,
                         correlation_id, client, segment, shadow, queue_ms, confidence)
                    )  # fmt: skip
                if self._shared is not None:
                    self._shared.store(counts)
        except Exception:
            # Whatever a caller hands in: the request must not suffer.
            with self._lock:
                self._counts.overflow += count

    def started(self, time: float) -> int:
        """Say that a request which came at ``time`` is being worked on: the watermark waits for it.

        Returns:
            A ticket for ``finished``.
        """
        ticket = next(self._tickets)
        self._in_flight[ticket] = time
        return ticket

    def finished(self, ticket: int) -> None:
        """The request was written (or will not be)."""
        self._in_flight.pop(ticket, None)

    def close(self, timeout_s: float = 10.0) -> None:
        """Publish everything, close the watermark, end the thread. Closing twice is fine; never raises."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        self._stop.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return  # the disk hangs; the spool stays for the sweep

    @property
    def counts(self) -> dict[str, int]:
        """Rows of this run: accepted, published, pending, dropped, late, sampled_out; misfits in values."""
        with self._lock:
            return {
                "accepted": self._counts.accepted,
                "published": self._published,
                "pending": self._counts.accepted - self._published - self._encode_lost,
                "dropped": self._counts.overflow + self._encode_lost,
                "late": self._counts.late,
                "sampled_out": self._counts.sampled_out,
                "misfits": self._counts.misfits,
            }

    @property
    def error(self) -> str | None:
        """Why publishing fails right now, None when it does not."""
        return self._error

    # -- the thread

    def _loop(self) -> None:
        while not self._stop.wait(self._spool_s):
            self._guarded(self._tick)
        self._guarded(self._finish)

    def _guarded(self, step: Any) -> None:
        """Run ``step``; a full disk or a surprise is kept for the watermark, and tried again with the next tick."""
        try:
            step()
            self._error = None
        except Exception as error:
            self._error = f"{type(error).__name__}: {error}"

    def _open(self) -> None:
        """Take the spool folder, publish what a predecessor left, start a run."""
        instance = self._instance
        locked: int | None = None
        for attempt in itertools.count(1):
            name = f"{publish.safe(self._version)}-{instance}"
            folder = self._root / self._model / "_spool" / name
            folder.mkdir(parents=True, exist_ok=True)
            locked = spool.lock(folder)
            if locked is None and attempt == 1:
                time.sleep(0.2)  # a sweep holds it for a moment
                locked = spool.lock(folder)
            if locked is not None:
                break
            instance = f"{self._instance}_{attempt + 1}"
        assert locked is not None
        try:
            now = time.time()
            mark = watermark.read(watermark.folder(self._root, self._model) / f"{name}.json")
            if not (folder / "identity.json").exists():
                identity = {"model": self._model, "version": self._version, "instance": instance}
                files.write_json(folder / "identity.json", identity)
            mark = publish.recover(self._root, folder, mark)
            if mark is None:
                mark = Mark(self._model, self._version, instance, flushed_through=now, at=now)
            self._run = max(int(now * 1000), mark.run + 1)
            shared = spool.SharedCounts(folder / f"{self._run}.counts")
            with self._lock:
                shared.store(self._counts)
                self._shared = shared
            mark.run, mark.closed, mark.every_s = self._run, False, max(self._beat_s, self._flush_s)
            self._mark, self._instance = mark, instance
            self._folder, self._locked = folder, locked
        except BaseException:
            os.close(locked)
            raise
        self._beat(durable=True)

    def _tick(self) -> None:
        if self._folder is None:
            self._open()
        self._drain()
        now = time.time()
        due = now - self._spool_tables_since >= self._flush_s
        if self._spool is not None and (due or self._spool.size >= _ROTATE_BYTES):
            self._rotate()
        if self._waiting:
            self._publish_waiting()
        if self._spool is None and not self._waiting and not self._held:
            self._flushed_through = max(self._flushed_through, self._drained_through)
        if abs(now - self._beat_at) >= self._beat_s:
            self._beat()

    def _finish(self) -> None:
        """The last tick: everything published, watermark closed, counters folded."""
        if self._folder is None:
            self._open()
        self._drain()
        self._rotate()
        self._publish_waiting()
        if self._held or self._mark is None or self._folder is None:
            return
        publish.fold(self._mark, self._run, self._counts, self._counts.spooled)
        self._mark.closed, self._mark.error, self._mark.at = True, None, time.time()
        self._mark.flushed_through = max(self._flushed_through, time.time())
        watermark.write(self._root, self._mark, self._folder.name, durable=True)
        for file in spool.counts_files(self._folder):
            file.unlink(missing_ok=True)
        with self._lock:
            if self._shared is not None:
                self._shared.close()
            self._shared = None
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def _drain(self) -> None:
        """Buffer to spool. Until the spool has it, it counts as pending."""
        mark = time.time() - self._lateness_s
        in_flight = list(self._in_flight.copy().values())
        while self._queue:
            self._held.append(self._queue.popleft())
        if self._held:
            table = self._encode(self._held)
            rows = 0 if table is None else table.num_rows
            if table is not None:
                self._append(table)
            lost = sum(request[0] for request in self._held) - rows
            with self._lock:
                self._encode_lost += lost
                self._counts.spooled += rows
                self._pending -= rows + lost
                if self._shared is not None:
                    self._shared.store(self._counts)
            self._held = []
        # A request that hangs does not hold the log for ever; when it ends its rows count as late.
        patience = time.time() - max(60.0, 6 * self._flush_s)
        self._drained_through = min([mark, *(at for at in in_flight if at > patience)])

    def _append(self, table: pa.Table) -> None:
        if self._folder is None:
            raise OSError("the spool folder is not open")
        if self._spool is None:
            self._sequence += 1
            self._spool = spool.SpoolFile(self._folder / f"{self._run}-{self._sequence:06d}.spool")
            self._spool_tables_since = time.time()
        self._spool.append(table, self._counts.spooled + table.num_rows)

    def _rotate(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._waiting.append(self._spool.path)
            self._spool = None

    def _publish_waiting(self) -> None:
        through = self._drained_through
        while self._waiting:
            file = self._waiting[0]
            tables, _ = spool.read_spool(file)
            if self._folder is not None:
                rows = publish.publish(self._root, self._model, publish.published_name(self._folder, file), tables)
                self._published += rows
            file.unlink(missing_ok=True)
            self._waiting.pop(0)
        if not self._held:
            self._flushed_through = max(self._flushed_through, through)
        self._beat()

    def _beat(self, *, durable: bool = False) -> None:
        """Renew the watermark."""
        if self._mark is None or self._folder is None:
            return
        mark, counts = self._mark, self._counts
        mark.at = self._beat_at = time.time()
        mark.flushed_through = max(self._flushed_through, 0.0)
        mark.rows = mark.folded.get("rows", 0) + self._published
        mark.dropped = mark.folded.get("dropped", 0) + counts.overflow + self._encode_lost
        mark.late = mark.folded.get("late", 0) + counts.late
        mark.sampled_out = mark.folded.get("sampled_out", 0) + counts.sampled_out
        mark.misfits = mark.folded.get("misfits", 0) + counts.misfits
        mark.error = self._error
        watermark.write(self._root, mark, self._folder.name, durable=durable)

    # -- rows to columns

    def _encode(self, requests: list[tuple[Any, ...]]) -> pa.Table | None:
        """One table of all rows; a request that cannot be encoded is left out (and so counted as lost)."""
        try:
            return self._table(requests)
        except Exception:
            import pyarrow as pa

            tables = []
            for request in requests:
                with contextlib.suppress(Exception):
                    tables.append(self._table([request]))
            if not tables:
                return None
            kinds = publish.unified([table.schema for table in tables])
            return pa.concat_tables([columns.conform(table, kinds) for table in tables])

    def _table(self, requests: list[tuple[Any, ...]]) -> pa.Table:
        import pyarrow as pa

        (
            counts, times, request_ids, ids, rows, outputs, latencies, statuses, errors, arms,
            correlation_ids, clients, segments, shadows, queued, confidences,
        ) = (list(column) for column in zip(*requests, strict=True))  # fmt: skip
        total = sum(counts)

        def spread(column: list[Any]) -> list[Any]:
            """One value per request to one per row."""
            if total == len(counts):
                return column
            return [value for value, n in zip(column, counts, strict=True) for _ in range(n)]

        fixed: dict[str, list[Any]] = {
            "prediction_id": [one for given, n in zip(ids, counts, strict=True) for one in _given_ids(given, n)],
            "request_id": spread(request_ids),
            "time": spread([round(second * 1e6) for second in times]),
            "model": [self._model] * total,
            "version": [self._version] * total,
            "arm": spread(arms),
            "correlation_id": spread(correlation_ids),
            "latency_ms": spread(latencies),
            "status": spread(statuses),
            "error": spread(errors),
            "confidence": [
                one
                for value, n in zip(confidences, counts, strict=True)
                for one in (_padded(value, n) if _is_column(value) else [value] * n)
            ],
            "queue_ms": spread(queued),
            "client": spread(clients),
            "segment": spread(segments),
            "instance": [self._instance] * total,
            "shadow": spread([bool(shadow) for shadow in shadows]),
        }
        predictions = [one for value, n in zip(outputs, counts, strict=True) for one in _padded(value, n)]
        values: dict[str, list[Any]]
        if not any(isinstance(given, Mapping) for given in rows):
            mappings = [one for given, n in zip(rows, counts, strict=True) for one in _padded_rows(given, n)]
            values = {name: [row.get(name) for row in mappings] for name in self._features}
        else:
            values = {name: [] for name in self._features}
            for given, n in zip(rows, counts, strict=True):
                for name, column in values.items():
                    if isinstance(given, Mapping):
                        column += _padded(given.get(name), n)
                    else:
                        column += [row.get(name) for row in _padded_rows(given, n)]
        arrays, misfits = [], 0
        for name, kind in columns.FIXED.items():
            arrays.append(columns.array(fixed[name], kind)[0])
        for name, column in [*values.items(), (_OUTPUT, predictions)]:
            encoded, missed = self._column(name, column)
            arrays.append(encoded)
            misfits += missed
        names = [*columns.FIXED, *(columns.FEATURE_PREFIX + name for name in self._features), columns.PREDICTION]
        self._counts.misfits += misfits
        return pa.table(arrays, names=names)

    def _column(self, name: str, values: list[Any]) -> tuple[pa.Array, int]:
        kind = self._kinds.get(name)
        if kind is None:
            kind = columns.kind_of(values)
            if kind is None:
                return columns.array([None] * len(values), "null")
            self._kinds[name] = kind
        encoded, missed = columns.array(values, kind)
        if missed and name not in self._declared:
            # Nobody said what it should be: widen for good rather than lose a value.
            kinds = [columns.kind_of([value]) or "null" for value in values]
            self._kinds[name] = columns.widest([kind, *kinds])
            encoded, missed = columns.array(values, self._kinds[name])
        return encoded, missed


#: Key of the output among the column kinds; no feature can be called so.
_OUTPUT = "\0prediction"


def _is_column(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def _given_ids(ids: Any, n: int) -> list[Any]:
    """``ids`` as a list of exactly ``n``, fresh ones where there is none."""
    column = _padded(ids, n)
    return column if None not in column else [one or new_prediction_ids(1)[0] for one in column]


def _padded_rows(rows: Sequence[Mapping[str, Any]], n: int) -> list[Mapping[str, Any]]:
    return list(rows) if len(rows) == n else [*rows, *({} for _ in range(n - len(rows)))]


def _padded(values: Any, n: int) -> list[Any]:
    """``values`` as a list of exactly ``n``; None where there is none."""
    if values is None:
        return [None] * n
    tolist = getattr(values, "tolist", None)
    column = tolist() if tolist is not None else list(values)
    return column[:n] if len(column) >= n else column + [None] * (n - len(column))
