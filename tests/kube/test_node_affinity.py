"""DEMAND TRN-5: which nodes a pod's required affinity allows, by the API's own rules."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.tracking.pods import nodeaffinity

NODE = {"metadata": {"name": "n1", "labels": {"zone": "a", "disks": "4", "fast": "", "size": "big"}}}


def label(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def field(operator: str, *values: str) -> dict[str, Any]:
    return {"matchFields": [{"key": "metadata.name", "operator": operator, "values": list(values)}]}


CASES: list[tuple[list[dict[str, Any]], bool, str]] = [
    ([label("zone", "In", "a", "b")], True, "zone in (a, b)"),
    ([label("zone", "In", "b")], False, "zone in (b)"),
    ([label("rack", "In", "b")], False, "rack in (b)"),
    ([label("zone", "NotIn", "b")], True, "zone not in (b)"),
    ([label("zone", "NotIn", "a")], False, "zone not in (a)"),
    ([label("rack", "NotIn", "a")], True, "rack not in (a)"),  # no such label meets it
    ([label("fast", "Exists")], True, "fast"),
    ([label("rack", "Exists")], False, "rack"),
    ([label("fast", "DoesNotExist")], False, "no fast"),
    ([label("rack", "DoesNotExist")], True, "no rack"),
    ([label("disks", "Gt", "3")], True, "disks > 3"),
    ([label("disks", "Gt", "4")], False, "disks > 4"),
    ([label("disks", "Lt", "5")], True, "disks < 5"),
    ([label("disks", "Lt", "4")], False, "disks < 4"),
    ([label("size", "Gt", "3")], False, "size > 3"),
    ([label("rack", "Lt", "3")], False, "rack < 3"),
    ([label("zone", "Like", "a")], False, "zone Like (a)"),
    ([field("In", "n1")], True, "metadata.name in (n1)"),
    ([field("NotIn", "n1")], False, "metadata.name not in (n1)"),
    ([label("zone", "In", "b"), field("In", "n1")], True, "zone in (b), or metadata.name in (n1)"),
    ([{**label("zone", "In", "a"), **field("In", "n2")}], False, "zone in (a) and metadata.name in (n2)"),
    ([{}], False, "an empty term"),
    ([], False, "no term"),
]


@pytest.mark.parametrize(("terms", "allowed", "said"), CASES, ids=[case[2] for case in CASES])
def test_a_requirement(terms: list[dict[str, Any]], allowed: bool, said: str) -> None:
    needed = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    found = nodeaffinity.required({"spec": {"affinity": {"nodeAffinity": needed}}})
    assert found is not None
    assert (nodeaffinity.allows(found, NODE), nodeaffinity.words(found)) == (allowed, said)


@pytest.mark.parametrize(
    "affinity",
    [
        None,
        {},
        {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}},
        {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
    ],
)
def test_what_is_not_required_keeps_no_node_away(affinity: dict[str, Any] | None) -> None:
    found = nodeaffinity.required({"spec": {"affinity": affinity}})
    assert found is None and nodeaffinity.allows(found, NODE)
