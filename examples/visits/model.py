"""The description of ``visits``: everything Windtunnel needs to know about the model.

Times are a time-lapse: seconds where a team would write minutes, so that a whole life fits a coffee break.
"""

from __future__ import annotations

from windtunnel import (
    Benchmark,
    Data,
    Drift,
    Evaluation,
    Feature,
    Gate,
    Limits,
    Metric,
    Model,
    Monitoring,
    Performance,
    Retrain,
    Rollout,
    Serving,
    Slice,
    Step,
    Training,
)
from windtunnel.home import Home

TABLE = Home.find().root / "demo" / "visits"

model = Model(
    name="visits",
    display_name="Doctor visits",
    owner="health-economics",
    description="Yearly doctor visits of a member, from plan and health.",
    data=Data(
        source=str(TABLE / "*.parquet"),
        time="time",
        target="mdvis",
        features=[
            Feature(name="lncoins", minimum=0, maximum=5),
            Feature(name="idp", minimum=0, maximum=1),
            Feature(name="lpi", minimum=0, maximum=10),
            Feature(name="fmde", minimum=0, maximum=10),
            Feature(name="physlm", minimum=0, maximum=1),
            Feature(name="disea", minimum=0, maximum=100),
            Feature(name="hlthg", minimum=0, maximum=1),
            Feature(name="hlthf", minimum=0, maximum=1),
            Feature(name="hlthp", minimum=0, maximum=1),
        ],
        newest=5_000,
        min_rows=1_000,
    ),
    training=Training(
        entry_point="windtunnel_examples.visits.train:train",
        params={"max_iter": 100, "learning_rate": 0.1, "max_leaf_nodes": 8},
        time_limit="5m",
    ),
    evaluation=Evaluation(
        holdout=0.2,
        metrics=[Metric(name="poisson_deviance", maximum=5.5, margin=0.1), Metric(name="mae", maximum=4.0)],
        slices=[Slice(by="hlthg", metric="poisson_deviance", maximum=7.0)],
        benchmark=Benchmark(requests=20, rows_per_request=50, p99_ms=2_000, load_s=120),
    ),
    serving=Serving(flush="2s", max_concurrency=32, ready_within="5m"),
    rollout=Rollout(
        steps=[
            Step(weight=5, hold="10s", min_requests=10),
            Step(weight=25, hold="12s", min_requests=80),
            Step(weight=50, hold="10s", min_requests=60),
            Step(weight=75, hold="10s", min_requests=60),
        ],
        gates=[
            Gate(metric="errors", margin=0.02),
            Gate(metric="latency", margin=0.15),
            Gate(metric="quality", margin=0.25, loss="absolute", required=False),
            Gate(metric="prediction", margin=0.3, required=False),
        ],
        limits=Limits(error_rate=0.05, p95_ms=2_000),
        first_watch="10s",
        look_every="1s",
        lease="45s",
        on_inconclusive="hold",
        patience="60s",
        keep_warm="10m",
    ),
    monitoring=Monitoring(
        window="30s",
        every="30s",
        lateness="4s",
        label_delay="5s",
        min_rows=200,
        # A month of half-minute windows has 86,400 of them: in a time-lapse a month's alarms are spread thin.
        drift=Drift(false_alarms=5, min_effect=0.1),
        performance=Performance(metric="mae", tolerance=0.04, confidence=0.99),
        # Drift is told; what costs a training is a loss of quality that the labels prove.
        retrain=Retrain(on=["performance"], cooldown="10m"),
    ),
)
