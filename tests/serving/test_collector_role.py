"""The collector writes the log by its pod's role (IRSA), without a key; while the role is refused nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import roles
import seldonevents
import waiting
from collectors import Running

from windtunnel.loopback import any_free


def test_a_role_that_is_taken_away_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND OPS-13, SRV-6: it says whose role lacks which right, keeps what comes, and publishes it later."""
    with roles.cloud() as cloud:
        arn = cloud.role("collector", "predictions")
        given = tmp_path / "given"
        given.mkdir()
        roles.be(monkeypatch, cloud.service_account(given, arn))
        log = f"s3://{cloud.bucket}/predictions"
        options = ("--open-events", "--flush", "0.3", "--namespace", "models", "--to", log)
        running = Running(tmp_path, any_free(), options)
        running.start()

        def predict(request: str) -> None:
            for what, body in (("request", seldonevents.asks(5.0)), ("response", seldonevents.answers(6.0))):
                assert running.send(what, request, body).status_code == 202

        def files() -> int:
            found = cloud.admin("s3").list_objects_v2(Bucket=cloud.bucket, Prefix="predictions/").get("Contents", [])
            return sum(str(one["Key"]).endswith(".parquet") for one in found)

        try:
            predict("first")
            waiting.until(lambda: running.alive() and files() == 1, every_s=0.1)
            cloud.allow(arn, "predictions", without="s3:PutObject")
            predict("second")
            waiting.until(lambda: running.alive() and running.number("flush_problem") == 1, every_s=0.1)
            assert re.search(f"refuses .* asked by role {arn}", (tmp_path / "out").read_text())
            assert files() == 1
            cloud.allow(arn, "predictions")
            waiting.until(lambda: running.alive() and files() == 2, every_s=0.1)
            waiting.until(lambda: running.number("flush_problem") == 0, every_s=0.1)
        finally:
            assert running.end() == 0
