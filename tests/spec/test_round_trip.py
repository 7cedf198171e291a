"""A description survives YAML and JSON unchanged; its schema changes only on purpose; its import stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.spec import (
    Benchmark,
    Card,
    Check,
    Data,
    Drift,
    Evaluation,
    ExtraStep,
    Feature,
    Gate,
    Limits,
    Metric,
    Model,
    Monitoring,
    Performance,
    Pod,
    Policy,
    Prices,
    Resources,
    Retrain,
    Rollout,
    ServerPod,
    Serving,
    Slice,
    Step,
    Toleration,
    Training,
    Volume,
    load,
)  # fmt: skip
from windtunnel.spec.base import Part, attribute_docs, format_duration, parse_duration, parse_size

PARTS = [
    Benchmark, Card, Check, Data, Drift, Evaluation, ExtraStep, Feature, Gate, Limits, Metric, Model, Monitoring,
    Performance, Pod, Policy, Prices, Resources, Retrain, Rollout, ServerPod, Serving,
    Slice, Step, Toleration, Training, Volume,
]  # fmt: skip
GOLDEN = Path(__file__).parent / "schema.json"

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).map(
    lambda text: text.strip() or "x"
)
spans = st.timedeltas(timedelta(0), timedelta(days=400))
numbers = st.floats(-1e9, 1e9)
names = st.lists(words, min_size=2, max_size=6, unique=True)


@st.composite
def models(draw: Any) -> Model:
    columns = draw(names)
    target, *features = columns
    time = draw(words.filter(lambda text: text != target))
    low = draw(st.none() | numbers)
    metrics = draw(st.lists(st.sampled_from(["rmse", "mae", "roc_auc"]), unique=True, max_size=3))
    weights = sorted(draw(st.sets(st.integers(1, 99), min_size=1, max_size=4)))
    return Model(
        name=draw(st.from_regex(r"[a-z][a-z0-9-]{0,39}", fullmatch=True)),
        owner=draw(words),
        description=draw(words),
        tags=draw(st.dictionaries(words, words, max_size=3)),
        schedule=draw(st.sampled_from([None, "@daily", "1d", "0 3 * * mon-fri"])),
        data=Data(
            source=draw(words),
            time=time,
            target=target,
            features=[Feature(name=features[0], minimum=low), *(Feature(name=f, nullable=True) for f in features[1:])],
            since=draw(st.none() | spans),
            newest=draw(st.none() | st.integers(1, 10**9)),
            checks=[Check.model_validate({"expect": "expect_x", "with": draw(st.dictionaries(words, numbers))})],
        ),
        training=Training(
            entry_point="a.b:c",
            params=draw(
                st.dictionaries(
                    words,
                    st.recursive(
                        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | words,
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
                        max_leaves=5,
                    ),
                    max_size=3,
                )
            ),
            seed=draw(st.integers(0, 2**31)),
            resources=Resources(memory=draw(st.integers(1, 2**45))),
            time_limit=draw(spans),
            environment=draw(st.dictionaries(words, words, max_size=2)),
        ),
        evaluation=Evaluation(metrics=[Metric(name=name, margin=0.1) for name in metrics]),
        rollout=Rollout(steps=[Step(weight=weight, hold=draw(spans)) for weight in weights]),
        card=draw(
            st.none()
            | st.builds(Card, purpose=st.none() | words, risk=st.sampled_from([None, "high"]), uses=st.lists(words))
        ),
        steps=[ExtraStep(name="own", run="a:b", inputs=["rows"], over=draw(st.none() | st.lists(words, max_size=2)))],
    )


@given(models())
@settings(max_examples=120, deadline=None)
def test_yaml_and_json_bring_back_the_same_model(model: Model) -> None:
    again = load.loads(load.dumps(model))
    assert again == model
    assert again.digest == model.digest
    assert Model.model_validate(json.loads(json.dumps(model.to_dict()))) == model


@given(spans)
def test_a_duration_is_written_as_it_is_read(span: timedelta) -> None:
    assert parse_duration(format_duration(span)) == span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h 30m", 5400), ("7d", 604800), ("250ms", 0.25), (5, 5), ("1w", 604800)],
)
def test_durations(text: Any, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("bad", ["", "10", "m", "10 minutes", "-5s", None, True, [], 1e30, float("nan")])
def test_what_is_no_duration(bad: Any) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(bad)


@pytest.mark.parametrize(
    ("text", "size"), [("2Gi", 2**31), ("500M", 5 * 10**8), ("1.5Ki", 1536), (7, 7), ("64", 64), ("1MiB", 2**20)]
)
def test_sizes(text: Any, size: int) -> None:
    assert parse_size(text) == size


def test_the_schema_changes_only_on_purpose() -> None:
    """On purpose: ``python tests/spec/test_round_trip.py`` writes the new one; say so in the changelog."""
    assert json.loads(GOLDEN.read_text()) == load.schema(), "the schema has changed: see this test's docstring"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_key_is_explained_where_editors_and_readers_look(part: type[Part]) -> None:
    text, docs = attribute_docs(part)
    assert text
    assert set(part.model_fields) <= set(docs), sorted(set(part.model_fields) - set(docs))
    assert set(docs) <= set(part.model_fields), "words about a key that is not there"


def test_a_description_costs_little_to_import() -> None:
    """DEMAND PIP-8"""
    heavy = ["mlflow", "pandas", "numpy", "evidently", "great_expectations", "kubernetes", "sklearn", "ruamel"]
    code = "import sys, windtunnel as w; w.Model; w.Rollout(); print(*set(sys.argv[1:]) & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_checked_schema_accepts_what_yaml_holds() -> None:
    """The JSON Schema says the same as the model, for a description with most keys."""
    jsonschema = pytest.importorskip("jsonschema")
    plain = {
        "name": "m", "owner": "o",
        "training": {"entry_point": "a:b", "time_limit": "10m", "resources": {"memory": "2Gi"}},
        "data": {"source": "a.csv", "time": "t", "target": "y", "features": ["a", {"name": "b"}]},
    }  # fmt: skip
    jsonschema.validate(plain, load.schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**plain, "ownr": 1}, load.schema())


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(load.schema(), indent=2, sort_keys=True) + "\n")
