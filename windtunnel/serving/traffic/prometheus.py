"""Router counters from Prometheus: what a gate reads where the traffic flows through Seldon, Envoy or another router.

``PrometheusTraffic(url, SELDON).traffic(model)`` gives what ``ServingBackend.traffic`` promises: cumulative counts of
both arms at one instant (one query, one evaluation), or ``UnavailableError``. Prometheus keeps samples, not events, so

- ``Traffic.at`` is the older of the arms' last scrapes: no number is newer than it says; a scrape interval longer than
  the plan's ``look_every`` makes some looks find nothing new;
- latency is known by the router's own buckets only. A request in bucket (25, 50] ms is counted at 50 ms, so quantiles
  are never too low, and comparisons are exact at the router's bounds and nowhere between. A threshold between two
  bounds (``limits.p95_ms``) has to be told (``thresholds_ms``): requests that may be on either side of it are then
  counted below, so that a limit is not breached by rounding.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel import files
from windtunnel.errors import UnavailableError
from windtunnel.names import check_model_name
from windtunnel.serving.backend import Traffic
from windtunnel.serving.traffic.promcounters import Accumulator, Labels
from windtunnel.serving.traffic.promnames import ENVOY, SELDON, SELDON_CLIENT, SELDON_CORE2, Names
from windtunnel.serving.traffic.promreading import Row, arms_of, histogram, read, series_of

if TYPE_CHECKING:
    import ssl

    import httpx

__all__ = ["ENVOY", "SELDON", "SELDON_CLIENT", "SELDON_CORE2", "Names", "PrometheusTraffic", "histogram"]

#: A version whose series vanished is missed for this long; then it counts as removed.
MISSED_FOR_S = 300.0


@dataclass(slots=True)
class _Model:
    """What is remembered of one model between two readings."""

    counts: Accumulator
    at: float = 0.0
    last_seen: dict[str, float] = field(default_factory=dict)  # by version
    lock: threading.Lock = field(default_factory=threading.Lock)


class PrometheusTraffic:
    """Router counters of any model, from one Prometheus.

    An object remembers what it has read; another one (another process) begins a new epoch, which the gates take for a
    restart of the counters: one look counts nothing. With ``folder`` they share their memory.

    Args:
        url: of the server, up to but without ``/api``.
        names: the router's metric names: ``SELDON``, ``ENVOY`` or your own ``Names``.
        token, token_file: bearer token, or the file that holds it (read at each query, as it may be renewed).
        basic: user and password instead.
        verify: False, or the path of a CA bundle, for TLS; ``cert`` the path of a client certificate, or certificate
            and key.
        headers: further ones, such as a tenant's.
        timeout_s: for the whole query.
        stale_after_s: an arm whose last scrape is older than this is a dead source.
        thresholds_ms: absolute latency limits that will be asked for (see above).
        folder: where the memory is kept.
        client: an ``httpx.Client`` of your own; then ``token`` to ``timeout_s`` are its business.
    """

    def __init__(
        self,
        url: str,
        names: Names = SELDON,
        *,
        token: str | None = None,
        token_file: Path | None = None,
        basic: tuple[str, str] | None = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
        stale_after_s: float = 60.0,
        thresholds_ms: Sequence[float] = (),
        folder: Path | None = None,
        client: httpx.Client | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.url, self.names = url.rstrip("/"), names
        self.stale_after_s, self.thresholds_ms = stale_after_s, tuple(thresholds_ms)
        self._token, self._token_file, self._folder, self._clock = token, token_file, folder, clock
        self._tls = (verify, cert)
        self._options: dict[str, Any] = {"auth": basic, "headers": dict(headers or {}), "timeout": timeout_s}
        self._client = client
        self._models: dict[str, _Model] = {}
        self._lock = threading.Lock()

    def traffic(self, model: str, without: Collection[str] = ()) -> Traffic:
        """Cumulative counters of all arms of ``model``.

        Args:
            without: versions whose series may be gone: they were taken out of service.

        Raises:
            UnavailableError: Prometheus does not answer or answers in part, has no series of the model, none of a
                version it had before, a sample that is too old or no number, or a router's process could not be
                scraped. A dead source is never an empty answer.
        """
        check_model_name(model)
        result = self._ask(self.names.query(model))
        with self._lock:
            known = self._models.setdefault(model, _Model(Accumulator(uuid.uuid4().hex)))
        with known.lock:
            if self._folder is None:
                return self._take(model, known, result, without)
            from windtunnel.serving.artifacts import file_lock

            self._folder.mkdir(parents=True, exist_ok=True)
            with file_lock(self._folder / f".{model}.lock"):
                path = self._folder / f"{model}.prometheus.json"
                _load(known, files.read_json(path, broken_ok=True))
                found = self._take(model, known, result, without)
                plain = {"counts": known.counts.to_dict(), "at": known.at, "last_seen": known.last_seen}
                files.write_json(path, plain, durable=False)
                return found

    # -- one reading

    def _take(self, model: str, known: _Model, result: list[Row], without: Collection[str]) -> Traffic:
        reading = read(self.names, model, result)
        where = f"of model {model!r} in Prometheus at {self.url}"
        if not reading.samples:
            raise UnavailableError(
                f"no series {where}: {self.names.requests}{{{self.names.select(model)}}} is empty",
                hint="is the router scraped, and are its metrics named so?",
            )
        now = reading.now
        versions = reading.scraped.keys()
        missed = {v: seen for v, seen in known.last_seen.items() if v not in versions and v not in without}
        gone = [version for version, seen in missed.items() if now - seen < MISSED_FOR_S]
        if gone:
            raise UnavailableError(f"the series of version {', '.join(sorted(gone))} {where} are gone")
        lost = sorted(dict(i).get("instance", str(i)) for i in reading.down & known.counts.instances)
        if lost:
            raise UnavailableError(f"the router's processes {', '.join(lost)} cannot be scraped: numbers {where} lack")
        at = min(reading.scraped.values())
        if now - at > self.stale_after_s:
            raise UnavailableError(
                f"the newest samples {where} are {now - at:.0f} s old, at most {self.stale_after_s:.0f} s expected",
                hint="Prometheus has stopped scraping the router, or does so more rarely: then raise this limit "
                "(prometheus_stale_s in the settings of Seldon)",
            )
        layouts = {frozenset(bounds) for bounds in reading.bounds.values()}
        if len(layouts) > 1:
            raise UnavailableError(
                f"the versions {', '.join(sorted(reading.bounds))} {where} count latency in different buckets, "
                "so they cannot be compared",
                hint="give the routers of all versions the same buckets",
            )
        earlier = self._earlier(model, known.counts.began) if known.counts.strangers(reading.samples) else {}
        known.counts.take(reading.samples, reading.starts, now, earlier)
        known.last_seen |= dict.fromkeys(versions, now)
        known.at = max(known.at, at)
        arms = arms_of(known.counts.totals, self.thresholds_ms)
        return Traffic(model=model, epoch=known.counts.name, at=known.at, arms=arms)

    def _earlier(self, model: str, began: float | None) -> dict[Labels, float]:
        """What each series had at the first reading, by Prometheus' own memory."""
        rows = self._ask(self.names.earlier(model), began)
        return {series_of(row.labels): row.value for row in rows if math.isfinite(row.value)}

    # -- the wire

    def _ask(self, query: str, at: float | None = None) -> list[Row]:
        import httpx

        asked = {"query": query} if at is None else {"query": query, "time": repr(at)}
        try:
            response = self._http().post(f"{self.url}/api/v1/query", data=asked, headers=self._bearer())
            told = response.json() if response.content else {}
        except (httpx.HTTPError, OSError) as error:
            raise UnavailableError(f"Prometheus at {self.url} does not answer: {error!r}") from error
        except ValueError as error:
            raise UnavailableError(
                f"Prometheus at {self.url} answered {response.status_code} and no JSON",
                hint="is this the address of Prometheus itself, not of a page in front of it?",
            ) from error
        if not isinstance(told, dict) or response.status_code != 200 or told.get("status") != "success":
            said = told.get("error") if isinstance(told, dict) else None
            raise UnavailableError(f"Prometheus at {self.url} answered {response.status_code}: {said or 'no reason'}")
        if told.get("warnings"):  # some of what was asked for is not in the answer
            raise UnavailableError(
                f"Prometheus at {self.url} answered in part: {'; '.join(map(str, told['warnings']))}"
            )
        try:
            data = told["data"]
            if data["resultType"] != "vector":
                raise ValueError(f"expected a vector, found a {data['resultType']}")
            return [Row(dict(row["metric"]), float(row["value"][0]), float(row["value"][1])) for row in data["result"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UnavailableError(f"the answer of Prometheus at {self.url} cannot be understood: {error!r}") from error

    def _http(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None:
                self._client = httpx.Client(verify=_tls(*self._tls), **self._options)
            return self._client

    def _bearer(self) -> dict[str, str]:
        token = self._token
        if self._token_file is not None:
            token = self._token_file.read_text(encoding="utf-8").strip()
        return {"Authorization": f"Bearer {token}"} if token else {}


def _tls(verify: bool | str, cert: str | tuple[str, str] | None) -> ssl.SSLContext | bool:
    import ssl

    if verify is False or (verify is True and cert is None):
        return verify
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    if cert is not None:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context


def _load(known: _Model, plain: Any) -> None:
    """What another process has read since, or this one before."""
    if not isinstance(plain, dict):
        return
    try:
        counts = Accumulator.from_dict(plain["counts"])
        seen = {str(version): float(at) for version, at in plain["last_seen"].items()}
        known.counts, known.at, known.last_seen = counts, float(plain["at"]), seen
    except (KeyError, TypeError, ValueError, AttributeError):
        return  # a memory nobody understands is none: a new epoch begins
