"""S3 that asks who is calling, and the two ways by which a pod on EKS comes to a role: STS for a service account's
token (IRSA), and the node's agent (Pod Identity). Buckets, roles, policies, signatures and sessions are moto's own; the
token, which moto lets pass whatever it is, is looked at here."""

from __future__ import annotations

import io
import json
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import pytest

REGION = "eu-west-1"
ACCOUNT = "123456789012"
ACTIONS = ("s3:ListBucket", "s3:GetBucketLocation"), (
    "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload",
)  # fmt: skip
_STS = "https://sts.amazonaws.com/doc/2011-06-15/"


@dataclass
class Cloud:
    """One account, with a bucket.

    Attributes:
        trusted: token -> ARN of the role that it may be exchanged for; any other is refused.
        presented: tokens, as they came.
        good_for: seconds until a session ends. Below ten minutes boto3 asks anew before each request.
    """

    bucket: str = field(default_factory=lambda: f"b-{secrets.token_hex(6)}")
    trusted: dict[str, str] = field(default_factory=dict)
    presented: list[str] = field(default_factory=list)
    good_for: float = 3600.0
    url: str = ""
    _keys: dict[str, str] = field(default_factory=dict)
    _clients: dict[str, Any] = field(default_factory=dict)

    def admin(self, service: str) -> Any:
        """A client with the one pair of keys there is."""
        import boto3

        if service not in self._clients:
            session = boto3.session.Session(region_name=REGION, **self._keys)
            self._clients[service] = session.client(service, endpoint_url=self.url)
        return self._clients[service]

    def begin(self, url: str) -> None:
        """The account, its administrator, an empty bucket. From then on every request has to be signed."""
        from moto.iam.models import iam_backends

        self.url, everything = url, {"Effect": "Allow", "Action": "*", "Resource": "*"}
        iam, name = iam_backends[ACCOUNT]["aws"], f"admin-{secrets.token_hex(4)}"
        iam.create_user("us-east-1", name)
        iam.put_user_policy(name, "all", _policy(everything))
        key = iam.create_access_key(name)
        self._keys = {"aws_access_key_id": key.access_key_id, "aws_secret_access_key": key.secret_access_key}
        self.admin("s3").create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": REGION})

    def role(self, name: str, *prefixes: str) -> str:
        """A role with the rights that the how-to gives, below these prefixes of the bucket; its ARN."""
        name = f"{name}-{secrets.token_hex(4)}"
        trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        made = self.admin("iam").create_role(RoleName=name, AssumeRolePolicyDocument=_policy(trust))
        arn: str = made["Role"]["Arn"]
        self.allow(arn, *prefixes)
        return arn

    def allow(self, arn: str, *prefixes: str, without: str = "") -> None:
        """Gives the role these rights, and takes from it any other.

        Args:
            without: an action that it is not allowed.
        """
        bucket, (whole, inner) = (
            f"arn:aws:s3:::{self.bucket}",
            ([one for one in some if one != without] for some in ACTIONS),
        )
        rights = [{"Effect": "Allow", "Action": inner, "Resource": f"{bucket}/{one}/*"} for one in prefixes]
        if prefixes:
            # Where several objects are removed at once AWS asks for the right to each, moto for that to their bucket.
            whole += [one for one in inner if one == "s3:DeleteObject"]
            rights.append({"Effect": "Allow", "Action": whole, "Resource": bucket})
        name, iam = arn.rpartition("/")[2], self.admin("iam")
        if rights:
            iam.put_role_policy(RoleName=name, PolicyName="theirs", PolicyDocument=_policy(*rights))

    def service_account(self, folder: Path, arn: str) -> dict[str, str]:
        """What EKS' webhook puts into a pod whose service account is annotated with a role."""
        file = folder / "token"
        self.renew(file, arn)
        return {
            "AWS_ROLE_ARN": arn, "AWS_WEB_IDENTITY_TOKEN_FILE": str(file), "AWS_STS_REGIONAL_ENDPOINTS": "regional",
            **self.region(), "AWS_ENDPOINT_URL_STS": self.url,
        }  # fmt: skip

    def association(self, folder: Path, arn: str) -> dict[str, str]:
        """What EKS' agent of Pod Identity puts into a pod whose service account is associated with a role."""
        file = folder / "eks-pod-identity-token"
        self.renew(file, arn)
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.url}/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(file), "AWS_STS_REGIONAL_ENDPOINTS": "regional",
            **self.region(),
        }  # fmt: skip

    def region(self) -> dict[str, str]:
        """Where, without who."""
        return {"AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL_S3": self.url}

    def renew(self, file: Path, arn: str) -> str:
        """Another token in that file, as the kubelet puts it there; those before count no more."""
        if file.exists():
            self.trusted.pop(file.read_text(), None)
        token = secrets.token_urlsafe(24)
        self.trusted[token] = arn
        fresh = file.with_name(f".{file.name}")
        fresh.write_text(token)
        fresh.chmod(0o644)
        fresh.replace(file)
        return token

    # -- the two doors
    def answer(self, path: str, form: dict[str, str], token: str) -> tuple[int, str, str] | None:
        """Status, content type and text; None: it is no question of who somebody is."""
        if path == "/v1/credentials":
            found = self._session(token, None)
            if isinstance(found, str):
                return 403, "text/plain", found
            names = {"SessionToken": "Token"}
            return 200, "application/json", json.dumps({names.get(key, key): value for key, value in found.items()})
        if form.get("Action") != "AssumeRoleWithWebIdentity":
            return None
        found = self._session(form["WebIdentityToken"], form["RoleArn"])
        if isinstance(found, str):
            error = (
                f"<Type>Sender</Type><Code>{found}</Code><Message>Not authorized to perform {form['Action']}</Message>"
            )
            return 403, "text/xml", f'<ErrorResponse xmlns="{_STS}"><Error>{error}</Error></ErrorResponse>'
        inner = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in found.items())
        kind = form["Action"]
        return 200, "text/xml", (
            f'<{kind}Response xmlns="{_STS}"><{kind}Result><Credentials>{inner}</Credentials></{kind}Result>'
            f"</{kind}Response>"
        )  # fmt: skip

    def _session(self, token: str, arn: str | None) -> dict[str, str] | str:
        self.presented.append(token)
        if token not in self.trusted:
            return "InvalidIdentityToken"
        if arn is not None and self.trusted[token] != arn:
            return "AccessDenied"
        made = self.admin("sts").assume_role(RoleArn=self.trusted[token], RoleSessionName="pod")["Credentials"]
        ends = datetime.now(UTC) + timedelta(seconds=self.good_for)
        return {**made, "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}


def be(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    """This process has these variables of AWS', and no others; what boto3 remembers of another is forgotten."""
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@contextmanager
def cloud() -> Iterator[Cloud]:
    """An account of its own, served on loopback. Until the end every S3 server of this process asks for signatures."""
    pytest.importorskip("moto.server")
    from moto import settings
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server
    from werkzeug.wrappers import Request, Response

    made, moto = Cloud(), DomainDispatcherApplication(create_backend_app)

    def served(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        asked = Request(environ)
        form: dict[str, str] = {}
        if asked.path == "/" and asked.mimetype == "application/x-www-form-urlencoded":
            body = asked.get_data(parse_form_data=False)
            form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
            environ["wsgi.input"] = io.BytesIO(body)
        said = made.answer(asked.path, form, environ.get("HTTP_AUTHORIZATION", ""))
        if said is None:
            return moto(environ, start)
        return Response(said[2], said[0], content_type=said[1])(environ, start)

    server = make_server("127.0.0.1", 0, served, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    before, settings.INITIAL_NO_AUTH_ACTION_COUNT = settings.INITIAL_NO_AUTH_ACTION_COUNT, 0
    try:
        made.begin(f"http://127.0.0.1:{server.server_port}")
        yield made
    finally:
        settings.INITIAL_NO_AUTH_ACTION_COUNT = before
        server.shutdown()
        thread.join()
        server.server_close()


def _policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})
