"""Ask the model ``sea`` for predictions, row by row of ``sea.csv``, and hand in the outcome of each as its label.

``python ask.py [REQUESTS PER SECOND]``; Ctrl-C ends it and prints who answered.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

import httpx
import pandas as pd

from windtunnel.home import Home
from windtunnel.serving.predictions.labels import Labels
from windtunnel.stackfile import StackFile

FEATURES = ("month", "month_ago", "year_ago")


def body(row: dict[str, float]) -> dict[str, object]:
    """One row in the Open Inference Protocol: one tensor per feature."""
    return {
        "inputs": [{"name": name, "shape": [1], "datatype": "FP64", "data": [float(row[name])]} for name in FEATURES]
    }


def main(rate: float) -> None:
    home = Home.find()
    url = f"{StackFile.read(home).urls['inference']}/v2/models/sea/infer"
    answers: Counter[str] = Counter()
    known: list[dict[str, object]] = []
    rows = pd.read_csv(Path(__file__).with_name("sea.csv")).to_dict("records")
    print(f"asking {url}, {rate:g} times a second; Ctrl-C ends it")
    try:
        for row in cycle(rows):
            answer = httpx.post(url, json=body(row))
            answers[f"version {answer.headers.get('x-windtunnel-version', '-')}: status {answer.status_code}"] += 1
            if answer.status_code == 200:
                name = answer.json()["parameters"]["prediction_ids"][0]
                known.append({"prediction_id": name, "label": row["temperature"], "label_time": time.time()})
            if len(known) >= 50:
                Labels(home.labels).append("sea", known)
                known.clear()
            time.sleep(1 / rate)
    except KeyboardInterrupt:
        for line, count in sorted(answers.items()):
            print(f"{count:6} x {line}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
