"""Which numbers raise which alert, by Prometheus' own tester of rules (``promtool``, in Debian's ``prometheus``)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no program 'promtool' here: apt-get install prometheus"
)
COLLECTOR = 'job="wt-collector",namespace="ml",instance="0"'
REPLICAS = "kube_deployment_status_replicas_available"
SPOOL = 'namespace="ml",persistentvolumeclaim="spool-wt-collector-1"'


def case(helpers: Any, folder: Path, series: dict[str, str], at: str, raised: set[str]) -> None:
    """With these series, and the collector and guard in ``production``, exactly these alerts are raised then."""
    every = helpers.merged(helpers.preset("production+guard"), helpers.preset("production+collector"))
    objects = helpers.render(every)
    rules = [
        group
        for name in ("wt-registry", "wt-collector")
        for group in helpers.of(objects, "PrometheusRule", name)["spec"]["groups"]
    ]
    (folder / "rules.yaml").write_text(json.dumps({"groups": rules}))
    asked = [rule for group in rules for rule in group["rules"] if "Registry" not in rule["alert"]]
    expected = [
        {
            "eval_time": at,
            "alertname": rule["alert"],
            "exp_alerts": [{"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}]
            if rule["alert"] in raised
            else [],
        }
        for rule in asked
    ]
    assert raised <= {rule["alert"] for rule in asked}
    told = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": expected,
            }
        ],
    }
    (folder / "test.yaml").write_text(json.dumps(told))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def well(**other: str) -> dict[str, str]:
    """What is scraped where all is well, but for ``other``: by metric, with the labels that it has here."""
    found = {
        f"up{{{COLLECTOR}}}": "1x60",
        'up{job="wt-collector",namespace="ml",instance="1"}': "1x60",
        f"windtunnel_collector_flush_problem{{{COLLECTOR}}}": "0x60",
        f"windtunnel_collector_flush_age_seconds{{{COLLECTOR}}}": "9x60",
        f"windtunnel_collector_peers_away{{{COLLECTOR}}}": "0x60",
        f"windtunnel_collector_rows_total{{{COLLECTOR}}}": "0+600x60",
        f"windtunnel_collector_unasked_total{{{COLLECTOR}}}": "0+1x60",
        f"windtunnel_collector_unpaired_total{{{COLLECTOR}}}": "0x60",
        f'windtunnel_collector_requests_total{{{COLLECTOR},route="/",outcome="taken"}}': "0+600x60",
        f'windtunnel_collector_requests_total{{{COLLECTOR},route="/",outcome="ignored"}}': "0+9x60",
        f"kubelet_volume_stats_available_bytes{{{SPOOL}}}": "60x60",
        f"kubelet_volume_stats_capacity_bytes{{{SPOOL}}}": "100x60",
        f'{REPLICAS}{{namespace="ml",deployment="wt-registry"}}': "2x60",
        f'{REPLICAS}{{namespace="ml",deployment="wt-guard"}}': "2x60",
    }
    for name, values in other.items():
        (key,) = [key for key in found if key.startswith((f"windtunnel_collector_{name}{{", f"kubelet_{name}{{"))]
        found[key] = values
    return found


def test_where_all_is_well_nothing_is_raised(helpers: Any, tmp_path: Path) -> None:
    case(helpers, tmp_path, well(), "40m", set())


@pytest.mark.parametrize(
    ("other", "raised"),
    [
        ({"flush_problem": "1x60"}, {"WindtunnelCollectorStuck"}),
        ({"flush_age_seconds": "0+60x60"}, {"WindtunnelCollectorBehind"}),
        ({"flush_age_seconds": "329x60"}, set()),
        ({"peers_away": "1x60"}, {"WindtunnelCollectorPeerAway"}),
        ({"unasked_total": "0+6x60"}, set()),
        ({"unasked_total": "0+4x60", "unpaired_total": "0+4x60"}, {"WindtunnelCollectorHalves"}),
        ({"volume_stats_available_bytes": "9x60"}, {"WindtunnelCollectorVolumeFull"}),
    ],
)
def test_what_the_collector_counts(other: dict[str, str], raised: set[str], helpers: Any, tmp_path: Path) -> None:
    case(helpers, tmp_path, well(**other), "40m", raised)


@pytest.mark.parametrize(
    ("outcome", "raised"),
    [("busy", "WindtunnelCollectorRefuses"), ("disk", "WindtunnelCollectorRefuses")]
    + [(outcome, "WindtunnelCollectorTurnsAway") for outcome in ("bad", "failed", "large", "stranger")],
)
def test_what_the_collector_answers(outcome: str, raised: str, helpers: Any, tmp_path: Path) -> None:
    refused = f'windtunnel_collector_requests_total{{{COLLECTOR},route="/",outcome="{outcome}"}}'
    case(helpers, tmp_path, {**well(), refused: "0+1x60"}, "40m", {raised})


def test_collectors_that_are_gone(helpers: Any, tmp_path: Path) -> None:
    one = {**well(), f"up{{{COLLECTOR}}}": "0x60"}
    case(helpers, tmp_path, one, "40m", {"WindtunnelCollectorMissing"})
    none = {key: values for key, values in well().items() if "collector" not in key}
    case(helpers, tmp_path, none, "40m", {"WindtunnelCollectorDown"})


@pytest.mark.parametrize(
    ("counted", "raised"),
    [
        ({"wt-registry": 2, "wt-guard": 0}, {"WindtunnelGuardAway", "WindtunnelGuardAlone"}),
        ({"wt-registry": 2, "wt-guard": 1}, {"WindtunnelGuardAlone"}),
        ({"wt-registry": 2}, {"WindtunnelGuardAway"}),
        ({"wt-registry": 0}, {"WindtunnelGuardAway"}),
        ({}, set()),
    ],
    ids=["none ready", "one of two", "no Deployment", "nor a server", "nobody counts"],
)
def test_a_guard_that_nobody_counts_is_not_away(
    counted: dict[str, int], raised: set[str], helpers: Any, tmp_path: Path
) -> None:
    """Without kube-state-metrics nothing is known of it."""
    series = {key: values for key, values in well().items() if not key.startswith(REPLICAS)}
    series |= {f'{REPLICAS}{{namespace="ml",deployment="{name}"}}': f"{n}x60" for name, n in counted.items()}
    case(helpers, tmp_path, series, "40m", raised)
