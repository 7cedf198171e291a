"""DEMAND ROL-14: what an API of Seldon cannot do is refused when the description is read; what only the connection's
cannot, or its settings, by the release's first task. One table for all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from windtunnel.errors import ServingError
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.core2 import Core2
from windtunnel.serving.core2 import manifest as core2
from windtunnel.serving.seldon import Seldon
from windtunnel.serving.seldon import manifest as core1
from windtunnel.serving.seldon.limits import check_api, refusals
from windtunnel.spec import Model
from windtunnel.spec.seldon import APIS, FEATURES, Feature
from windtunnel.spec.serving import SeldonApi

GATES = [{"metric": "quality", "margin": 0.1}, {"metric": "value", "margin": 0.1, "figure": "euros", "high": 9.0}]
AB = {"strategy": "ab", "gates": [{"metric": "errors", "margin": 0.01, "superior": 0.0}]}
COPIES = {"steps": [{"weight": 0, "mirror": 50, "hold": "1m"}, {"weight": 50, "hold": "1m"}]}
#: By feature, a description that asks for it and for nothing else.
ASKS: dict[str, dict[str, Any]] = {
    "strategy canary": {},
    "strategy blue_green": {"rollout": {"strategy": "blue_green"}},
    "strategy rolling": {"rollout": {"strategy": "rolling"}, "serving": {"replicas": 2}},
    "strategy all_at_once": {"rollout": {"strategy": "all_at_once"}},
    "strategy ab": {"rollout": AB},
    "strategy shadow, mirrored steps": {"rollout": {"strategy": "shadow"}},
    "mirrored steps with serving.log": {"rollout": COPIES, "serving": {"log": True}},
    "rollout.audience": {"rollout": {"audience": {"header": "x-tester", "value": "1"}}},
    "rollout.segments": {"rollout": {"segments": {"header": "x-team", "values": ["a"]}}},
    "gates on quality, prediction or a figure": {"rollout": {"gates": GATES}},
    "the same with serving.log": {"rollout": {"gates": GATES}, "serving": {"log": True}},
    "serving.sticky": {"serving": {"sticky": "x-user"}},
    "serving.maximum": {"serving": {"maximum": 3}},
    "serving.scale by the CPU": {"serving": {"maximum": 3, "scale": {"cpu": 50}}},
    "serving.scale by queue, rate or latency": {"serving": {"maximum": 3, "scale": {"cpu": 50, "rate": 9}}},
    "serving.gpu of a type or a slice, serving.pod": {
        "serving": {"gpu": 1, "mig": "1g.10gb", "gpu_type": "NVIDIA-L4", "pod": {"node_selector": {"a": "b"}}}
    },
    "serving.environment": {"serving": {"environment": "torch"}},
    "a name that ends with -": {"name": "visits-"},
}
#: What a backend is never told of: it is a matter of gates, or of the DAG.
BESIDE = {"strategy ab", "mirrored steps with serving.log", "gates on quality, prediction or a figure"}
#: And what it is told of, and does without: nobody collects the rows.
UNREAD = {"mirrored steps with serving.log", "the same with serving.log"}
#: Settings that allow as much as their API can, and as little.
RICH: dict[SeldonApi, Seldon] = {
    "core1": Seldon("i", "r", autoscaler="keda", prometheus="http://p", collector="http://c", images={"torch": "t"}),
    "core2": Core2("i", "r", prometheus="http://p", images={"torch": "t"}),
}
POOR: dict[SeldonApi, Seldon] = {
    "core1": Seldon("i", "r", prometheus="http://p"),
    "core2": Core2("i", "r", prometheus="http://p", collector="http://c"),
}


def settings_for(api: SeldonApi, name: str) -> tuple[Seldon, Seldon]:
    """As rich and as poor as they can be for a feature; on Core 2 copies want no collector, and rows one."""
    if api == "core2" and name == "the same with serving.log":
        return replace(RICH[api], collector="http://c"), replace(POOR[api], collector=None)
    return RICH[api], POOR[api]


def model(parts: Mapping[str, Any], api: SeldonApi | None = None, target: str = "kubernetes") -> Model:
    plain: dict[str, Any] = {
        "name": "visits",
        "owner": "tests",
        "target": target,
        "data": {"source": "rows.csv", "time": "t", "target": "y", "features": ["a"]},
        "training": {"entry_point": "a:b", "target": "local"},
        **parts,
    }
    return Model.model_validate({**plain, "serving": {**plain.get("serving", {}), "api": api}})


def released(asked: Model) -> Release:
    """What a DAG of that description asks of a backend at most."""
    audience, segments = asked.rollout.audience, asked.rollout.segments
    settings = {"serving": asked.serving.model_dump(mode="json", exclude={"api"})}
    return Release(
        asked.name,
        Arm("1", "d", "s", 100),
        (Arm("2", "e", "s"),),
        settings={"1": settings, "2": settings},
        mirror=max((step.mirror or 0 for step in asked.rollout.steps), default=0),
        audience=(audience.header, audience.value) if audience else None,
        segment_header=segments.header if segments else None,
    )


def accepts(release: Release, seldon: Seldon) -> bool:
    try:
        core2.check(release, seldon) if isinstance(seldon, Core2) else core1.check(release, seldon)
    except ServingError:
        return False
    return True


def test_every_row_of_the_table_is_asked_for() -> None:
    assert list(ASKS) == [feature.name for feature in FEATURES]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_what_is_told_is_what_the_backend_does(feature: Feature, api: SeldonApi) -> None:
    parts, told = ASKS[feature.name], feature.told(api)
    if told == "refused":
        # Served on one machine it is no mistake, whatever the API; strategy ab wants sticky or an audience there.
        here = model(parts if feature.name != "strategy ab" else parts | ASKS["serving.sticky"], api, "local")
        with pytest.raises(ValidationError) as refused:
            model(parts, api)
        (mistake,) = refused.value.errors()
        text = str(mistake["msg"])
        assert str(feature.why_not(api)) in text
        assert any(word in text for word in ("leave", "use canary", "give the model")), f"what to do? {text}"
        assert feature.name in BESIDE or not accepts(released(here), RICH[api])
        return
    asked, (rich, poor) = model(parts, api), settings_for(api, feature.name)
    assert feature.asked(asked), "the description does not ask for it"
    assert refusals(asked, rich, first=True) == [] and accepts(released(asked), rich)
    found = refusals(asked, poor, first=True)
    assert bool(found) == (told == "by settings"), found
    assert bool(found) != accepts(released(asked), poor) or feature.name in UNREAD


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_without_an_api_only_what_neither_can_do_is_a_mistake(feature: Feature) -> None:
    neither = all(feature.told(api) == "refused" for api in APIS)
    if neither:
        with pytest.raises(ValidationError):
            model(ASKS[feature.name])
        return
    asked = model(ASKS[feature.name])
    for api in APIS:
        told = refusals(asked, settings_for(api, feature.name)[0])
        assert bool(told) == (feature.told(api) == "refused"), told


def test_both_reasons_are_told_where_they_differ() -> None:
    with pytest.raises(ValidationError, match=r"rollout\.audience: Core 1: .*; Core 2: .*seldon-model: MODEL-vVERSION"):
        model(ASKS["rollout.audience"])


def test_another_api_than_the_descriptions_is_named_with_it() -> None:
    (said,) = refusals(model({}, "core1"), RICH["core2"])
    assert "core1 (Core 1)" in said and "api core2 (Core 2)" in said
    assert refusals(model({}, "core2"), RICH["core2"]) == []


WATCHED: list[tuple[dict[str, Any], bool, list[str]]] = [
    ({}, True, ["a first release is watched"]),
    ({}, False, ["strategy canary is watched"]),
    ({"rollout": {"strategy": "blue_green"}}, True, ["a first release is watched"]),
    ({"rollout": {"strategy": "blue_green"}}, False, ["strategy blue_green is watched"]),
    ({"rollout": {"strategy": "all_at_once"}}, False, []),
    ({"rollout": {"strategy": "all_at_once", "bake": "5m"}}, False, ["strategy all_at_once is watched"]),
    ({"serving": {"log": True}, "rollout": {"strategy": "all_at_once"}}, False, ["serving.log: nobody would collect"]),
]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(("parts", "first", "says"), WATCHED)
def test_gates_need_numbers_before_anything_moves(
    parts: dict[str, Any], first: bool, says: list[str], api: SeldonApi
) -> None:
    """Without them each look would decide nothing, and users would have met the candidate by then."""
    bare: Seldon = Core2("i", "r") if api == "core2" else Seldon("i", "r")
    found = refusals(model(parts), bare, first=first)
    assert len(found) == len(says) and all(words in line for words, line in zip(says, found, strict=True)), found
    assert all("set prometheus" in line or "set collector" in line for line in found)
    assert refusals(model(parts), replace(bare, prometheus="http://p", collector="http://c"), first=first) == []


def test_rows_that_seldons_own_logger_sends_are_somebodys() -> None:
    asked = model({"serving": {"log": True}})
    assert refusals(asked, Seldon("i", "r", prometheus="http://p", logger="http://c/v1/events")) == []


def test_the_backend_of_the_other_api_refuses_what_is_new_to_it() -> None:
    release = released(model({}, "core1"))
    asked = replace(release, settings={v: {"serving": {"api": "core1"}} for v in "12"})
    for fine in (release, replace(asked, settings={"1": {}, "2": {"serving": {"api": None}}})):
        check_api(fine, (), RICH["core2"])
    check_api(asked, (), RICH["core1"])
    check_api(asked, {"1": None, "2": None}, RICH["core2"])
    with pytest.raises(ServingError, match=r"version 2: serving\.api says core1 \(Core 1\), .* api core2 \(Core 2\)"):
        check_api(asked, {"1": None}, RICH["core2"])


def test_a_version_is_asked_about_as_it_was_registered() -> None:
    """Its serving section is kept; the description may have changed since."""
    scaled: dict[str, Any] = {"maximum": 3, "scale": {"cpu": 50}}
    kept = {"1": scaled, "2": {"sticky": "x-user", "log": False}, "3": {"cpus": 1}, "4": {}}
    found = refusals(model({"serving": {"log": True}}), replace(RICH["core2"], collector="http://c"), kept)
    assert [line.split(":")[0] for line in found] == [
        "version 1, as it was registered",
        "version 2, as it was registered",
        "version 3 was registered with a serving section that cannot be read",
    ]
    assert "serving.scale" in found[0] and "serving.sticky" in found[1] and found[1].endswith("register it again")
    same = model({"serving": {"maximum": 3, "scale": {"cpu": 50}}})
    assert len(refusals(same, RICH["core2"], {"1": scaled})) == 1, "said once"
