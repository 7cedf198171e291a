"""DEMAND OPS-7: JSON logs with time, level, component, correlation id, operation."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from windtunnel import logs


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_has_every_field() -> None:
    out = io.StringIO()
    logs.configure("guard", as_json=True, stream=out)
    log = logging.getLogger("windtunnel.test")
    log.info("before")
    with logs.context(correlation_id="c1", operation="lease"):
        log.warning("took %s to 0", "visits", extra={"model": "visits"})
        with logs.context(operation="abort"):
            log.info("inner")
    log.info("after")
    before, warned, inner, after = lines(out)
    for line in (before, warned, inner, after):
        assert list(line)[: len(logs.FIELDS)] == list(logs.FIELDS)
        assert line["component"] == "guard"
    assert (before["correlation_id"], before["operation"]) == (None, None)
    assert (warned["correlation_id"], warned["operation"], warned["level"]) == ("c1", "lease", "warning")
    assert warned["message"] == "took visits to 0" and warned["model"] == "visits"
    assert (inner["correlation_id"], inner["operation"]) == ("c1", "abort")
    assert (after["correlation_id"], after["operation"]) == (None, None)
    assert str(before["time"]).endswith("Z")


def test_an_exception_and_odd_values_stay_one_line() -> None:
    out = io.StringIO()
    logs.configure("guard", as_json=True, stream=out)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger().exception("it failed", extra={"thing": object()})
    (line,) = lines(out)
    assert "ValueError: two" in str(line["exception"])


def test_two_tasks_do_not_mix_their_ids() -> None:
    out = io.StringIO()
    logs.configure("guard", as_json=True, stream=out)

    async def work(name: str) -> None:
        with logs.context(correlation_id=name):
            await asyncio.sleep(0)
            logging.getLogger().info(name)

    async def both() -> None:
        await asyncio.gather(work("a"), work("b"))

    asyncio.run(both())
    assert all(line["message"] == line["correlation_id"] for line in lines(out))


def test_the_human_form_tells_the_same() -> None:
    out = io.StringIO()
    logs.configure("guard", as_json=False, stream=out)
    with logs.context(correlation_id="c1", operation="lease"):
        logging.getLogger().info("hello", extra={"model": "visits"})
    text = out.getvalue()
    for part in ("INFO", "guard lease: hello", "model=visits", "[c1]"):
        assert part in text
