"""How many servers a version has on Seldon Core 1: autoscalers and disruption budgets of its pods. Pure.

Fields of ``componentSpecs[]`` as Seldon Core 1.18 has them: ``hpaSpec`` (``metricsv2`` is autoscaling/v2), ``kedaSpec``
(a ScaledObject's, without its target), ``pdbSpec``. The operator takes ``kedaSpec`` before ``hpaSpec``, and where it
was installed without KEDA it makes neither: so ``kedaSpec`` is written only where the settings say that KEDA is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from windtunnel.serving.seldon.settings import Seldon
from windtunnel.serving.traffic.promnames import SELDON
from windtunnel.spec.serving import Scale, Serving

#: Window of rates and quantiles: two scrapes of the usual 30 s must lie in it.
_WINDOW = "2m"
#: Seconds between two looks of KEDA, and calm before servers are taken away.
_POLL_S, _CALM_S = 15, 300
_BUDGET = {"maxUnavailable": 1}


def refusals(serving: Serving, seldon: Seldon) -> list[str]:
    """What the settings cannot do of what the description asks."""
    scale = serving.scale
    if scale is None or not scale.measured:
        return []
    names = ", ".join(f"serving.scale.{name}" for name in scale.measured)
    found = []
    if seldon.autoscaler != "keda":
        found.append(f"{names}: Kubernetes' own autoscaler knows only the CPU; with KEDA set autoscaler = 'keda'")
    if not seldon.prometheus:
        found.append(f"{names}: KEDA reads it from Prometheus; set prometheus")
    return found


def settings(
    model: str, version: str, predictor: str, serving: Serving, seldon: Seldon, namespace: str
) -> dict[str, Any]:
    """``hpaSpec`` or ``kedaSpec`` of the version's component; neither where it has a fixed number of servers."""
    found: dict[str, Any] = {}
    if serving.maximum is not None:
        least = serving.least
        if seldon.autoscaler == "keda":
            found["kedaSpec"] = _keda(model, version, predictor, serving, seldon, least, namespace)
        else:
            found["hpaSpec"] = _hpa(serving, least)
    return found


def bounded(predictors: Sequence[dict[str, Any]], servings: Iterable[Serving]) -> None:
    """Put the one disruption budget of a model into the first of its predictors, in place: one server at a time when
    nodes are emptied. Of a single server it would say nothing; somebody else's stands in its place.

    Seldon's budget of a predictor covers the pods of *all* predictors (``createPdb`` selects by the SeldonDeployment),
    and pods that two budgets cover cannot be evicted at all: no node under them could be emptied.
    """
    components = [one for predictor in predictors for one in predictor["componentSpecs"]]
    for one in components:
        if one.get("pdbSpec") == _BUDGET:
            del one["pdbSpec"]
    several = any(max(serving.replicas, serving.minimum or 0) > 1 for serving in servings)
    if several and components and not any(one.get("pdbSpec") for one in components):
        components[0]["pdbSpec"] = dict(_BUDGET)


def only_ours(merged: dict[str, Any], ours: Mapping[str, Any]) -> None:
    """Of two autoscalers the one we did not ask for goes, in place: it is a former setting's."""
    for mine, other in (("hpaSpec", "kedaSpec"), ("kedaSpec", "hpaSpec")):
        if mine in ours and other not in ours:
            merged.pop(other, None)


def _hpa(serving: Serving, least: int) -> dict[str, Any]:
    found: dict[str, Any] = {"minReplicas": least, "maxReplicas": serving.maximum}
    if serving.scale is not None and serving.scale.cpu is not None:
        target = {"type": "Utilization", "averageUtilization": serving.scale.cpu}
        found["metricsv2"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    return found  # without metrics it is Kubernetes' own default, 80 % of the CPU


def _keda(
    model: str, version: str, predictor: str, serving: Serving, seldon: Seldon, least: int, namespace: str
) -> dict[str, Any]:
    scale = serving.scale or Scale()
    here = replace(SELDON, matchers="").only(namespace, seldon.prometheus_labels).matchers
    names = seldon.names
    executor = f'{SELDON.select(model)},predictor_name="{predictor}"{here}'
    if seldon.prometheus_names is not None:
        executor = f"{names.select(model)},{names.of_version(version, model)}{here}"
    server = f'model="{model}",version="{version}"{here}'
    triggers: list[dict[str, Any]] = []
    if scale.cpu is not None or not scale.measured:
        triggers.append({"type": "cpu", "metricType": "Utilization", "metadata": {"value": str(scale.cpu or 80)}})
    if scale.queue is not None:
        query = f"sum(windtunnel_server_running{{{server}}}) + sum(windtunnel_server_waiting{{{server}}})"
        triggers.append(_prometheus("queue", query, scale.queue, "AverageValue", seldon))
    if scale.rate is not None:
        query = f"sum(rate({names.requests}{{{executor}}}[{_WINDOW}]))"
        triggers.append(_prometheus("rate", query, scale.rate, "AverageValue", seldon))
    if scale.latency is not None:
        quantile = f"histogram_quantile(0.95, sum by (le) (rate({names.buckets}{{{executor}}}[{_WINDOW}])))"
        latency = scale.latency.total_seconds() * (1000 if names.unit == "ms" else 1)
        # Without requests it is no number: then it asks for nothing.
        query = f"({quantile} > 0) or vector(0)"
        triggers.append(_prometheus("latency", query, latency, "Value", seldon))
    calm = {"scaleDown": {"stabilizationWindowSeconds": _CALM_S}}
    return {
        "pollingInterval": _POLL_S,
        "cooldownPeriod": _CALM_S,
        "minReplicaCount": least,
        "maxReplicaCount": serving.maximum,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": calm}},
        "triggers": triggers,
    }


def _prometheus(name: str, query: str, threshold: float, kind: str, seldon: Seldon) -> dict[str, Any]:
    metadata = {
        "serverAddress": str(seldon.prometheus),
        "query": query,
        "threshold": f"{threshold:g}",
        "ignoreNullValues": "true",  # a version that nobody has called yet has no series
    }
    return {"type": "prometheus", "name": name, "metricType": kind, "metadata": metadata}
