"""values.schema.json: every key is known, and what it refuses is told by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml


def objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if schema.get("type") == "object" or "properties" in schema:
        yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from objects(inner, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from objects(schema[name], f"{path}[]")


def test_no_object_takes_unknown_keys(helpers: Any) -> None:
    schema = json.loads((helpers.CHART / "values.schema.json").read_text(encoding="utf-8"))
    looked = 0
    for path, one in objects(schema):
        if path == ".global":
            continue  # another chart's
        rest = one.get("additionalProperties")
        # False, or a map whose values have a type or are counted up.
        assert rest is False or (isinstance(rest, dict) and (rest.get("type") == "string" or "enum" in rest)), path
        looked += 1
    assert looked > 30


def test_schema_and_defaults_name_the_same_keys(helpers: Any) -> None:
    schema = json.loads((helpers.CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((helpers.CHART / "values.yaml").read_text(encoding="utf-8"))

    def keys(schema: dict[str, Any], values: Any, path: str) -> None:
        if "properties" not in schema or not isinstance(values, dict):
            return
        known = set(schema["properties"]) - {"global", "ephemeral-storage"}
        limits = path.endswith((".requests", ".limits"))
        assert set(values) == known or (limits and set(values) <= known), path
        for name, inner in values.items():
            keys(schema["properties"][name], inner, f"{path}.{name}")

    keys(schema, values, "")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"replicas": 2}, "replicas"),
    ({"registry": {"replicas": 6}}, "/registry/replicas"),
    ({"registry": {"volume": {"accessMode": "ReadOnlyMany"}}}, "/registry/volume/accessMode"),
    ({"registry": {"keys": {"model-signing.pem": "x"}}}, "model-signing.pem"),
    ({"registry": {"port": 80}}, "/registry/port"),
    ({"registry": {"env": {"DB_PASSWORD": "x"}}}, "DB_PASSWORD"),
    ({"registry": {"env": {"MLFLOW_BACKEND_STORE_URI": "x"}}}, "MLFLOW_BACKEND_STORE_URI"),
    ({"registry": {"resources": {"limits": {"memory": None}}}}, "/registry/resources/limits"),
    ({"registry": {"tolerations": [{"kye": "x"}]}}, "kye"),
    ({"migration": {"downgradeTo": "head"}}, "/migration/downgradeTo"),
    ({"image": {"tag": "latest"}}, "/image/tag"),
    ({"image": {"digest": "sha256:1"}}, "/image/digest"),
    ({"postgresql": {"image": {"tag": "latest"}}}, "/postgresql/image/tag"),
    ({"artifacts": {"store": "ftp"}}, "/artifacts/store"),
    ({"artifacts": {"destination": "gs://bucket"}}, "/artifacts/destination"),
    ({"database": {"url": "postgresql://u:p@h/d"}}, "url"),
    ({"secret": {"mlflow-admin": "hunter2"}}, "mlflow-admin"),
    ({"oidc": {"issuer": "http://id.example.org"}}, "/oidc/issuer"),
    ({"oidc": {"roles": {"x": "service"}}}, "/oidc/roles"),
    ({"ingress": {"host": "no host"}}, "/ingress/host"),
    ({"networkPolicy": {"databaseCidrs": []}}, "/networkPolicy/databaseCidrs"),
    ({"guard": {"modelServer": "model-server:latest"}}, "/guard/modelServer"),
    ({"collector": {"to": "gs://bucket"}}, "/collector/to"),
    ({"collector": {"enabled": True}}, "collector.to"),
    ({"collector": {"enabled": True, "to": "file:///predictions"}}, "collector.claim"),
    ({"collector": {"sample": {"visits": "2"}}}, "/collector/sample/visits"),
    ({"collector": {"token": "hunter2"}}, "token"),
    ({"collector": {"env": {"AWS_SECRET_ACCESS_KEY": "x"}}}, "AWS_SECRET_ACCESS_KEY"),
    ({"listen": "127.0.0.1"}, "/listen"),
    ({"networkPolicy": {"toPorts": []}}, "/networkPolicy/toPorts"),
]


@pytest.mark.parametrize(("values", "named"), REFUSED, ids=lambda one: one if isinstance(one, str) else "")
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], named: str, helpers: Any) -> None:
    helm = pytest.importorskip("helm_python")
    with pytest.raises(helm.HelmError) as refused:
        helpers.render(helpers.merged(helpers.preset("small"), values))
    assert named.replace("/", ".").strip(".") in str(refused.value).replace("/", ".")


TOGETHER: list[tuple[str, dict[str, Any], str]] = [
    ("small", {"artifacts": {"store": "s3"}}, "artifacts.destination: empty, expected s3://BUCKET/PREFIX"),
    ("small", {"artifacts": {"destination": "s3://bucket/x"}}, "artifacts.store is volume"),
    ("small", {"tls": {"enabled": True}}, "nobody brings the certificate"),
    ("small", {"ingress": {"enabled": True}}, "ingress.host: empty"),
    ("small", {"ingress": {"enabled": True, "host": "a.example.org"}}, "expected ingress.tlsSecretName"),
    ("small", {"migration": {"beforeInstall": True}}, "is not there before the installation"),
    ("small", {"oidc": {"issuer": "https://id.example.org"}}, "oidc.audience: empty"),
    ("small", {"airflow": {"url": "http://airflow"}}, "airflow.secretName: empty"),
    ("small", {"monitoring": {"serviceMonitor": {"enabled": True}}}, "serviceMonitor.secretName: empty"),
    ("small", {"guard": {"enabled": True}}, "guard.modelServer: empty"),
    ("small", {"migration": {"downgradeTo": "0008"}}, "expected registry.replicas=0"),
    ("small", {"registry": {"replicas": 2}}, "registry.replicas: more than 1, but postgresql.enabled"),
    ("small", {"registry": {"volume": {"enabled": False}}}, "expected artifacts.store=s3"),
    ("production", {"registry": {"volume": {"enabled": True}}}, "registry.volume.accessMode=ReadWriteMany"),
    ("production", {"registry": {"keys": {"secretName": ""}}}, "windtunnel registry keys secret windtunnel-keys --new"),
    ("production", {"audit": {"publishUrl": ""}}, "audit.publishUrl: empty; without a volume"),
    ("production", {"audit": {"publishUrl": "", "publishClaim": "kept"}}, "every server would have to reach"),
    ("small", {"audit": {"publishUrl": "s3://audit/x"}}, "audit.publishUrl: a bucket is written by the credentials of"),
    (
        "production",
        {"registry": {"replicas": 1}, "audit": {"publishUrl": "s3://audit/x", "publishClaim": "kept"}},
        "audit: publishClaim and publishUrl are set",
    ),
    ("production", {"tls": {"certManager": {"issuerName": ""}}}, "tls.certManager.issuerName: empty"),
    ("production", {"tls": {"enabled": False}}, "tls.enabled is false"),
    ("production", {"database": {"ownerSecretName": ""}}, "database.ownerSecretName: empty"),
    ("production", {"migration": {"enabled": False}}, "may not change the schema itself"),
]


@pytest.mark.parametrize(("base", "values", "told"), TOGETHER, ids=[told for *_, told in TOGETHER])
def test_what_does_not_go_together_is_refused_with_what_to_do(
    base: str, values: dict[str, Any], told: str, helpers: Any
) -> None:
    helm = pytest.importorskip("helm_python")
    with pytest.raises(helm.HelmError) as refused:
        helpers.render(helpers.merged(helpers.preset(base), values))
    assert told in str(refused.value)


@pytest.mark.parametrize("name", ["production", "eks"])
def test_a_preset_says_what_it_needs(name: str, helpers: Any) -> None:
    """Installed as it is, without what only its owner knows, it is refused."""
    helm = pytest.importorskip("helm_python")
    bare = yaml.safe_load((helpers.CHART / f"values-{name}.yaml").read_text(encoding="utf-8"))
    with pytest.raises(helm.HelmError, match=r"artifacts\.destination"):
        helpers.render(bare)


def test_sign_in_settings_are_those_of_the_server(helpers: Any) -> None:
    """What the chart hands to the server is what the server's own model of it takes."""
    from windtunnel.registry.signin import SignIn

    given = {"oidc": {"issuer": "https://id.example.org", "audience": "wt", "roles": {"a": "approver"}, "amr": ["mfa"]}}
    objects = helpers.render(helpers.merged(helpers.preset("small"), given))
    told = helpers.of(objects, "ConfigMap", "wt-registry")["data"]["WINDTUNNEL_OIDC"]
    found = SignIn.model_validate_json(told)
    assert found.roles == {"a": "approver"}
    assert found.amr == ("mfa",)
    assert found.max_hours == 24
    assert set(json.loads(told)) == set(SignIn.model_fields)


@pytest.mark.parametrize(
    ("audit", "expected"),
    [
        ({"publishUrl": ""}, None),
        ({"publishUrl": "", "publishClaim": "kept"}, "/var/lib/windtunnel-audit"),
        ({"publishUrl": "s3://audit/b"}, "s3://audit/b"),
    ],
)
def test_where_checkpoints_are_published(audit: dict[str, str], expected: str | None, helpers: Any) -> None:
    """DEMAND OPS-10: outside the database, in a place of its own."""
    on_a_volume = {"replicas": 1, "volume": {"enabled": True}}
    made = helpers.render(helpers.merged(helpers.preset("production"), {"audit": audit, "registry": on_a_volume}))
    (settings,) = [
        one["data"] for one in made if one["kind"] == "ConfigMap" and "WINDTUNNEL_AUDIT_EVERY_S" in one.get("data", {})
    ]
    assert settings.get("WINDTUNNEL_AUDIT_PUBLISH") == expected
