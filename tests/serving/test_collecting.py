"""Rows out of a version's pods: what its predictor says of them (DEMAND SRV-6, decision 0021)."""

from __future__ import annotations

from typing import Any

import fakeseldon
import pytest

from windtunnel.errors import DescriptionError
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.collector import sending
from windtunnel.serving.desired import Server, State
from windtunnel.serving.seldon import Seldon, collecting, manifest
from windtunnel.serving.seldon.split import PROBE

GIVEN: dict[str, Any] = {
    "image": "model-server:1",
    "registry": "http://registry",
    "collector": "https://wt-collector.ml.svc:8080/",
    "collector_secret": "windtunnel-collector",
    "collector_ca": "collector-tls",
}


def state(mirror: int = 0) -> State:
    arms = [Arm(str(n), f"sha256:{n:064x}", f"models:/visits/{n}", weight) for n, weight in ((1, 100), (2, 0))]
    release = Release("visits", arms[0], (arms[1],), token=3, rollout_id="r", lease_until=99.5, mirror=mirror)
    servers = {one.version: Server(one.digest, one.source, 0, True, True, {}) for one in arms}
    return desired.routed(State(release, servers=servers), now=1000.0)


def predictors(seldon: Seldon, mirror: int = 0) -> dict[str, Any]:
    made = manifest.deployment(state(mirror), seldon, None, "models")
    assert fakeseldon.problems(made) == []
    return {one["name"]: one for one in made["spec"]["predictors"]}


def environment(predictor: dict[str, Any], kind: str) -> dict[str, str]:
    (container,) = predictor["componentSpecs"][0]["spec"][kind]
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


def test_by_itself_our_server_sends_its_own_rows() -> None:
    import kubernetes_validate

    found = predictors(Seldon.of(GIVEN), mirror=30)
    for name, copies in (("v1", None), ("v2", "1")):
        assert "logger" not in found[name]["graph"]
        for kind in ("initContainers", "containers"):
            told = environment(found[name], kind)
            assert told[sending.URL] == GIVEN["collector"]
            assert told[sending.TOKEN] == "/etc/windtunnel/collector/token"
            assert told[sending.CA] == "/etc/windtunnel/collector-ca/ca.crt"
            assert told.get(sending.SHADOW) == copies
        spec = found[name]["componentSpecs"][0]["spec"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
        kubernetes_validate.validate(pod, "1.30", strict=True)
        (log,) = (one for one in spec["volumes"] if one["name"] == "windtunnel-predictions")
        assert log["emptyDir"]["sizeLimit"], "a log that grows must not end the node's other pods"
        assert collecting.PREDICTIONS in [one["mountPath"] for one in spec["containers"][0]["volumeMounts"]]


def test_seldons_logger_instead_and_copies_are_told_by_its_url() -> None:
    found = predictors(Seldon.of({**GIVEN, "collector_rows": "logger"}), mirror=30)
    url = "https://wt-collector.ml.svc:8080/v1/events"
    assert found["v1"]["graph"]["logger"] == {"url": url, "mode": "all"}
    assert found["v2"]["graph"]["logger"] == {"url": f"{url}?shadow=1", "mode": "all"}
    assert sending.URL not in environment(found["v1"], "containers")


def test_without_a_collector_nothing_is_said() -> None:
    given = {key: value for key, value in GIVEN.items() if not key.startswith("collector")}
    for one in predictors(Seldon.of(given)).values():
        assert "logger" not in one["graph"]
        assert sending.URL not in environment(one, "containers")
    own = predictors(Seldon.of({**given, "logger": "http://theirs", "logger_mode": "response"}))
    assert own["v1"]["graph"]["logger"] == {"url": "http://theirs", "mode": "response"}


def test_rows_do_not_come_twice() -> None:
    with pytest.raises(DescriptionError, match="collector and logger"):
        Seldon.of({**GIVEN, "logger": "http://theirs"})
    with pytest.raises(DescriptionError, match="collector_rows"):
        Seldon.of({**GIVEN, "collector_rows": "both"})


def test_our_probes_are_nobodys_predictions() -> None:
    """The name by which Seldon's executor leaves a request out of its log."""
    assert PROBE["Seldon-Skip-Logging"] == "true" and len(PROBE) == 2
