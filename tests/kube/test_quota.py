"""A namespace's refusal for its quota, read; pure."""

from __future__ import annotations

from windtunnel.tracking.pods.quota import over_quota

SAID = (
    'pods "wt-a-1" is forbidden: exceeded quota: team-a, requested: limits.memory=2Gi,requests.nvidia.com/gpu=1, '
    "used: limits.memory=31Gi,requests.nvidia.com/gpu={used}, limited: limits.memory=32Gi,requests.nvidia.com/gpu={all}"
)


def test_what_is_used_now_may_be_free_later() -> None:
    """DEMAND TRN-8"""
    found = over_quota(SAID.format(used=4, all=4))
    assert found is not None and (found.name, found.never) == ("team-a", False)
    assert found.words == ("limits.memory: asked 2Gi, used 31Gi of 32Gi; requests.nvidia.com/gpu: asked 1, used 4 of 4")


def test_what_nobody_may_have_never_is() -> None:
    """DEMAND TRN-5"""
    found = over_quota(SAID.format(used=0, all=0))
    assert found is not None and found.never


def test_other_refusals_are_not_a_quotas() -> None:
    assert over_quota('pods is forbidden: User "a" cannot create resource "pods"') is None
    assert over_quota("forbidden: status unknown for quota: a, resources: pods") is None
