"""What S3, or who gives out credentials for it, answers no to: as our errors, with who asked and what to do."""

from __future__ import annotations

import email.utils
import os
import time
from typing import Any

from windtunnel.errors import DataError, UnavailableError, WindtunnelError

#: Answers that another try may change; everything else is an answer.
_LATER = frozenset(
    {"InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "Throttling", "ThrottlingException",
     "RequestLimitExceeded", "ConditionalRequestConflict", "500", "502", "503", "504", "429",
     # Of credentials that end: the next try, or the next pod, has others.
     "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "IDPCommunicationError"}
)  # fmt: skip
#: A HEAD has no body, and so no other code.
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "403"})
#: Seconds by which S3 lets clocks differ, less those of a request that is under way. A HEAD's 403 does not say which.
_SKEW_S = 14 * 60.0
#: What a role has to allow for a request that has another name than that.
_RIGHTS = {
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
}
_TOKEN_FILES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
_ROLES = "docs/how-to/install-on-eks.md"
#: botocore's name of where credentials came from -> whose they are.
_WHOSE = {
    "container-role": "the role that is associated with this pod's service account",
    "env": "the key in AWS_ACCESS_KEY_ID",
    "explicit": "the key of the connection",
    "iam-role": "the node's own role, for this process was given none",
    "shared-credentials-file": "the key in AWS' credentials file",
}


def refusal(raised: BaseException, url: str, key: str, client: Any = None) -> WindtunnelError | None:
    """Our error for what boto3 raised; None: it is nothing that the store, or who gives out credentials, said.

    Args:
        url, key: of the store, and what was asked for there.
        client: the client that asked; None: there was none yet.
    """
    from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]
    from botocore.exceptions import (  # type: ignore[import-untyped]
        BotoCoreError,
        ClientError,
        CredentialRetrievalError,
        InvalidConfigError,
        NoCredentialsError,
        PartialCredentialsError,
        ProfileNotFound,
    )

    if isinstance(raised, Boto3Error) and isinstance(raised.__context__, ClientError):
        raised = raised.__context__  # an upload wraps the answer
    if isinstance(raised, NoCredentialsError):
        return DataError(
            f"{url}: no credentials found for {key!r}",
            hint="give AWS_* variables by training.pod.secrets, or a role by training.pod.service_account",
        )
    if isinstance(raised, CredentialRetrievalError):
        return _not_given(raised, url)
    if isinstance(raised, ClientError):
        by_sts = raised.operation_name.startswith("AssumeRole")
        return _no_role(raised, url) if by_sts else _no_right(raised, url, key, client)
    if isinstance(raised, InvalidConfigError | PartialCredentialsError | ProfileNotFound):
        return DataError(f"{url} cannot be asked for {key!r}: {raised}", hint="see the AWS_* variables, and AWS' files")
    if isinstance(raised, BotoCoreError | Boto3Error):
        return UnavailableError(f"{url} does not answer for {key!r}: {raised}")
    if isinstance(raised, OSError) and raised.filename in _token_files():
        return DataError(
            f"{url}: the token by which {_role()} is had cannot be read: {raised}",
            hint="it is put into a pod when the pod is made: is its service account the annotated one?",
        )
    return None


def _no_right(raised: Any, url: str, key: str, client: Any) -> WindtunnelError:
    said = code(raised)
    if said in _LATER:
        return UnavailableError(f"{url} answers {said} to {key!r}: try again later")
    if (behind := _behind(raised, said)) is not None:
        off = f"{abs(behind) / 60:.0f} minutes {'behind' if behind > 0 else 'ahead of'}"
        # Another pod may be on a node whose clock is right.
        return UnavailableError(
            f"{url} refuses {key!r}: this machine's clock is {off} the store's",
            hint="set the clock of this machine, or of the store, by NTP: S3 takes no request that is signed more than "
            "15 minutes off",
        )
    if said in _DENIED:
        asked = raised.operation_name
        right, bucket = f"s3:{_RIGHTS.get(asked, asked)}", url.removeprefix("s3://").partition("/")[0]
        more = "" if right == "s3:ListBucket" else f" below {url}, and s3:ListBucket of {bucket}"
        return DataError(
            f"{url} refuses {key!r}: {said}, asked by {_who(client)}",
            hint=f"allow it {right}{more}: {_ROLES}; or check whose credentials this process has",
        )
    return DataError(
        f"{url} refuses {key!r}: {said}, asked by {_who(client)}",
        hint="check the bucket's name and who may read and write it",
    )


def _behind(raised: Any, said: str) -> float | None:
    """By how many seconds our clock is behind the store's, where that is why it refuses; None: it is not why."""
    headers = (raised.response.get("ResponseMetadata") or {}).get("HTTPHeaders") or {}
    try:
        behind = email.utils.parsedate_to_datetime(headers["date"]).timestamp() - time.time()
    except (KeyError, TypeError, ValueError):
        behind = 0.0
    skewed = said == "RequestTimeTooSkewed" or (said in _DENIED and abs(behind) > _SKEW_S)
    return behind if skewed else None


def _no_role(raised: Any, url: str) -> WindtunnelError:
    """STS' answer to the token of a service account."""
    said = code(raised)
    if said in _LATER:
        return UnavailableError(f"{url}: STS answers {said} for {_role()}: try again later")
    return DataError(
        f"{url}: STS refuses {_role()}: {said}",
        hint="the role's trust policy has to name the cluster's OIDC provider and this pod's service account "
        f"(system:serviceaccount:NAMESPACE:NAME), the account's annotation the role: {_ROLES}",
    )


def _not_given(raised: BaseException, url: str) -> WindtunnelError:
    """The node's agent gave no credentials (EKS Pod Identity)."""
    text = f"{url}: this pod's service account is given no credentials: {raised}"
    if "response 4" in str(raised):
        return DataError(text, hint=f"associate a role with it (aws eks create-pod-identity-association): {_ROLES}")
    return UnavailableError(text, hint="does EKS' Pod Identity agent run on this node, and may this pod reach it?")


def _who(client: Any) -> str:
    """Whose credentials the client has, as far as they tell."""
    # botocore tells nobody: which step of its chain found them is known to the signer alone.
    credentials = getattr(getattr(client, "_request_signer", None), "_credentials", None)
    method = str(getattr(credentials, "method", None))
    if method == "assume-role-with-web-identity":
        return _role()
    return _WHOSE.get(method, f"credentials of {method}")


def _role() -> str:
    name = os.environ.get("AWS_ROLE_ARN")
    return f"role {name}" if name else "the role of this pod's service account"


def _token_files() -> set[str]:
    return {found for name in _TOKEN_FILES if (found := os.environ.get(name))}


def code(error: Any) -> str:
    """What a ``ClientError`` says in one word."""
    return str((error.response.get("Error") or {}).get("Code") or "unknown")
