"""What the Kubernetes API says when it does not take a pod: whether another try can help, and what to do. Pure."""

from __future__ import annotations

import json

from windtunnel.errors import AbsentError, ForbiddenError, TrainingError, UnavailableError

#: What the API's admission says of a pod that it forbids, and what to do. None of these is a missing right.
_FORBIDDEN = (
    ("violates PodSecurity", "what the policy names: training.pod.volumes, or a webhook that changes pods"),
    ("error looking up service account", "training.pod.service_account must be there, in the pod's namespace"),
    ("no PriorityClass", "training.pod.priority_class must be there"),
    ("runtimeclass", "training.pod.runtime_class must be there"),
    ("usage per", "a LimitRange of the namespace says so: training.resources, or the LimitRange"),
    ("exceeded quota", "the namespace's quota is used up: training.resources, or the quota"),
    ("failed quota", "the namespace's quota counts something that the pod does not ask for: the quota"),
    ("being terminated", "the namespace is being removed: training.pod.namespace"),
    ("admission webhook", "a policy of the cluster says so: whoever keeps it knows what it wants"),
    ("denied request", "a policy of the cluster says so: whoever keeps it knows what it wants"),
)


def problem(error: Exception, what: str) -> Exception:
    """An error of the Kubernetes API as one of ours: whether another try can help, and what to do.

    Args:
        what: the pod, by namespace and name.
    """
    status = getattr(error, "status", None)
    said = said_of(error)
    if status in (401, 403) and "status unknown for quota" not in said:  # a quota that nobody has counted yet
        return TrainingError(f"pod {what}: the cluster refuses ({status}): {said}", hint=_what_to_do(status, said))
    if status in (400, 404, 422):
        return TrainingError(f"pod {what}: the cluster does not take it ({status}): {said}", hint="see training.pod")
    return UnavailableError(
        f"pod {what}: the Kubernetes API does not answer ({status or type(error).__name__}): {said}"
    )


def refused(error: Exception) -> bool:
    """Whether somebody, or something that is not there, has refused, and would again: no matter of a moment."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    if isinstance(error, (AbsentError, AirflowNotFoundException, ForbiddenError, TrainingError)):
        return True
    return getattr(error, "status", None) is not None and isinstance(problem(error, ""), TrainingError)


def _what_to_do(status: int, said: str) -> str:
    if status == 401:
        return "the Airflow connection's credentials have expired or were revoked: renew them"
    lower = said.lower()
    for words, hint in _FORBIDDEN:
        if words.lower() in lower:
            return hint
    return (
        "the Airflow connection's identity needs create, get, list, watch, patch and delete on pods, get on pods/log, "
        "and list on events, in that namespace"
    )


def said_of(error: Exception) -> str:
    """The API's own words."""
    try:
        return str(json.loads(getattr(error, "body", "") or "{}")["message"])
    except (ValueError, KeyError, TypeError):
        return str(getattr(error, "reason", None) or error)[:500]
