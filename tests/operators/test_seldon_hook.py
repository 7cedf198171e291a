"""The connection to a cluster where Seldon serves: which API it means, and what *Test* says (DEMAND OPS-4)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fakecore2
import fakeseldon
import pytest

from windtunnel.serving.core2 import Core2Backend
from windtunnel_airflow.seldon import SeldonHook


@pytest.mark.parametrize(
    ("api", "fake", "right", "kind"),
    [
        ("core1", fakeseldon, "patch seldondeployments", "SeldonDeployment"),
        ("core2", fakecore2, "delete servers", "Server"),
    ],
)
def test_it_is_asked_what_a_release_by_its_api_does(
    api: str, fake: Any, right: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake.cluster() as cluster:
        extra = {"api": api, "image": "i", "registry": "r", "kubeconfig": cluster.kubeconfig(tmp_path / "config")}
        monkeypatch.setenv(
            "AIRFLOW_CONN_WINDTUNNEL_SELDON", json.dumps({"conn_type": "windtunnel_seldon", "extra": extra})
        )
        hook = SeldonHook()
        assert isinstance(hook.get_conn(), Core2Backend) == (api == "core2")
        good, words = hook.test_connection()
        assert good and "no Prometheus is set" in words
        verb, _, plural = right.partition(" ")
        cluster.denied.append(right)
        assert hook.test_connection() == (False, f"May not {verb} {plural} in namespace models")
        del cluster.kinds[plural]
        good, words = hook.test_connection()
        assert not good and kind in words
