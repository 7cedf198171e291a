"""One maker's model through its whole life, in a process of its own; the servers of HOME run.

    python makers.py HOME MAKER

Trained, checked, judged, registered, first release, a second version step by step against the first, watched: by
``dag.test`` with the stack's own configuration of Airflow. MLflow with the governed store, the training runner, Envoy,
the meter, the guard and the model servers are real, and callers ask through Envoy all the time. Prints one JSON object.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CASES = Path(__file__).parent
HOME, MAKER = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(CASES))

from windtunnel.home import Home  # noqa: E402
from windtunnel.serving.local import servers  # noqa: E402
from windtunnel.stackfile import StackFile  # noqa: E402

PLAN = {"name": "plan", "kind": "categorical", "categories": ["free", "paid"]}
FLAG = {"name": "flag", "kind": "boolean"}
NUMBERS: list[Any] = [{"name": "a"}, {"name": "n", "minimum": 0, "maximum": 9}]
#: features, target, rules of the evaluation, loss of the quality gate, watched metric.
MAKERS: dict[str, tuple[list[Any], str, list[dict[str, Any]], str, str]] = {
    "sklearn": ([*NUMBERS, FLAG, PLAN], "word", [{"name": "accuracy", "minimum": 0.8}], "zero_one", "accuracy"),
    "xgboost": (
        [*NUMBERS, FLAG],
        "high",
        [{"name": "log_loss", "maximum": 0.65, "margin": 0.5}, {"name": "roc_auc", "minimum": 0.8}],
        "log",
        "log_loss",
    ),
    "lightgbm": ([*NUMBERS, FLAG], "high", [{"name": "accuracy", "minimum": 0.8}], "zero_one", "accuracy"),
    "onnx": (NUMBERS, "y", [{"name": "rmse", "maximum": 2.0}], "absolute", "rmse"),
    "torch": (NUMBERS, "y", [{"name": "rmse", "maximum": 2.0}], "squared", "rmse"),
    "plain": ([NUMBERS[0], PLAN], "y", [{"name": "mae", "maximum": 2.0}], "absolute", "mae"),
}


def people(count: int, seed: int) -> pd.DataFrame:
    """Rows as a team has them: whole numbers, flags and words among them."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "a": random.normal(size=count),
            "n": random.integers(0, 10, count),
            "flag": random.random(count) < 0.4,
            "plan": random.choice(["free", "paid"], count),
        }
    )
    frame["y"] = 2 * frame["a"] + 0.4 * frame["n"] + (frame["plan"] == "paid") + random.normal(size=count) * 0.2
    frame["high"] = (frame["y"] > 2.3).astype("int64")
    frame["word"] = np.where(frame["y"] > 2.3, "high", "low")
    return frame


def description(table: Path, environment: str | None) -> Any:
    from windtunnel import Model

    features, target, metrics, loss, watched = MAKERS[MAKER]
    return Model.model_validate(
        {
            "name": MAKER,
            "owner": "tests",
            "data": {"source": str(table), "time": "t", "target": target, "features": features},
            "training": {
                "entry_point": f"wt_makers:{MAKER}",
                "params": {"rounds": 10},
                "time_limit": "5m",
                "resources": {"memory": "3Gi"},
                "trust": ["wt_line"] if MAKER == "plain" else [],
            },
            "evaluation": {"metrics": metrics, "benchmark": {"requests": 20, "rows_per_request": 5}},
            "serving": {
                "flush": "1s", "drain": "1s", "memory": "2Gi", "ready_within": "3m", "environment": environment,
            },
            "rollout": {
                "steps": [
                    {"weight": 25, "hold": "3s", "min_requests": 20},
                    {"weight": 50, "hold": "3s", "min_requests": 20},
                ],
                "gates": [
                    {"metric": "errors", "margin": 0.1},
                    {"metric": "quality", "margin": 0.5, "loss": loss, "required": False},
                    {"metric": "prediction", "margin": 0.5, "required": False},
                ],
                "first_watch": "3s",
                "look_every": "0.5s",
                "lease": "60s",
                "on_inconclusive": "hold",
                "patience": "2m",
            },
            "monitoring": {
                "window": "40s",
                "lateness": "1s",
                "min_rows": 100,
                "performance": {"metric": watched, "tolerance": 0.5, "min_coverage": 0.1},
                "retrain": None,
            },
        }
    )  # fmt: skip


class Callers:
    """They ask for predictions without end, and soon say what came true."""

    def __init__(self, home: Home, features: list[str], target: str) -> None:
        self.home, self.features, self.target = home, features, target
        self.port = StackFile.read(home).ports["envoy"]
        self.answers: Counter[tuple[str, int]] = Counter()
        self.problems: Counter[str] = Counter()
        self.outputs: dict[str, list[str]] = {}
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._call, args=(seed,), daemon=True) for seed in (1, 2)]

    def __enter__(self) -> Callers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(60)

    def _call(self, seed: int) -> None:
        from windtunnel.serving.predictions.labels import Labels

        rows = people(2000, 100 + seed).to_dict("records")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        known: list[dict[str, Any]] = []
        told = time.monotonic()
        for at in range(10**9):
            if self.over.wait(0.04):
                break
            row = rows[at % len(rows)]
            body = json.dumps({"inputs": servers.tensors([{name: row[name] for name in self.features}])})
            try:
                connection.request("POST", f"/v2/models/{MAKER}/infer", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.problems[type(error).__name__] += 1
                continue
            version = answer.headers.get("x-windtunnel-version") or "-"
            self.answers[version, answer.status] += 1
            if answer.status == 200:
                said = json.loads(text)
                self.outputs[version] = [f"{one['name']} {one['datatype']}" for one in said["outputs"]]
                known.append(
                    {
                        "prediction_id": said["parameters"]["prediction_ids"][0],
                        "label": row[self.target],
                        "label_time": time.time(),
                    }
                )
            elif self.outputs:  # until then there is nobody to answer
                self.problems[f"{answer.status}: {text[:200].decode(errors='replace')}"] += 1
            if known and time.monotonic() - told > 2:
                Labels(self.home.labels).append(MAKER, known)
                known, told = [], time.monotonic()
        connection.close()


def states(run: Any) -> dict[str, str]:
    return {ti.task_id: str(getattr(ti.state, "value", ti.state)) for ti in run.get_task_instances()}


def fly(dag: Any, **conf: Any) -> dict[str, Any]:
    began = time.monotonic()
    run = dag.test(run_conf=conf or None)
    state = str(getattr(run.state, "value", run.state))
    return {"state": state, "tasks": states(run), "seconds": round(time.monotonic() - began, 1)}


def main() -> dict[str, Any]:
    from windtunnel.registry import connect
    from windtunnel_airflow import lifecycle

    home = Home(HOME)
    table = HOME / f"{MAKER}.parquet"
    frame = people(2000, 7)
    frame.insert(0, "t", 1.7e9 + np.arange(float(len(frame))))
    frame.to_parquet(table)
    own = MAKER if (home.serving_environment(MAKER) / "bin" / "python").exists() else None
    model = description(table, own)
    (home.dags / f"{MAKER}.json").write_text(json.dumps(model.to_dict()))
    (home.dags / f"{MAKER}_dags.py").write_text(
        '"""DAGs of one model."""\nimport json, pathlib\nfrom windtunnel_airflow import lifecycle\n'
        f"lifecycle(json.loads(pathlib.Path(__file__).with_name('{MAKER}.json').read_text()))\n"
    )
    dags = lifecycle(model)
    registry = connect.from_home(home)
    story: dict[str, Any] = {}

    def verdicts() -> list[dict[str, Any]]:
        keys = ("kind", "outcome", "reason", "version")
        return [{key: posted.verdict.to_dict()[key] for key in keys} for posted in registry.verdicts(MAKER, limit=100)]

    def flown(name: str, stage: str, **conf: Any) -> bool:
        story[name] = fly(dags[f"{MAKER}.{stage}"], **conf)
        return bool(story[name]["state"] == "success")

    with Callers(home, model.data.feature_names, model.data.target) as callers:
        whole = (
            flown("train", "train", reason="the first")
            and flown("release", "release")
            and flown("train again", "train", reason="more rounds", params={"rounds": 20})
            and flown("release again", "release")
        )
        story["watched"] = 0
        end = time.monotonic() + 300
        while whole and time.monotonic() < end:
            flown("watch", "watch")
            if story["watch"]["tasks"]["window"] == "skipped":
                time.sleep(1.0)
                continue
            story["watched"] += 1
            # Windows that began before the second version had requests say little of it.
            if any(one["kind"] == "performance" and one["outcome"] != "INCONCLUSIVE" for one in verdicts()):
                break
    story["versions"] = {one.version: one.state for one in registry.versions(MAKER)}
    story["verdicts"] = verdicts()
    story["answers"] = {f"{version} {status}": n for (version, status), n in sorted(callers.answers.items())}
    story["problems"] = dict(callers.problems)
    story["outputs"] = callers.outputs
    return story


if __name__ == "__main__":
    found = main()
    print("STORY " + json.dumps(found), flush=True)
