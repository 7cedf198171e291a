"""kind, minikube, Docker, kubectl and Helm as scripts that write down how they were called; no real one is at hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from windtunnel.cli.app import app

ROOT = Path(__file__).parents[2]
FAKE = '''#!{python} -IS
"""Writes down how it was called; keeps clusters and secrets in a file; fails as it is told."""
import base64, json, os, sys

here = os.environ["FAKE_STATE"] + "/"
name, argv = sys.argv[0].rpartition("/")[2], sys.argv[1:]
call = " ".join([name, *argv])
given = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
with open(here + "calls", "a") as log:
    log.write(json.dumps({{"argv": [name, *argv], "stdin": given}}) + "\\n")
state = json.load(open(here + "state")) if os.path.exists(here + "state") else []

def keep():
    with open(here + "state", "w") as file:
        json.dump(state, file)

bad = os.environ.get("FAKE_FAIL")
if bad and bad in call:
    if "create cluster" in call or "minikube start" in call:
        state.append("cluster"); keep()  # half made
    sys.exit("it went wrong: " + bad)
if call == "kind get clusters":
    print("other\\nwindtunnel" if "cluster" in state else "other")
elif call.startswith("minikube profile list"):
    if "cluster" not in state:
        sys.exit(69)
    print(json.dumps({{"valid": [{{"Name": "windtunnel"}}], "invalid": []}}))
elif "create cluster" in call or "minikube start" in call:
    state.append("cluster"); keep()
elif "delete" in argv and name in ("kind", "minikube"):
    state.clear(); keep()
elif "imagetools" in argv:
    print("sha256:" + ("1" if "python:" in argv[3] and "airflow" not in argv[3] else "2") * 64)
elif call.endswith("get secret windtunnel --namespace windtunnel --output json"):
    print(open(here + "secret").read())
elif name == "kubectl" and "get" in argv and argv[argv.index("get") + 1] == "namespace":
    sys.exit(0 if "namespace" in state else 1)
elif name == "kubectl" and "get" in argv and argv[argv.index("get") + 1] == "secret":
    named = argv[argv.index("secret") + 1 : argv.index("--namespace")]
    sys.exit(0 if all("secret " + one in state for one in named) else 1)
elif name == "kubectl" and "create" in argv:
    if "namespace" in argv:
        state.append("namespace")
    else:
        for one in json.loads(given)["items"]:
            state.append("secret " + one["metadata"]["name"])
            if one["metadata"]["name"] == "windtunnel":
                values = {{k: base64.b64encode(v.encode()).decode() for k, v in one["stringData"].items()}}
                with open(here + "secret", "w") as file:
                    json.dump({{"data": values}}, file)
    keep()
elif name == "kubectl" and "exec" in argv and "deployment/windtunnel-registry" in argv:
    print(json.dumps({{"keys.json": "{{}}", "abc.pem": "a public key"}}))
elif name == "kubectl" and "pods" in argv:
    print(open(here + "pods").read())
print("said by", name, file=sys.stderr)
'''


class Bench:
    """A PATH with the scripts, and what they wrote down."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.bin = root, root / "bin"
        self.bin.mkdir()
        monkeypatch.setenv("FAKE_STATE", str(root))
        monkeypatch.setenv("PATH", str(self.bin))
        self.patch = monkeypatch
        self.install("kind", "docker", "kubectl", "helm")

    def install(self, *names: str) -> None:
        for name in names:
            path = self.bin / name
            path.write_text(FAKE.format(python=sys.executable))
            path.chmod(0o755)

    def remove(self, *names: str) -> None:
        for name in names:
            (self.bin / name).unlink()

    def run(self, *argv: str, fail: str = "") -> Result:
        self.patch.setenv("FAKE_FAIL", fail)
        return CliRunner().invoke(app, ["cluster", *argv])

    def up(self, *more: str, fail: str = "") -> Result:
        return self.run("up", "--checkout", str(ROOT), *more, fail=fail)

    def calls(self) -> list[dict[str, Any]]:
        path = self.root / "calls"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def asked(self) -> list[str]:
        return [" ".join(one["argv"]) for one in self.calls()]
