"""Whoever reaches the object store does so by a role and no key, as on EKS; what is said where the role is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import roles
from botocore.utils import ContainerMetadataFetcher

from windtunnel.data import objects, sources
from windtunnel.data.objects import S3Objects
from windtunnel.errors import DataError, UnavailableError
from windtunnel.registry import auditfiles
from windtunnel.serving.predictions import labelstore

As = Callable[[dict[str, str]], None]


@pytest.fixture(scope="module")
def cloud() -> Iterator[roles.Cloud]:
    with roles.cloud() as made:
        yield made


@pytest.fixture
def as_pod(monkeypatch: pytest.MonkeyPatch) -> As:
    """Be a process with these variables of AWS', and no others."""
    return lambda variables: roles.be(monkeypatch, variables)


@pytest.fixture(params=["service_account", "association"])
def given(request: pytest.FixtureRequest, cloud: roles.Cloud, tmp_path: Path) -> dict[str, str]:
    """What a pod of the role for ``steps`` is given by EKS: IRSA, or Pod Identity."""
    found: dict[str, str] = getattr(cloud, request.param)(tmp_path, cloud.role("training", "steps"))
    return found


def test_every_way_to_the_store_takes_the_pods_role(
    given: dict[str, str], cloud: roles.Cloud, as_pod: As, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND TRN-2, OPS-13: trainings, steps, predictions, labels, data, the audit, MLflow's artifacts."""
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    as_pod(given)
    url = f"s3://{cloud.bucket}/steps"
    store = objects.connect(f"{url}/{tmp_path.name}")
    large = tmp_path / "large"
    large.write_bytes(b"0" * (9 * 2**20))
    store.put("whole", large)
    store.put("asked", large, lambda: None)
    assert store.get("whole", tmp_path / "back") and (tmp_path / "back").read_bytes() == large.read_bytes()
    assert (store.get_bytes("none"), store.put_new("new", b"1"), store.put_new("new", b"2")) == (None, True, False)
    assert set(store.sizes("")) == set(store.times("")) == {"whole", "asked", "new"}
    store.delete(["whole", "asked"])
    rows = pd.DataFrame({"a": [1, 2]})
    store.put_bytes("rows.csv", rows.to_csv(index=False).encode())
    assert [name for name, _ in sources._s3(f"{url}/{tmp_path.name}/*.csv")] == [f"{url}/{tmp_path.name}/rows.csv"]
    labelled = {"prediction_id": "p", "label": 1.0, "label_time": 1.8e9, "source": "x"}
    assert labelstore.hand_in(f"{url}/{tmp_path.name}/log", "sea", [labelled]) == 1
    assert labelstore.bring(f"{url}/{tmp_path.name}/log", tmp_path / "labels", "sea") == 1
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", cloud.url)
    place = auditfiles.place(f"{url}/{tmp_path.name}/audit")
    place.put("1.json", "{}")
    assert place.read("1.json") == "{}"
    artifacts = S3ArtifactRepository(f"{url}/{tmp_path.name}/registry")
    (tmp_path / "MLmodel").write_text("m")
    artifacts.log_artifact(str(tmp_path / "MLmodel"))
    assert [one.path for one in artifacts.list_artifacts()] == ["MLmodel"]


def test_a_token_that_is_renewed_is_read_again(
    given: dict[str, str], cloud: roles.Cloud, as_pod: As, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubelet renews it long before a session ends; what was first read of it counts no more by then."""
    monkeypatch.setattr(cloud, "good_for", 300.0)  # boto3 asks anew
    as_pod(given)
    store = objects.connect(f"s3://{cloud.bucket}/steps")
    store.put_bytes("a", b"1")
    first = cloud.presented[-1]
    file = Path(given.get("AWS_WEB_IDENTITY_TOKEN_FILE") or given["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"])
    second = cloud.renew(file, cloud.trusted[first])
    assert store.get_bytes("a") == b"1"
    assert cloud.presented[-1] == second != first


def test_a_role_without_the_right_is_told_with_its_name(cloud: roles.Cloud, as_pod: As, tmp_path: Path) -> None:
    """Also of an upload, which boto3 wraps: it was taken for a store that is away, and tried for minutes."""
    arn = cloud.role("other", "elsewhere")
    as_pod(cloud.service_account(tmp_path, arn))
    store = objects.connect(f"s3://{cloud.bucket}/steps")
    file = tmp_path / "file"
    file.write_bytes(b"1")
    asked: list[tuple[str, Callable[[], Any]]] = [
        ("s3:PutObject", lambda: store.put("a", file)),
        ("s3:PutObject", lambda: store.put("a", file, lambda: None)),
        ("s3:PutObject", lambda: store.put_bytes("a", b"1")),
        ("s3:GetObject", lambda: store.get_bytes("a")),
        ("s3:GetObject", lambda: store.get("a", tmp_path / "b")),
        ("s3:DeleteObject", lambda: store.delete(["a"])),
        ("s3:ListBucket", lambda: objects.connect("s3://" + _another(cloud)).sizes("")),
    ]
    for right, ask in asked:
        with pytest.raises(DataError) as refused:
            ask()
        assert arn in refused.value.message and "refuses" in refused.value.message, right
        assert right in (refused.value.hint or "") and "install-on-eks.md" in (refused.value.hint or "")


def _another(cloud: roles.Cloud) -> str:
    cloud.admin("s3").create_bucket(
        Bucket=f"{cloud.bucket}-2", CreateBucketConfiguration={"LocationConstraint": roles.REGION}
    )
    return f"{cloud.bucket}-2"


def test_a_service_account_that_may_not_assume_the_role_is_told(
    cloud: roles.Cloud, as_pod: As, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)  # between tries
    none = str(tmp_path / "no")
    url, mine, theirs = f"s3://{cloud.bucket}/steps", cloud.role("mine", "steps"), cloud.role("theirs", "steps")
    by_role = cloud.service_account(tmp_path, mine)
    for wrong, said, mend in (
        ({"AWS_ROLE_ARN": theirs}, f"STS refuses role {theirs}: AccessDenied", "trust policy"),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": none}, f"role {mine} is had cannot be read", "service account"),
        ({"AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, "does not answer", ""),
    ):
        as_pod({**by_role, **wrong})
        with pytest.raises(UnavailableError if not mend else DataError) as refused:
            objects.connect(url).put_bytes("a", b"1")
        assert said in refused.value.message and mend in (refused.value.hint or ""), wrong
    as_pod({name: value for name, value in by_role.items() if name != "AWS_ROLE_ARN"})
    with pytest.raises(DataError, match="role ARN"):
        objects.connect(url).put_bytes("a", b"1")
    cloud.renew(Path(by_role["AWS_WEB_IDENTITY_TOKEN_FILE"]), mine)
    associated = cloud.association(tmp_path, mine)
    token = Path(associated["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"])
    cloud.trusted.pop(token.read_text())
    as_pod(associated)
    with pytest.raises(DataError, match="given no credentials") as refused:
        objects.connect(url)
    assert "create-pod-identity-association" in (refused.value.hint or "")
    token.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        objects.connect(url)
    as_pod({**associated, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/v1/credentials"})  # fmt: skip
    with pytest.raises(UnavailableError, match="given no credentials"):
        objects.connect(url)


def test_where_the_store_is_comes_from_the_chain_too(as_pod: As, tmp_path: Path) -> None:
    """Endpoint, region, address and authority: by variables, and by AWS' own file."""
    (tmp_path / "ca.crt").write_text("")
    given = {
        "AWS_ENDPOINT_URL_S3": "https://s3.example.org", "AWS_DEFAULT_REGION": "eu-north-1",
        "AWS_CA_BUNDLE": str(tmp_path / "ca.crt"), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
    }  # fmt: skip
    as_pod(given)
    client = _client()
    assert (client.meta.endpoint_url, client.meta.region_name) == ("https://s3.example.org", "eu-north-1")
    assert client._endpoint.http_session._verify == str(tmp_path / "ca.crt")
    assert _address(client) == "https://s3.example.org/bucket/key"
    (tmp_path / "config").write_text("[default]\ns3 =\n    addressing_style = virtual\n")
    as_pod({**given, "AWS_CONFIG_FILE": str(tmp_path / "config")})
    assert _address(_client()) == "https://bucket.s3.example.org/key"


def _client() -> Any:
    store = objects.connect("s3://bucket/x")
    assert isinstance(store, S3Objects)
    return store._client


def _address(client: Any) -> str:
    found: str = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"})
    return found.partition("?")[0]
