"""Each mistake in a description is told with file, line, what was found and what was expected.

DEMAND PIP-1; issue, section 2 and 6 (a bad YAML).
"""

# ruff: noqa: E501 (a table)
from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from pydantic import ValidationError

import windtunnel as wt
from windtunnel.errors import DescriptionError
from windtunnel.spec import load
from windtunnel.spec.mistakes import InvalidDescription

GOOD = """\
name: visits
owner: health
data:
  source: visits.csv
  time: at
  target: mdvis
  features:
    - age
    - {name: plan, kind: categorical}
training:
  entry_point: pack.age:train
evaluation:
  metrics:
    - name: rmse
rollout:
  alpha: 0.05
"""

# what is replaced, by what, the line of the mistake, words of the message
BAD = [
    ("owner: health", "ownr: health", 1, ["owner", "is missing"]),
    ("owner: health", "ownr: health", 2, ["ownr: unknown key; did you mean 'owner'"]),
    ("name: visits", "name: Visits 2", 1, ["'Visits 2' cannot be a model's name", "a-z"]),
    ("name: visits", "name: 5", 1, ["expected a valid string, found 5"]),
    ("  time: at\n", "", 3, ["data.time: is missing"]),
    ("target: mdvis", "target: age", 8, ["data.features[0]: this is the target, 'age'"]),
    ("    - age", "    - plan", 9, ["data.features[1]: feature 'plan' is named twice"]),
    ("kind: categorical", "kind: category", 9, ["'categorical'", "found 'category'"]),
    ("kind: categorical", "knd: categorical", 9, ["unknown key; did you mean 'kind'"]),
    ("kind: categorical", "minimum: 3, maximum: 2", 9, ["minimum 3 is above maximum 2"]),
    ("kind: categorical", "kind: boolean, minimum: 2", 9, ["only numeric features have minimum"]),
    ("pack.age:train", "pack.age.train", 11, ["expected code as 'package.module:function', found 'pack.age.train'"]),
    ("entry_point: pack.age:train", "entry_point: 'p:t'\n  time_limit: 10 minutes", 12, ["'90s', '10m'", "'10 minutes'"]),
    ("entry_point: pack.age:train", "entry_point: 'p:t'\n  resources:\n    memory: lots", 13, ["'2Gi', found 'lots'"]),
    ("entry_point: pack.age:train", "entry_point: 'p:t'\n  resources: {cpu: 0}", 12, ["greater than 0, found 0"]),
    ("name: rmse", "name: rmsee", 14, ["unknown metric 'rmsee'; did you mean 'rmse'"]),
    ("name: rmse", "name: my.code:score", 14, ["needs direction: lower or higher"]),
    ("name: rmse", "name: rmse\n      minimum: 2\n      maximum: 1", 14, ["minimum 2 is above maximum 1"]),
    ("name: rmse", "name: rmse\n  slices:\n    - by: agee\n      metric: rmse", 16, ["no column", "did you mean 'age'"]),
    ("name: rmse", "name: rmse\n  slices:\n    - by: age\n      metric: mae", 17, ["'mae' is not among"]),
    ("alpha: 0.05", "alpha: 0.7", 16, ["rollout.alpha: expected less than 0.5, found 0.7"]),
    ("alpha: 0.05", "steps:\n    - {weight: 50, hold: 1m}\n    - {weight: 5, hold: 1m}", 15, ["steps must rise"]),
    ("alpha: 0.05", "lease: 5s", 15, ["lease", "at least three times look_every"]),
    ("alpha: 0.05", "gates:\n    - metric: error\n      margin: 1", 17, ["'quality', 'prediction' or 'value'"]),
    ("alpha: 0.05", "strategy: rolling", 16, ["serving.replicas of 2 to 100, found 1"]),
    ("alpha: 0.05", "strategy: ab\n  gates: [{metric: errors, margin: 0.01, superior: 0}]", 16, ["set serving.sticky"]),
    ("alpha: 0.05", "strategy: ab", 15, ["give one gate a 'superior' margin"]),
    ("alpha: 0.05", "strategy: blue_green\n  limits: {error_rate: null}", 15, ["set limits.error_rate"]),
    ("alpha: 0.05", "strategy: shadow\n  steps: [{weight: 5, hold: 1m}]", 15, ["mirrored steps only"]),
    ("alpha: 0.05", "strategy: all_at_once\n  steps: [{weight: 5, hold: 1m}]", 15, ["makes its own steps"]),
    ("alpha: 0.05", "steps: []", 15, ["a canary needs steps"]),
    ("alpha: 0.05", "steps: [{weight: 150, hold: 1m}]", 16, ["weight: expected less than or equal to 100, found 150"]),
    ("alpha: 0.05", "steps: [{weight: 5, hold: -1m}]", 16, ["expected a duration such as"]),
    ("alpha: 0.05", "steps: [{weight: 0, hold: 1m}]", 16, ["a weight above 0, or mirror"]),
    ("alpha: 0.05", "steps: [{weight: 5, mirror: 5, hold: 1m}]", 16, ["a mirrored step has weight 0"]),
    ("alpha: 0.05", "steps: [{weight: 5, hold: 1m, at_most: 30s}]", 16, ["at_most", "not be shorter than hold"]),
    ("alpha: 0.05", "steps: [{weight: 5, hold: 1m, min_requests: 9, max_requests: 8}]", 16, ["could never pass"]),
    ("alpha: 0.05", "gates: [{metric: errors, margin: 0}]", 15, ["could never finish", "set 'within'"]),
    ("alpha: 0.05", "gates: [{metric: value, margin: 0}]", 16, ["a figure or a source"]),
    ("alpha: 0.05", "gates: [{metric: value, margin: 1, figure: revenue}]", 16, ["bounds low < high"]),
    ("alpha: 0.05", "segments: {values: [eu, eu]}", 16, ["expected different names"]),
    ("alpha: 0.05", "segments: {values: [other]}", 16, ["choose another name"]),
    ("alpha: 0.05", "audience: {header: x-windtunnel-version, value: '1'}", 16, ["a request header of your own"]),
    ("alpha: 0.05", "hours: [{start: '17:00', end: '09:00'}]", 16, ["write a night as two windows"]),
    ("alpha: 0.05", "hours: [{timezone: Mars/Base}]", 16, ["expected a time zone such as", "Mars/Base"]),
    ("alpha: 0.05", "alpha: 0", 16, ["rollout.alpha: expected greater than 0, found 0"]),
    ("alpha: 0.05", "strategy: bluegreen", 16, ["'blue_green'", "found 'bluegreen'"]),
    ("owner: health", "owner: health\nschedule: every day", 3, ["expected cron", "found 'every day'"]),
    ("owner: health", "owner: health\nmonitoring: {drift: {features: [sex]}}", 3, ["'sex' is no feature"]),
    ("owner: health", "owner: health\nmonitoring:\n  performance:\n    metric: rsme", 5, ["did you mean 'rmse'"]),
    ("owner: health", "owner: health\ntags: [a]", 3, ["tags: expected a valid dictionary, found ['a']"]),
    ("source: visits.csv", "source: SELECT 1\n  format: sql", 3, ["format sql needs connection"]),
    ("owner: health", "owner: health\nsteps:\n  - {name: check, run: 'a:b'}", 4, ["already a step 'check'"]),
    ("owner: health", "owner: health\nsteps:\n  - {name: x, run: 'a:b', after: [dta]}", 4, ["unknown step 'dta'; did you mean 'data'"]),
    ("owner: health", "owner: health\nsteps:\n  - {name: x, run: 'a:b', before: [data]}", 3, ["wait for each other", "x"]),
    ("owner: health", "owner: health\nsteps:\n  - name: x\n    run: a:b\n    inputs: [model]", 6, ["written by 'train', which does not come before"]),
    ("owner: health", "owner: health\nsteps:\n  - name: x\n    run: a:b\n    inputs: [modle]", 6, ["no step's output; did you mean 'model'"]),
    ("owner: health", "owner: health\nname: again", 3, ["a key may stand once"]),
    ("owner: health", "owner: [health", 3, ["this is no YAML"]),
    ("owner: health", "owner:\thealth", 2, ["this is no YAML"]),
    ("owner: health", "owner: health\ntarget: kubernetes\nserving:\n  sticky: x-user", 5, ["serving.sticky: Seldon cannot keep a user", "leave it out"]),
    ("owner: health", "owner: health\ntarget: kubernetes\nserving:\n  api: core2\n  maximum: 3\n  scale: {cpu: 50}", 7, ["serving.scale: Core 2 scales by"]),
    ("owner: health", "owner: health\nserving: {api: v1}", 3, ["serving.api: expected 'core1' or 'core2', found 'v1'"]),
    ("owner: health", "owner: health\nserving:\n  gpu: 1", 4, ["serving.gpu: servers of this machine (target: local) are given no GPU"]),
    ("owner: health", "owner: health\nserving:\n  pod: {node_selector: {a: b}}", 4, ["serving.pod: servers of this machine"]),
    ("owner: health", "owner: health\ntarget: kubernetes\nserving:\n  mig: 1g.10gb", 4, ["mig 1g.10gb needs gpu"]),
    ("owner: health", "owner: health\ntarget: kubernetes\nserving:\n  gpu_type: NVIDIA-L4", 4, ["gpu_type NVIDIA-L4 needs gpu"]),
    ("owner: health", "owner: health\ntarget: kubernetes\nserving: {gpu: 1, mig: small}", 4, ["serving.mig"]),
    ("owner: health", "owner: health\ntarget: kubernetes\nserving: {gpu: 1, pod: {gpu_label: 'a b'}}", 4, ["expected a label's key"]),
    ("name: visits", "---\nname: visits\n---\nname: two", 3, ["one file describes one model"]),
]  # fmt: skip


def test_the_description_the_bad_ones_are_made_from_is_good() -> None:
    assert load.loads(GOOD).name == "visits"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"), BAD, ids=[f"{i}-{row[1][:40]!r}" for i, row in enumerate(BAD)]
)
def test_a_mistake_is_told_with_its_place(old: str, new: str, line: int, words: list[str], tmp_path: Path) -> None:
    assert old in GOOD
    path = tmp_path / "visits.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(DescriptionError) as caught:
        load.load_model(path)
    said = [text for text in str(caught.value).replace("; ", "; ").splitlines() if f"{path}:{line}: " in text]
    assert said, f"nothing about line {line} in: {caught.value}"
    text = " ".join(said)
    for word in words:
        assert word in text


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = GOOD.replace("owner: health", "ownr: x").replace("mdvis", "[1]").replace("0.05", "9")
    with pytest.raises(InvalidDescription) as caught:
        load.loads(text, "m.yaml")
    assert [mistake.line for mistake in caught.value.mistakes] == [1, 2, 6, 16]
    assert str(caught.value).count("m.yaml:") == 4
    assert "4 mistakes" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "found nothing"),
        (b"- a\n- b\n", "found a list"),
        (b"visits\n", "found a str"),
        (b"name: \xff\n", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_description(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(DescriptionError, match=words):
        load.load_model(path)


def test_a_file_that_is_not_there_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "visits.yaml").write_text(GOOD)
    with pytest.raises(DescriptionError, match=r"no description at .*visit\.yaml") as caught:
        load.load_model(tmp_path / "visit.yaml")
    assert "visits.yaml" in str(caught.value)


def test_a_mistake_in_python_names_the_line_of_the_call() -> None:
    line = inspect.currentframe().f_lineno + 2  # type: ignore[union-attr]
    with pytest.raises(DescriptionError) as caught:
        wt.Model(
            name="visits",
            owner="health",
            data=wt.Data(source="a.csv", time="at", target="y", features=["a"]),  # type: ignore[list-item]
            training=wt.Training(entry_point="a:b"),
            evaluation=wt.Evaluation(metrics=[wt.Metric(name="rmsee")]),
        )
    assert f"{__file__}:{line}: evaluation.metrics[0].name: unknown metric 'rmsee'" in str(caught.value)


def test_a_mistake_in_a_part_names_the_line_of_the_part() -> None:
    line = inspect.currentframe().f_lineno + 2  # type: ignore[union-attr]
    with pytest.raises(DescriptionError) as caught:
        wt.Rollout(alfa=0.1)  # type: ignore[call-arg]
    assert f"{__file__}:{line}: alfa: unknown key; did you mean 'alpha'" in str(caught.value)
    assert isinstance(caught.value, ValueError), "who expects pydantic's kind of error catches it too"


def test_pydantic_s_own_ways_raise_pydantic_s_own_errors() -> None:
    with pytest.raises(ValidationError):
        wt.Rollout.model_validate({"alfa": 1})
    with pytest.raises(ValidationError) as caught:
        wt.Model.model_validate({"rollout": {"steps": [{"weight": -1, "hold": "1m"}]}})
    assert ("rollout", "steps", 0, "weight") in [error["loc"] for error in caught.value.errors()]


def test_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wt_desc.py").write_text(
        "from windtunnel.spec.load import loads\n" + f"visits = loads({GOOD!r})\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load.from_python("wt_desc:visits").name == "visits"
    with pytest.raises(DescriptionError, match="holds a int there"):
        load.from_python("wt_desc:number")
    with pytest.raises(DescriptionError, match="models in it: visits"):
        load.from_python("wt_desc:nothing")
    with pytest.raises(DescriptionError, match="ModuleNotFoundError"):
        load.from_python("wt_no_such:visits")
    with pytest.raises(DescriptionError, match="names no model"):
        load.from_python("wt_desc")
