"""One server without standbys: what is still done when a signal ends it (DEMAND REG-7)."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import waiting

from windtunnel.loopback import any_free

SERVER = """
import sys, time
from fastapi import FastAPI
from windtunnel_mlflow import app, serve

def publish():
    open(sys.argv[2], "a").write("published ")
    time.sleep(float(sys.argv[3]))
    open(sys.argv[2], "a").write("whole ")

web = FastAPI()
app.publish_last(web, publish, 0.2 if float(sys.argv[3]) else 60)
serve.listen(web, "127.0.0.1", int(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("told", "takes_s", "published"),
    [
        (signal.SIGTERM, 0, "published whole "),
        (signal.SIGINT, 0, "published whole "),
        (signal.SIGTERM, 600, "published "),  # a place out of reach keeps nobody
    ],
)
def test_the_last_checkpoint_is_published_once(
    told: signal.Signals, takes_s: int, published: str, tmp_path: Path
) -> None:
    port, said = any_free(), tmp_path / "said"
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port), str(said), str(takes_s)])
    try:
        waiting.until(lambda: httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 404, every_s=0.05)
        assert not said.exists()
        process.send_signal(told)
        assert process.wait(60) in (0, -told)
        assert said.read_text() == published
    finally:
        process.kill()
        process.wait(60)
