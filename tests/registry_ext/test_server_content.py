"""DEMAND REG-3: what a real registry seals is looked through, signed, and verified again; what would run code fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.errors import IntegrityError
from windtunnel.evidence.manifest import Manifest
from windtunnel.safety import signature
from windtunnel.safety.keys import KeyRing
from windtunnel.serving import verification

pytestmark = pytest.mark.real

EVIL = {"model/model.pkl": b"cos\nsystem\n(S'true'\ntR."}
LINEAR = {"model/model.pkl": b"\x80\x02csklearn.linear_model._base\nLinearRegression\n)\x81."}


def register(service: Any, hands: Any, files: dict[str, bytes], formats: dict[str, Any] | None = None) -> Any:
    run_id = hands.run(files)
    return service.register(
        hands.model(),
        source=f"runs:/{run_id}/model",
        run_id=run_id,
        recipe={"formats": formats} if formats else {},
        correlation_id="c1",
        cause="test",
    )


@pytest.mark.parametrize("formats", [None, {"pickle": True, "trust": ["shop", "os"]}])
def test_a_dangerous_file_fails_the_registration_with_evidence(
    service: Any, hands: Any, registry_server: Any, formats: Any
) -> None:
    run_id, model = hands.run(EVIL), hands.model()
    with pytest.raises(IntegrityError, match=r"os\.system is not on the list") as told:
        service.register(
            model,
            source=f"runs:/{run_id}/model",
            run_id=run_id,
            recipe={"formats": formats},
            correlation_id="c1",
            cause="test",
        )
    assert "training.trust" in str(told.value)
    (record,) = service.versions(model)
    assert (record.status, record.digest) == ("FAILED_REGISTRATION", None)
    (posted,) = service.verdicts(model, kind="scan")
    assert (str(posted.verdict.outcome), posted.claimed, posted.verdict.actor) == ("FAIL", False, "windtunnel")
    assert posted.verdict.numbers["findings"][0]["path"] == "model.pkl"


def test_a_pickle_needs_the_descriptions_leave(service: Any, hands: Any, person_client: Any) -> None:
    with pytest.raises(IntegrityError, match=r"training\.pickle"):
        register(service, hands, LINEAR)
    record = register(service, hands, LINEAR, {"pickle": True, "trust": []})
    assert record.ready
    (posted,) = service.verdicts(record.model, kind="scan", subject=record.digest)
    assert str(posted.verdict.outcome) == "PASS"
    assert posted.verdict.numbers["names"] == ["sklearn.linear_model._base.LinearRegression"]


def test_a_sealed_version_is_signed_and_verifies(service: Any, hands: Any, registry_server: Any) -> None:
    record = register(service, hands, {"model/weights": b"1234"})
    sealed = Manifest.from_dict(record.manifest)
    ring = KeyRing.of(registry_server.home)
    assert signature.verify(sealed, ring, model=record.model) == ring.keys()[-1].id
    found = verification.verify(registry_server.home, record)
    assert found.whole and found.size == sealed.size
    identifier = service.post_verdict(found.verdict(1.0))
    assert identifier != service.post_verdict(found.verdict(2.0))


def rewrite(sealed: Manifest, path: Any) -> Manifest:
    path.write_bytes(b"5678")
    return sealed


def unsigned(sealed: Manifest, path: Any) -> Manifest:
    return replace(sealed, signature=None)


@pytest.mark.parametrize(("damage", "said"), [(rewrite, "weights"), (unsigned, "no signature")])
def test_damage_in_the_store_and_a_row_without_a_signature_are_found(
    service: Any, hands: Any, registry_server: Any, damage: Callable[..., Manifest], said: str
) -> None:
    record = register(service, hands, {"model/weights": b"1234"})
    sealed = Manifest.from_dict(record.manifest)
    changed = damage(sealed, registry_server.artifacts / str(record.location) / "weights")
    found = verification.verify(registry_server.home, replace(record, manifest=changed.to_dict()))
    assert not found.whole
    assert said in found.reason
    assert str(found.verdict(1.0).outcome) == "FAIL"


def test_the_steward_looks_again_and_fails_on_damage(
    service: Any, hands: Any, registry_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files rewritten in place after they were sealed are found by the scheduled task, and are evidence then."""
    from windtunnel_airflow.operators.steward import IntegrityOperator, _Steward

    good, bad = (register(service, hands, {"model/weights": b"1234"}) for _ in range(2))

    class Two:
        """The registry with these two models only: others' versions in it are none of this test's business."""

        def __getattr__(self, name: str) -> Any:
            return getattr(service, name)

        def models(self) -> list[Any]:
            return [found for found in service.models() if found.name in (good.model, bad.model)]

    holder = SimpleNamespace(home=registry_server.home, registry=Two())
    monkeypatch.setattr(_Steward, "hook", property(lambda self: holder))
    task = IntegrityOperator(task_id="integrity")
    assert task.execute({}) == {"looked": 2, "unknown": []}
    (registry_server.artifacts / str(bad.location) / "weights").write_bytes(b"5678")
    with pytest.raises(IntegrityError, match=bad.model) as told:
        task.execute({})
    assert good.model not in str(told.value)
    newest = {record.model: service.verdicts(record.model, kind="integrity")[0] for record in (good, bad)}
    assert {name: str(posted.verdict.outcome) for name, posted in newest.items()} == {
        good.model: "PASS", bad.model: "FAIL",
    }  # fmt: skip

    small = IntegrityOperator(task_id="small", budget=0)
    (registry_server.artifacts / str(bad.location) / "weights").write_bytes(b"1234")
    assert small.execute({}) == {"looked": 1, "unknown": []}, "one is always looked at"
