"""What the benchmarks print is what the page keeps, and the load generators count alike."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench import load, quiet
from bench.__main__ import HEAD, NAMES, kept
from bench.pairs import paired
from bench.table import Table


def test_the_page_keeps_each_benchmark_once_and_in_order() -> None:
    page = HEAD
    for name in reversed(NAMES):
        page = kept(page, name, f"## {name}\n\nold\n")
    again = kept(page, "router", "## router\n\nnew \\1\n")
    assert [line[3:] for line in again.splitlines() if line.startswith("## ")] == list(NAMES)
    assert again.count("old") == len(NAMES) - 1 and again.count("new \\1") == 1
    assert again.startswith(HEAD)
    assert kept(again, "router", "## router\n\nnew \\1\n") == again


def test_a_table_says_what_was_missed() -> None:
    table = Table("T", ("a", "b"))
    with pytest.raises(ValueError, match="2 cells"):
        table.add("1")
    table.add("1", "2")
    table.demand("fast", "slow", False)
    assert not table.met
    unknown = Table("U", ("a",))
    unknown.demand("fast", "?", None)
    assert not unknown.met and "**Not shown**" in unknown.markdown()
    assert "| 1 | 2 |" in table.markdown() and "**Missed**: fast: slow." in table.markdown()


def test_what_was_measured_while_others_worked_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, others = [0.0], [0.0]
    monkeypatch.setattr(quiet.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(quiet, "_busy", lambda: clock[0] + others[0])
    monkeypatch.setattr(quiet, "_ours", lambda: clock[0])
    shares = iter([0.0, 1.0, 0.1, 0.9, 0.0] + [1.0] * 99)

    def once(n: int) -> int:
        share = next(shares)
        clock[0] += 10
        others[0] += 10 * share
        return n

    found = quiet.measure(once, 3, 1000)
    assert (found.values, found.left_out, found.quiet) == ([0, 1, 2], 2, True)
    assert found.shows(True) is True and found.shows(False) is False
    found = quiet.measure(once, 3, 60)
    assert (len(found.values), found.quiet) == (6, False)
    assert found.shows(True) is None, "a number of a shared machine shows nothing"


#: A child works, and is looked at while it lives and after its end; prints both counts, the truth, and the machine's.
OURS = """
import json, subprocess, sys, time
from bench import quiet
busy, before, own = quiet._busy(), quiet._ours(), time.process_time()
code = "import time\\nwhile time.process_time() < 0.4: pass\\nprint(time.process_time(), flush=True); input()"
with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
    used = float(child.stdout.readline())
    alive = quiet._ours() - before - (time.process_time() - own)
    child.stdin.write("\\n")
ended = quiet._ours() - before - (time.process_time() - own)
busy = quiet._busy() - busy
print(json.dumps({"used": used, "alive": alive, "ended": ended, "busy": busy}))
"""


def test_our_own_work_is_not_foreign() -> None:
    """Real processes, by processor time and not by the clock, so that a loaded machine gives the same; in a process of
    its own, for this one may have other children. Ticks of 10 ms are counted, and a child's end is work too."""
    done = subprocess.run(
        [sys.executable, "-c", OURS], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert abs(told["alive"] - told["used"]) < 0.2
    assert abs(told["ended"] - told["used"]) < 0.2
    # The machine's count is of ticks, some of which a virtual machine does not get.
    assert told["busy"] > 0.5 * told["used"]


def test_pairs_are_compared_pair_by_pair() -> None:
    a, b = iter([9.0, 2.0, 4.0, 8.0]), iter([9.0, 1.0, 2.0, 2.0])
    found = paired(lambda: next(a), lambda: next(b), rounds=3)
    assert (found.a, found.b, found.ratio, found.low, found.high) == (4.0, 2.0, 2.0, 2.0, 4.0)


class Counting(ThreadingHTTPServer):
    """Answers 200 to whoever posts the right body, else 500, and counts."""

    def __init__(self) -> None:
        self.counted = 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Counting

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.counted += 1
        self.send_response(200 if body == b'{"x": 1}' else 500)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Counting]:
    with Counting() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("tool", ["wrk", "own"])
def test_a_burst_counts_what_the_server_counts(server: Counting, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if tool == "wrk" and not shutil.which("wrk"):
        pytest.skip("wrk is not installed; the other generator is used")
    if tool == "own":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    url = f"http://127.0.0.1:{server.server_address[1]}/infer"
    found = load.burst(url, b'{"x": 1}', connections=2, seconds=1)
    assert found.requests <= server.counted <= found.requests + 2
    assert found.seconds > 0.8 and 0 < found.p50_ms <= found.p99_ms
    calm = load.burst(url, b'{"x": 1}', connections=2, seconds=1, pause_ms=50)
    assert 0 < calm.rate < 80  # a pause of 50 ms allows 40 at most
    with pytest.raises(RuntimeError, match="failed"):
        load.burst(url, b"{}", connections=1, seconds=1)
