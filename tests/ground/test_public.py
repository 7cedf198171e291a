"""The public surface is what ``__all__`` says, costs nothing to import, and changes deliberately."""

from __future__ import annotations

import subprocess
import sys

import windtunnel

HEAVY = ("mlflow", "pandas", "numpy", "scipy", "evidently", "great_expectations", "airflow", "httpx", "pydantic")

PUBLIC = {
    "Audience", "Benchmark", "Card", "Check", "Data", "Drift", "Evaluation", "ExtraStep", "Feature", "Gate", "Hours",
    "Limits", "Metric", "Model", "Monitoring", "Outcome", "Performance", "Pod", "Policy", "Resources", "Retrain",
    "Rollout", "Run", "Scale", "Segments", "Serving", "Slice", "Step", "Toleration", "Training", "Verdict", "Volume",
    "load_model",
}  # fmt: skip


def test_public_names_are_these_and_resolve() -> None:
    assert set(windtunnel.__all__) - {"__version__"} == PUBLIC
    for name in windtunnel.__all__:
        assert getattr(windtunnel, name) is not None


def test_importing_windtunnel_loads_nothing_heavy() -> None:
    code = f"import sys, windtunnel; print([m for m in {HEAVY!r} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_describing_a_model_loads_no_data_library() -> None:
    code = (
        "import sys\n"
        "from windtunnel import Model\n"
        "Model(name='a', owner='b', data=dict(source='s', time='t', target='y', features=['x']), "
        "training=dict(entry_point='a.b:c'))\n"
        f"print([m for m in {HEAVY[:-1]!r} if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
