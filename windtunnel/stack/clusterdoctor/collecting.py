"""The collector of predictions, where Seldon's settings name one: reached, publishing, and with the token of senders.

Asked as model servers ask it where this process can; else through the API, by its Service. Nothing is left behind.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from windtunnel.errors import ForbiddenError, WindtunnelError
from windtunnel.kube.answers import Answer
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import SERVICE
from windtunnel.serving.collector.admission import Limits
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.clusterdoctor.secrets import Beside
from windtunnel.stack.finding import Finding

if TYPE_CHECKING:
    from windtunnel.serving.seldon import Seldon

TIMEOUT_S = 5.0
#: From this share of what it may hold on it is told.
NEARLY = 0.8
PAGE = "docs/how-to/collect-predictions.md"
#: A mark that no collector takes: who is let in learns that it is bad, who is not, that the token is.
_PROBE = "/v1/marks/windtunnel-doctor/0-0.json"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads.

    Attributes:
        service, namespace: the Service that a name inside a cluster stands for; None: it is no such name.
    """

    scheme: str
    port: int
    service: str | None
    namespace: str | None


def place_of(url: str, namespace: str) -> Place:
    """Take a collector's URL apart.

    Args:
        namespace: of the pods that send; a name without one is looked for there.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    words = (parts.hostname or "").split(".")
    inside = len(words) <= 2 or words[2] == "svc"
    if not words[0] or not inside or re.fullmatch(r"[\d.]+|localhost", parts.hostname or ""):
        return Place(parts.scheme, port, None, None)
    return Place(parts.scheme, port, words[0], words[1] if len(words) > 1 else namespace)


def collector(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """It answers, publishes, and has room; senders can show its token."""
    seldon = cluster.seldon
    if seldon is None or seldon.collector is None:
        return
    url = seldon.collector.rstrip("/")
    secrets = {name: Beside(client, name) for name in (seldon.collector_secret, seldon.collector_ca) if name}
    authority = secrets[seldon.collector_ca].text("ca.crt") if seldon.collector_ca else None
    with_token = secrets[seldon.collector_secret].text("token") if seldon.collector_secret else None
    asked = _direct(url, "/readyz", authority)
    direct = isinstance(asked, Answer)
    if direct:
        yield from _judged(url, asked, _direct(url, "/metrics", authority))
    else:
        yield from _through(client, url, str(asked))
    if seldon.collector_rows == "server":
        yield _token(seldon, secrets, url, authority, with_token, direct=direct)
    if seldon.collector_ca:
        yield secrets[seldon.collector_ca].finding("collector authority", "ca.crt", client.namespace)


def _through(client: Client, url: str, why: str) -> Iterator[Finding]:
    place = place_of(url, client.namespace)
    if place.service is None or place.namespace is None:
        mend = f"is it the address that pods reach? Run the doctor in a pod, or see {PAGE}"
        yield Finding("collector", "fail", f"{url} does not answer: {why}", mend)
        return
    there = client
    if place.namespace != client.namespace:
        there = Client(replace(client.access, namespace=place.namespace), patience_s=5.0)
    name = f"https:{place.service}" if place.scheme == "https" else place.service
    try:
        ready = there.through(name, str(place.port), "GET", "/readyz", timeout_s=TIMEOUT_S)
        if ready.told:  # the API's own word, not the collector's
            yield _nobody(place, url, ready, there_is=ready.status == 404 and _is_there(there, place.service))
            return
        numbers = there.through(name, str(place.port), "GET", "/metrics", timeout_s=TIMEOUT_S)
    except WindtunnelError as error:
        yield Finding("collector", "fail", error.message, error.hint or f"see {PAGE}")
        return
    yield from _judged(f"Service {place.service} of namespace {place.namespace}", ready, numbers)


def _is_there(client: Client, service: str) -> bool:
    """An API says "no such service" also where nothing stands behind it yet; who may look finds out."""
    try:
        return client.get(SERVICE, service) is not None
    except ForbiddenError:
        return False


def _nobody(place: Place, url: str, answer: Answer, *, there_is: bool) -> Finding:
    where = f"service {place.service} of namespace {place.namespace}"
    if answer.status in (401, 403):
        mend = "without get on services/proxy there it is not looked at from outside: run the doctor in a pod"
        return Finding("collector", "warn", f"{where} may not be asked: {answer.message}", mend)
    if answer.status == 404 and not there_is:
        mend = f"the chart makes it (collector.enabled); or mend collector in the settings of Seldon: {url}"
        return Finding("collector", "fail", f"there is no {where}", mend)
    mend = f"kubectl get pods -n {place.namespace}: is it running, and does its port say {place.port}?"
    return Finding(
        "collector", "fail", f"nobody answers behind {where}{'' if there_is else f': {answer.message}'}", mend
    )


def _judged(where: str, ready: Any, numbers: Any) -> Iterator[Finding]:
    """By its own word and its numbers."""
    if ready.status != 200:
        told = ready.body.get("error") if isinstance(ready.body, dict) else ready.message
        yield Finding("collector", "fail", f"{where} is not ready ({ready.status}): {told}", f"see its log, and {PAGE}")
        return
    text = numbers.body if isinstance(numbers, Answer) and isinstance(numbers.body, str) else ""
    yield judge_numbers(where, text)


def judge_numbers(where: str, text: str) -> Finding:
    """A collector's state, by its own metrics.

    Args:
        text: as ``/metrics`` gives them; empty where it gave none.
    """
    found = {name: float(value) for name, value in re.findall(r"^(windtunnel_collector_\S+) (\S+)$", text, re.M)}
    if "windtunnel_collector_held_bytes" not in found:
        mend = f"is this a collector? See {PAGE}"
        return Finding("collector", "fail", f"{where} answers, but has none of a collector's numbers", mend)
    if found.get("windtunnel_collector_flush_problem"):
        mend = "see its log: its object store is away, full or refuses; what came is kept meanwhile"
        return Finding("collector", "fail", f"{where} cannot publish", mend)
    held, most = found["windtunnel_collector_held_bytes"], Limits().held_bytes
    turned = sum(n for name, n in found.items() if "_requests_total{" in name and re.search(r'"(busy|disk)"', name))
    text = f"{where} holds {words_of(held)} that are not published yet"
    if held >= NEARLY * most:
        mend = "it refuses what comes beyond --max-held: more disk, sample (--sample), or find why it publishes slowly"
        return Finding("collector", "warn", f"{text}; {words_of(most)} is the usual limit", mend)
    if turned:
        mend = "more comes than its volume takes: a faster one, sample (--sample), or collector_rows = 'server'"
        return Finding("collector", "warn", f"{text}; it turned {turned:.0f} requests away since it started", mend)
    return Finding("collector", "ok", text)


def words_of(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count:.0f} bytes"


def _token(
    seldon: Seldon, secrets: Mapping[str, Beside], url: str, authority: str | None, token: str | None, *, direct: bool
) -> Finding:
    name = "collector token"
    if not seldon.collector_secret:
        text = "collector_secret is not set: model servers send without a token"
        mend = f"make a Secret with the collector's token beside the models, and name it: {PAGE}"
        refused = direct and _knock(url, authority, None) == 401
        return Finding(name, "fail" if refused else "warn", f"{text}{', and it refuses them' if refused else ''}", mend)
    secret = secrets[seldon.collector_secret]
    seen = secret.finding(name, "token", secret.namespace)
    if seen.result != "ok" or token is None or not direct:
        return seen
    if _knock(url, authority, token) == 401:
        mend = f"put the collector's own token into Secret {secret.name} of namespace {secret.namespace}"
        return Finding(name, "fail", f"the collector does not know the token of Secret {secret.name}", mend)
    return Finding(name, "ok", f"the collector takes that of Secret {secret.name}")


def _http(authority: str | None) -> Any:
    import httpx

    try:
        verify: Any = ssl.create_default_context(cadata=authority) if authority else True
    except ssl.SSLError:
        verify = True
    return httpx.Client(timeout=TIMEOUT_S, verify=verify, trust_env=False)


def _direct(url: str, path: str, authority: str | None) -> Answer | str:
    """The answer; text: why there is none."""
    import httpx

    try:
        with _http(authority) as client:
            answer = client.get(url + path)
    except (httpx.HTTPError, OSError, httpx.InvalidURL) as error:
        return repr(error)
    return Answer.of(answer.status_code, answer.content, answer.headers)


def _knock(url: str, authority: str | None, token: str | None) -> int:
    """Status of a mark that is none; 0: no answer."""
    import httpx

    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with _http(authority) as client:
            return int(client.put(url + _PROBE, content=b"{}", headers=headers).status_code)
    except (httpx.HTTPError, OSError, httpx.InvalidURL, ValueError):
        return 0
