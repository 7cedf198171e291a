"""The chart rendered offline by Helm's own engine, and what its objects are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "windtunnel"
#: What a preset leaves to whoever installs it.
GIVEN: dict[str, dict[str, Any]] = {
    "small": {},
    "production": {
        "image": {"registry": "registry.example.org/team", "digest": "sha256:" + "a" * 64},
        "artifacts": {"destination": "s3://models/registry"},
        "audit": {"publishUrl": "s3://audit/registry"},
        "tls": {"certManager": {"issuerName": "internal"}},
        "ingress": {"host": "mlflow.example.org"},
    },
    "eks": {
        "image": {"registry": "123456789012.dkr.ecr.eu-west-1.amazonaws.com"},
        "artifacts": {"destination": "s3://models/registry", "s3": {"region": "eu-west-1"}},
        "audit": {"publishUrl": "s3://audit/registry"},
        "tls": {"certManager": {"issuerName": "internal"}},
        "ingress": {"host": "mlflow.example.org"},
        "registry": {
            "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/registry"}}
        },
    },
}
GIVEN["production+guard"] = {
    **GIVEN["production"],
    "guard": {"enabled": True, "namespace": "models", "modelServer": "registry.example.org/team/model-server:0.1.0"},
    "releases": {"enabled": True, "namespace": "models"},
}
GIVEN["production+collector"] = {
    **GIVEN["production"],
    "collector": {
        "enabled": True,
        "to": "s3://models/predictions",
        "namespaces": ["models"],
        "image": {"digest": "sha256:" + "b" * 64},
        "sample": {"visits": "0.1"},
    },
}
PRESETS = ("small", "production", "eks")


def merged(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """``right`` over ``left``, as ``--values`` and ``--set`` do it."""
    made = dict(left)
    for key, value in right.items():
        both = isinstance(value, Mapping) and isinstance(made.get(key), Mapping)
        made[key] = merged(made[key], value) if both else value
    return made


def preset(name: str) -> dict[str, Any]:
    """The preset with what whoever installs it has to give."""
    return merged(
        yaml.safe_load((CHART / f"values-{name.partition('+')[0]}.yaml").read_text(encoding="utf-8")), GIVEN[name]
    )


def documents(text: str) -> Iterator[dict[str, Any]]:
    for found in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if found:
            yield found


@functools.cache
def chart() -> Any:
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed: make setup")
    return helm.Chart.load(CHART)


def files(values: Mapping[str, Any], *, upgrade: bool = False) -> dict[str, str]:
    """Rendered text by template."""
    found: dict[str, str] = chart().render(
        dict(values), name="wt", namespace="ml", is_install=not upgrade, is_upgrade=upgrade
    )
    return found


def render(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every object, hooks and tests included."""
    return [one for name, text in sorted(files(values).items()) if name.endswith(".yaml") for one in documents(text)]


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind/name, pod spec) of everything that makes a pod."""
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield name, one["spec"]
        elif "template" in one.get("spec", {}):
            yield name, one["spec"]["template"]["spec"]


def of(objects: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    """The one object of this kind (and name)."""
    found = [one for one in objects if one["kind"] == kind and name in (None, one["metadata"]["name"])]
    assert len(found) == 1, (kind, name, [one["metadata"]["name"] for one in found])
    return found[0]


@pytest.fixture(scope="session")
def rendered() -> Callable[[str], list[dict[str, Any]]]:
    """Objects of a preset, rendered once."""
    return functools.cache(lambda name: render(preset(name)))


@pytest.fixture(scope="session")
def helpers() -> Any:
    class Helpers:
        CHART = CHART
        PRESETS = PRESETS
        ROOT = ROOT
        files = staticmethod(files)
        merged = staticmethod(merged)
        of = staticmethod(of)
        pods = staticmethod(pods)
        preset = staticmethod(preset)
        render = staticmethod(render)
        chart = staticmethod(chart)

    return Helpers
