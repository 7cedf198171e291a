"""``visits`` on a cluster: the same description, trained in a pod and released on Seldon (``windtunnel cluster demo``).

What is otherwise than on one machine, and why: the table lies where an init container of the scheduler has written it;
images are those the demo has built; a cluster's servers start more slowly, and Prometheus counts only every few
seconds, so steps are longer; the benchmark, which starts a server beside the task, has no MLServer in Airflow's image;
gates on quality want labels, which nobody hands in there.
"""

from __future__ import annotations

import os
from typing import Any

from windtunnel import Model, __version__
from windtunnel_examples.visits.model import model as at_home

#: Where the tasks find the table; ``helm/windtunnel/values-airflow-demo.yaml`` mounts it.
TABLE = "/opt/airflow/demo/visits"
#: Secret with what a training pod needs to know; ``windtunnel.stack.laptop.secrets`` makes it.
SECRET = "windtunnel-demo"
STEPS = ((5, "20s", 10), (25, "20s", 80), (50, "20s", 100), (75, "20s", 100))


def describe(table: str, trainer: str) -> Model:
    """The description.

    Args:
        table: folder of the Parquet files.
        trainer: image of the training pod.
    """
    plain: dict[str, Any] = at_home.to_dict()
    plain["target"] = "kubernetes"
    plain["data"]["source"] = f"{table}/*.parquet"
    plain["training"] |= {
        "resources": {"cpu": 1, "memory": "1Gi", "disk": "1Gi"},
        "time_limit": "15m",
        "pod": {
            "image": trainer,
            "service_account": "windtunnel-training",
            "secrets": {
                "MLFLOW_TRACKING_USERNAME": f"{SECRET}/username",
                "MLFLOW_TRACKING_PASSWORD": f"{SECRET}/password",
                "AWS_ACCESS_KEY_ID": f"{SECRET}/aws-access-key-id",
                "AWS_SECRET_ACCESS_KEY": f"{SECRET}/aws-secret-access-key",
            },
        },
    }
    plain["evaluation"]["benchmark"] = None
    plain["serving"] |= {"cpu": 0.5, "memory": "768Mi", "ready_within": "10m", "log": True}
    rollout = plain["rollout"]
    rollout["steps"] = [{"weight": weight, "hold": hold, "min_requests": least} for weight, hold, least in STEPS]
    rollout["gates"] = [gate for gate in rollout["gates"] if gate["metric"] != "quality"]
    rollout |= {"first_watch": "20s", "look_every": "5s", "lease": "90s", "patience": "5m"}
    return Model.model_validate(plain)


model = describe(
    os.environ.get("WINDTUNNEL_DEMO_TABLE", TABLE),
    os.environ.get("WINDTUNNEL_DEMO_TRAINER", f"windtunnel/trainer:{__version__}"),
)
