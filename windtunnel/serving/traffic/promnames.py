"""How routers name their metrics in Prometheus: which counters, which labels, which of their values mean what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from windtunnel.names import check_model_name

#: gRPC's status names, by whose fault they are; all others but ``OK`` are the server's.
_CLIENTS_FAULT = frozenset(
    {
        "canceled", "invalidargument", "notfound", "alreadyexists", "permissiondenied", "unauthenticated",
        "failedprecondition", "outofrange",
    }
)  # fmt: skip
_SERVERS_FAULT = frozenset(
    {"unknown", "deadlineexceeded", "resourceexhausted", "aborted", "unimplemented", "internal", "unavailable",
     "dataloss"}
)  # fmt: skip

Answer = Literal["ok", "client", "error"]
#: What scrape configurations call a pod's namespace: Prometheus's operator, and the older examples by hand.
_NAMESPACE_LABELS = ("namespace", "kubernetes_namespace")


def _quoted(value: str) -> str:
    """A string of PromQL."""
    return '"' + value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"'


def _parentheses(pattern: str) -> Iterator[tuple[int, str]]:
    """Where a regular expression has parentheses that group: neither escaped nor in a class of characters."""
    inside = escaped = False
    for at, sign in enumerate(pattern):
        if escaped:
            escaped = False
        elif sign == "\\":
            escaped = True
        elif sign in "[]":
            inside = sign == "["
        elif sign in "()" and not inside:
            yield at, sign


def _groups(pattern: str) -> Iterator[tuple[int, str]]:
    """The opening ones that capture."""
    for at, sign in _parentheses(pattern):
        if sign == "(" and (pattern[at + 1 : at + 2] != "?" or pattern[at + 1 : at + 3] == "?P"):
            yield at, sign


@dataclass(frozen=True, slots=True)
class Names:
    """Where a router's numbers of one model are in Prometheus.

    ``{model}`` stands for the model's name in ``matchers`` and ``version``.

    Attributes:
        requests: counter of answers, by ``code`` (may be the ``_count`` of a histogram).
        buckets: histogram of latencies, its ``_bucket`` series.
        matchers: what selects the model's series, as in PromQL's braces.
        version_label, version: label that tells the versions apart, and a pattern its whole value must match; group 1
            is the version. Series with other values are left alone.
        code: label with the HTTP status, its class, or gRPC's status.
        unit: of the buckets' bounds: ``s`` or ``ms``.
        instance: labels that name one process which counts.
        start: PromQL for the time (seconds since the epoch) at which each instance's counters began, or None where the
            router does not tell; ``{matchers}`` and ``{requests}`` may stand in it.
        codes: what a value of ``code`` means, where it is neither an HTTP nor a gRPC status.
    """

    requests: str
    buckets: str
    matchers: str
    version_label: str
    version: str
    code: str
    unit: Literal["s", "ms"]
    instance: tuple[str, ...] = ("instance",)
    start: str | None = None
    codes: Mapping[str, Answer] | None = None

    def select(self, model: str) -> str:
        """The label matchers of ``model``.

        Raises:
            DescriptionError: it is no name of a model.
        """
        return self.matchers.replace("{model}", check_model_name(model))

    def only(self, namespace: str, labels: Mapping[str, str] | None = None) -> Names:
        """Of one namespace: a model of that name may be served in another one, too, and scraped by the same Prometheus.

        Args:
            labels: what all its series have, ``{namespace}`` stands for the namespace; None: ``namespace`` and
                ``kubernetes_namespace`` are its name, where a series has them. With none at all nothing is told apart.
        """
        if labels is None:
            usual = [f'{label}=~"|{namespace}"' for label in _NAMESPACE_LABELS]
            return replace(self, matchers=",".join([self.matchers, *usual]))
        told = {label: value.replace("{namespace}", namespace) for label, value in labels.items()}
        return replace(self, matchers=",".join([self.matchers, *(f"{k}={_quoted(v)}" for k, v in told.items())]))

    def query(self, model: str) -> str:
        """One PromQL expression for everything a reading needs, so that all of it is of one instant.

        Label ``wt`` tells the parts apart: none on the counters themselves, ``at`` on the times of their last samples,
        ``start`` on the times at which processes began, ``down`` on targets that could not be scraped.
        """
        where = self.select(model)
        parts = [
            f'{{__name__=~"{self.requests}|{self.buckets}",{where}}}',
            f'label_replace(timestamp({self.requests}{{{where}}}), "wt", "at", "", "")',
            'label_replace(up == 0, "wt", "down", "", "")',
        ]
        if self.start:
            start = self.start.replace("{matchers}", where).replace("{requests}", f"{self.requests}{{{where}}}")
            parts.append(f'label_replace({start}, "wt", "start", "", "")')
        return " or ".join(parts)

    def earlier(self, model: str) -> str:
        """What the model's counters had, also those not scraped at that moment."""
        return f'last_over_time({{__name__=~"{self.requests}|{self.buckets}",{self.select(model)}}}[6h])'

    def version_of(self, labels: Mapping[str, str], model: str) -> str | None:
        """The version a series is of; None when it is of none of the model's."""
        found = re.fullmatch(self.version.replace("{model}", re.escape(model)), labels.get(self.version_label, ""))
        return found[1] if found else None

    def of_version(self, version: str, model: str) -> str:
        """The label matcher of one version's series: ``version`` with its group replaced by what it shall be."""
        pattern = self.version.replace("{model}", re.escape(model))
        begin = next(at for at, _ in _groups(pattern))
        depth, end = 0, begin
        for at, sign in _parentheses(pattern):
            if at >= begin:
                depth += 1 if sign == "(" else -1
                if depth == 0:
                    end = at
                    break
        return f"{self.version_label}=~{_quoted(pattern[: begin + 1] + re.escape(version) + pattern[end:])}"

    def answer(self, code: str) -> Answer | None:
        """Whose fault an answer was; None for a value nobody knows."""
        if self.codes is not None and code in self.codes:
            return self.codes[code]
        if re.fullmatch(r"[1-5](\d\d|xx)?", code):
            return {"5": "error", "4": "client"}.get(code[0], "ok")  # type: ignore[return-value]
        if code == "0":
            return "error"  # no answer at all
        name = re.sub(r"[^a-z]", "", code.lower())
        if name == "ok":
            return "ok"
        if name in _CLIENTS_FAULT:
            return "client"
        return "error" if name in _SERVERS_FAULT else None


#: What Go's and Python's client libraries say by themselves.
_START = "process_start_time_seconds and on (instance) {requests}"

#: Seldon Core's executor, requests as they arrived at a predictor: one predictor per version, named ``3`` or ``v3``. A
#: server that does not answer at all is an error here.
SELDON = Names(
    requests="seldon_api_executor_server_requests_seconds_count",
    buckets="seldon_api_executor_server_requests_seconds_bucket",
    matchers='deployment_name="{model}",service=~"predictions|/inference[.]GRPCInferenceService/ModelInfer"',
    version_label="predictor_name",
    version=r"v?(\w+)",
    code="code",
    unit="s",
    start=_START,
)
#: Seldon Core's executor, its own calls of the model. Calls without any answer (a refused connection) are not in it:
#: use it only beside ``SELDON``.
SELDON_CLIENT = replace(
    SELDON,
    requests="seldon_api_executor_client_requests_seconds_count",
    buckets="seldon_api_executor_client_requests_seconds_bucket",
    matchers='deployment_name="{model}"',
)
#: Seldon Core 2's agent, requests as they arrived at a version's own Server, ``MODEL-v3``: a model server that does not
#: answer is an error here. Envoy tries a request that failed with 5xx again, up to five times: each try is counted.
SELDON_CORE2 = Names(
    requests="seldon_model_infer_api_seconds_count",
    buckets="seldon_model_infer_api_seconds_bucket",
    matchers='server=~"{model}-v[0-9a-z]+",method=~"post|grpc"',
    version_label="server",
    version=r"{model}-v([0-9a-z]+)",
    code="code",
    unit="s",
    start=_START,
)
#: Envoy's clusters, one per version, named ``MODEL/v3`` or ``MODEL_v3``. A dot will not do: Envoy takes what follows
#: it for a part of the metric's name (give such a cluster an ``alt_stat_name``).
ENVOY = Names(
    requests="envoy_cluster_upstream_rq_xx",
    buckets="envoy_cluster_upstream_rq_time_bucket",
    matchers='envoy_cluster_name=~"{model}[/_]v?[0-9A-Za-z]+"',
    version_label="envoy_cluster_name",
    version=r"{model}[/_]v?(\w+)",
    code="envoy_response_code_class",
    unit="ms",
)
