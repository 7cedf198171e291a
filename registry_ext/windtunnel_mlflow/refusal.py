"""A refusal: the registry says no, with a stable code, what is missing and what to do.

MLflow's clients see it as PERMISSION_DENIED with the code in front of the message, because they know only
MLflow's own codes; our endpoints answer the code itself.
"""

from __future__ import annotations

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED, RESOURCE_CONFLICT

_MLFLOW_CODE = {403: PERMISSION_DENIED, 409: RESOURCE_CONFLICT, 400: INVALID_PARAMETER_VALUE}


class Refusal(MlflowException):  # type: ignore[misc]
    """Refused, and audited by whoever opened the change.

    Args:
        code: stable ``WT_...`` code.
        message: which thing, what was expected.
        missing: what would be needed, one readable line each.
        hint: what the reader can do.
        status: HTTP status; 403 for a policy, 409 for a conflict with another change, 400 for a bad request.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        missing: tuple[str, ...] = (),
        hint: str | None = None,
        status: int = 403,
    ) -> None:
        self.code = code
        self.plain = message
        self.missing = missing
        self.hint = hint
        self.status = status
        full = f"[{code}] {message}"
        if missing:
            full += ". Missing: " + "; ".join(missing)
        if hint:
            full += f". {hint}"
        super().__init__(full, error_code=_MLFLOW_CODE[status], windtunnel_code=code, missing=list(missing))

    def to_dict(self) -> dict[str, object]:
        """The body our own endpoints answer."""
        return {"error_code": self.code, "message": self.plain, "missing": list(self.missing), "hint": self.hint}
