"""The chart with what ``windtunnel cluster demo`` sets."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import yaml


def test_the_presets_of_the_demo_are_taken_and_valid(helpers: Any) -> None:
    """DEMAND OPS-2: small and the demo's values after it, as Helm puts them together."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    demo = yaml.safe_load((helpers.CHART / "values-demo.yaml").read_text(encoding="utf-8"))
    objects = helpers.render(helpers.merged(helpers.preset("small"), demo))
    for version, one in itertools.product(("1.30", "1.34"), objects):
        kubernetes_validate.validate(one, version, strict=True)
    subjects = helpers.of(objects, "RoleBinding", "wt-training")["subjects"]
    assert {one["name"] for one in subjects} == {"airflow-scheduler", "airflow-triggerer"}
    (collector,) = helpers.of(objects, "StatefulSet", "wt-collector")["spec"]["template"]["spec"]["containers"]
    assert "--to=s3://windtunnel/predictions" in collector["args"] and "--namespace=windtunnel" in collector["args"]
    egress = helpers.of(objects, "NetworkPolicy", "wt-collector")["spec"]["egress"]
    assert 7070 in {port["port"] for rule in egress for port in rule["ports"]}, "the object store is reached"
    settings = helpers.of(objects, "ConfigMap", "wt-guard")["data"]["seldon.toml"]
    assert json.dumps("windtunnel/model-server:0.1.0") in settings
    # The demo's own name: secrets that the command makes.
    named = {
        one["valueFrom"]["secretKeyRef"]["name"]
        for one in collector["env"]
        if "secretKeyRef" in one.get("valueFrom", {})
    }
    assert named == {"windtunnel-demo"}
