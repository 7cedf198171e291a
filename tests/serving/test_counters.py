"""What one request adds to: arms, audience, copies, segments; bounded, and the same after restarts and rotations."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from windtunnel.home import Home
from windtunnel.serving.backend import Traffic
from windtunnel.serving.traffic.counters import MAX_SEGMENTS, MAX_VERSIONS, Counters
from windtunnel.serving.traffic.meter import Meter, read_traffic

ROUTES = {"split": "infer:visits", "audience": "audience:visits", "shadow": "shadow"}


def line(kind: str = "split", version: str = "1", segment: str | None = None, **more: Any) -> str:
    plain = {"time": "1767225600123", "model": "visits", "version": version, "status": 200, "response_flags": "-",
             "duration_us": 2500, "route": ROUTES[kind], "segment": segment}  # fmt: skip
    return json.dumps(plain | more)


def shares(counters: Counters) -> dict[str, Any]:
    """Part, segment and version to requests."""
    counts = counters.models["visits"]
    flat = {"arms": counts.arms, "audience": counts.audience, "shadow": counts.shadow}
    nested = {"segments": counts.segments, "shadow_segments": counts.shadow_segments}
    found: dict[str, Any] = {part: {v: tally.requests for v, tally in arms.items()} for part, arms in flat.items()}
    for part, segments in nested.items():
        found[part] = {name: {v: tally.requests for v, tally in arms.items()} for name, arms in segments.items()}
    return {part: value for part, value in found.items() if value}


def test_each_request_is_counted_where_it_belongs() -> None:
    counters = Counters()
    for one in (line(), line(segment="de"), line("shadow", "2", "de"), line("audience", "2", "de"), line(version="2")):
        counters.add(one)
    assert shares(counters) == {
        "arms": {"1": 2, "2": 1},
        "audience": {"2": 1},
        "shadow": {"2": 1},
        "segments": {"de": {"1": 1}},
        "shadow_segments": {"de": {"2": 1}},
    }
    assert sum(pair[0] for pair in counters.recent["visits"]["2"].values()) == 2, "what people got: no copies"


@pytest.mark.parametrize(
    ("status", "flags", "error"),
    [(200, "-", False), (404, "-", False), (500, "-", True), (503, "UF", True), (503, "UO", True),
     (0, "DC", True), (200, "DC", True)],
)  # fmt: skip
def test_a_copy_whose_router_gave_up_is_the_candidates_error(status: int, flags: str, error: bool) -> None:
    counters = Counters()
    counters.add(line("shadow", "2", status=status, response_flags=flags))
    tally = counters.models["visits"].shadow["2"]
    assert (tally.requests, tally.errors, tally.disconnects) == (1, int(error), 0)


def test_segments_are_bounded_and_those_a_release_names_have_their_place() -> None:
    counters = Counters(named={"visits": frozenset({"gold", "silver"})})
    for n in range(500):
        counters.add(line(segment=f"s{n}"))
    for name in ("gold", "silver", "s0", "bad name", "x" * 41, "other"):
        counters.add(line(segment=name))
    found = shares(counters)["segments"]
    assert found.pop("gold") == found.pop("silver") == {"1": 1}
    assert found.pop("other") == {"1": 500 - MAX_SEGMENTS + 3}
    assert found == {f"s{n}": {"1": 2 if n == 0 else 1} for n in range(MAX_SEGMENTS)}


def test_versions_of_long_ago_are_let_go_everywhere() -> None:
    counters = Counters()
    for n in range(MAX_VERSIONS + 20):
        for kind in ROUTES:
            counters.add(line(kind, str(n), "de", time=str(1767225600000 + 1000 * n)))
    counters.forget(1767225600)
    found = shares(counters)
    for versions in (found["arms"], found["audience"], found["shadow"], found["segments"]["de"]):
        assert len(versions) == MAX_VERSIONS
        assert "19" not in versions and "20" in versions


def test_counts_survive_being_written_down() -> None:
    counters = Counters()
    for kind in ROUTES:
        counters.add(line(kind, "2", "de", status=500))
    again = Counters.from_dict(json.loads(json.dumps(counters.to_dict())))
    assert (again.models, again.epoch) == (counters.models, counters.epoch)


def test_the_counts_of_an_older_meter_go_on(tmp_path: Path) -> None:
    home = Home(tmp_path)
    counters = Counters()
    counters.add(line())
    arms = counters.to_dict()["models"]["visits"]["arms"]
    state = home.serving / "traffic" / "_meter.json"
    state.parent.mkdir(parents=True)
    old = {"v": 1, "epoch": "e", "malformed": 0, "other": 0, "models": {"visits": arms}, "files": {}}
    state.write_text(json.dumps(old))
    Meter(home).step(force=True)
    found = read_traffic(home, "visits")
    assert (found.epoch, found.arms["1"].requests, found.shadow) == ("e", 1, {})


def total(traffic: Traffic) -> dict[str, int]:
    flat = {"arms": [traffic.arms], "audience": [traffic.audience], "shadow": [traffic.shadow],
            "segments": traffic.segments.values(), "shadow_segments": traffic.shadow_segments.values()}  # fmt: skip
    return {part: sum(arm.requests for arms in many for arm in arms.values()) for part, many in flat.items()}


@pytest.mark.parametrize("seed", range(8))
def test_no_part_loses_or_doubles_a_request_over_restarts_and_rotations(tmp_path: Path, seed: int) -> None:
    """A meter is killed at any moment (only what was kept counts) and the log is rotated under it: one epoch, and
    each counter is what was written, at every look."""
    rng, home = random.Random(seed), Home(tmp_path)
    home.access_log.parent.mkdir(parents=True)
    written = dict.fromkeys(("arms", "audience", "shadow", "segments", "shadow_segments"), 0)
    meter, epochs, number = Meter(home, rotate_bytes=2000, keep=3, reopen=lambda _: True), set(), 0
    for _ in range(60):
        for _ in range(rng.randrange(8)):
            kind, segment = rng.choice(list(ROUTES)), rng.choice([None, "de", "us"])
            number += 1
            with home.access_log.open("a") as log:
                log.write(line(kind, rng.choice("12"), segment, request_id=f"r{number}") + "\n")
            written["arms" if kind == "split" else kind] += 1
            if segment and kind != "audience":
                written["segments" if kind == "split" else "shadow_segments"] += 1
        if rng.random() < 0.3:
            meter.step()  # read, perhaps not kept ...
            meter.close()  # ... and killed
            meter = Meter(home, rotate_bytes=2000, keep=3, reopen=lambda _: True)
        else:
            meter.step(force=True)
            found = read_traffic(home, "visits") if number else None
            if found:
                assert total(found) == written
                epochs.add(found.epoch)
    assert len(epochs) == 1
    assert list(home.access_log.parent.glob("access.jsonl.*")), "the log was rotated"


def test_the_segments_a_release_names_are_learned_from_its_desired_state(tmp_path: Path) -> None:
    home = Home(tmp_path)
    folder = home.serving_model("visits")
    folder.mkdir(parents=True)
    home.access_log.parent.mkdir(parents=True)
    meter = Meter(home)

    def send(*names: str) -> dict[str, int]:
        with home.access_log.open("a") as log:
            log.writelines(line(segment=name) + "\n" for name in names)
        meter.step(force=True)
        return {name: arms["1"].requests for name, arms in read_traffic(home, "visits").segments.items()}

    send(*(f"s{n}" for n in range(MAX_SEGMENTS)))
    assert "gold" not in send("gold")
    (folder / "desired.json").write_text(json.dumps({"release": {"segments": ["gold"]}}))
    found = send("gold", "silver")
    assert (found["gold"], found["other"]) == (1, 2)
    (folder / "desired.json").write_text("{torn")
    found = send("gold", "silver")
    assert (found["gold"], found["other"]) == (2, 3), "a state that cannot be read names nothing, and harms nothing"
