"""What to do about a pod that the cluster does not take; the API's own words, pure."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from windtunnel.errors import TrainingError, UnavailableError
from windtunnel_airflow.pods.refusals import problem


@pytest.mark.parametrize(
    ("status", "said", "error", "hint"),
    [
        (403, 'pods is forbidden: User "airflow" cannot create resource "pods" in API group "" in the namespace "t"',
         TrainingError, "needs create, get, list"),
        (403, 'pods "a" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes (volume "x")',
         TrainingError, "the policy names"),
        (403, 'pods "a" is forbidden: error looking up service account t/sea: serviceaccount "sea" not found',
         TrainingError, "service_account"),
        (403, 'pods "a" is forbidden: no PriorityClass with name high was found', TrainingError, "priority_class"),
        (403, 'pods "a" is forbidden: pod rejected: RuntimeClass "nvidia" not found', TrainingError, "runtime_class"),
        (403, 'pods "a" is forbidden: maximum memory usage per Container is 1Gi, but limit is 3Gi', TrainingError,
         "LimitRange"),
        (403, 'pods "a" is forbidden: failed quota: team: must specify requests.storage', TrainingError, "quota"),
        (403, 'pods "a" is forbidden: status unknown for quota: team, resources: pods', UnavailableError, None),
        (403, 'admission webhook "policy.example.com" denied the request: no image from there', TrainingError,
         "a policy of the cluster"),
        (401, "Unauthorized", TrainingError, "have expired"),
        (422, 'Pod "a" is invalid: spec.containers[0].image: Required value', TrainingError, "training.pod"),
        (500, "etcdserver: request timed out", UnavailableError, None),
    ],
)  # fmt: skip
def test_each_refusal_says_what_to_do(status: int, said: str, error: type[Exception], hint: str | None) -> None:
    """DEMAND TRN-5, PIP-3: a missing right is told only where a right is missing."""
    given = SimpleNamespace(status=status, body=json.dumps({"message": said}))
    found = problem(given, "t/a")  # type: ignore[arg-type]
    assert type(found) is error and said in str(found)
    assert hint is None or hint in str(found.hint)  # type: ignore[attr-defined]
