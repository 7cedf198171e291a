"""One list and one watch for all who follow an object: a scripted source, every way in which it can go wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from windtunnel.errors import ForbiddenError, UnavailableError
from windtunnel.kube import following
from windtunnel.kube.answers import Answer
from windtunnel.kube.following import Cut, Followed, Following, Refusal


def pod(name: str, version: int, phase: str = "Running") -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "status": {"phase": phase}}


def change(what: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": what, "object": thing}).encode()


def refusal(status: int, **headers: str) -> Refusal:
    return Refusal(Answer(status, {"kind": "Status", "message": "scripted"}, headers))


class Scripted:
    """Lists and watches in the order of the script; at its end a watch waits for ever.

    Args:
        lists: what each list answers; the last one again and again.
        watches: what each watch says: lines, or an exception that ends it.
    """

    def __init__(self, lists: list[Any], watches: list[list[Any]]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[str] = []

    async def listed(self) -> dict[str, Any]:
        self.asked.append("list")
        found = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(found, Exception):
            raise found
        return {"metadata": {"resourceVersion": str(found[0])}, "items": found[1:]}

    async def watched(self, version: str, for_s: int) -> AsyncIterator[bytes]:
        self.asked.append(f"watch {version}")
        if not self.watches:
            await asyncio.Event().wait()
        for one in self.watches.pop(0):
            if isinstance(one, Exception):
                raise one
            yield one

    async def renew(self) -> None:
        self.asked.append("renew")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_pause", lambda tried: 0.01)


def follow(source: Scripted, name: str, until: Callable[[Followed], bool], patience_s: float = 60.0) -> Followed:
    """Follow one object until it is so."""

    async def go() -> Followed:
        found = Following(source, "pods", patience_s=patience_s)
        task = asyncio.create_task(found.run())
        try:
            with found.follow(name) as one:
                while not until(one):
                    await one.changed(5.0)
                return one
        finally:
            task.cancel()

    return asyncio.run(asyncio.wait_for(go(), 60))


def phase(one: Followed) -> Any:
    return one.thing and one.thing["status"]["phase"]


def test_changes_come_by_the_watch_and_bookmarks_move_it_on() -> None:
    source = Scripted(
        [(7, pod("a", 5))],
        [[change("BOOKMARK", {"metadata": {"resourceVersion": "9"}})], [change("MODIFIED", pod("a", 12, "Failed"))]],
    )
    follow(source, "a", lambda one: phase(one) == "Failed")
    assert source.asked[:3] == ["list", "watch 7", "watch 9"], "one that ended goes on where it was"


@pytest.mark.parametrize(
    "expired", [refusal(410), change("ERROR", {"code": 410, "kind": "Status", "message": "too old"})]
)
def test_a_version_that_is_too_old_is_listed_anew_and_what_vanished_is_told(expired: Any) -> None:
    source = Scripted([(7, pod("a", 5)), (30,)], [[expired]])
    one = follow(source, "a", lambda one: one.seen and one.thing is None)
    assert one.thing is None
    assert source.asked[:4] == ["list", "watch 7", "list", "watch 30"]


def test_a_cut_goes_on_where_it_was_and_a_second_one_lists_anew() -> None:
    source = Scripted(
        [(7, pod("a", 5)), (20, pod("a", 19, "Succeeded"))],
        [[change("MODIFIED", pod("a", 8)), Cut("reset")], [Cut("refused")]],
    )
    follow(source, "a", lambda one: phase(one) == "Succeeded")
    assert source.asked[:5] == ["list", "watch 7", "watch 8", "renew", "list"]


def test_an_overloaded_api_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with Retry-After, 500 without: waited for, and the watch goes on."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(for_s: float) -> None:
        slept.append(for_s)
        await sleep(0)

    monkeypatch.setattr(following.asyncio, "sleep", noted)
    source = Scripted(
        [refusal(429, **{"retry-after": "7"}), (7, pod("a", 5))],
        [[refusal(500)], [change("MODIFIED", pod("a", 8, "Failed"))]],
    )
    follow(source, "a", lambda one: phase(one) == "Failed")
    assert slept[0] == 7.0
    assert source.asked[:4] == ["list", "list", "watch 7", "watch 7"]


def test_a_token_that_ran_out_is_renewed() -> None:
    source = Scripted([(7, pod("a", 5))], [[refusal(401)], [change("MODIFIED", pod("a", 8, "Failed"))]])
    follow(source, "a", lambda one: phase(one) == "Failed")
    assert source.asked[:4] == ["list", "watch 7", "renew", "watch 7"]


def test_a_refusal_that_stays_is_told_to_everybody() -> None:
    with pytest.raises(ForbiddenError, match="scripted"):
        follow(Scripted([refusal(403)], []), "a", lambda one: False)


def test_an_api_that_stays_away_is_told_in_the_end() -> None:
    with pytest.raises(UnavailableError, match="has not answered"):
        follow(Scripted([Cut("no route")], []), "a", lambda one: False, patience_s=0.1)


def test_words_that_nobody_understands_are_a_cut() -> None:
    source = Scripted([(7, pod("a", 5))], [[b"<html>"], [change("DELETED", pod("a", 8))]])
    follow(source, "a", lambda one: one.seen and one.thing is None)
    assert source.asked[:3] == ["list", "watch 7", "watch 7"]


def test_many_follow_by_one_list_and_one_watch() -> None:
    names = [f"pod-{at}" for at in range(50)]
    source = Scripted(
        [(7, *(pod(name, 5) for name in names))],
        [[change("MODIFIED", pod(name, 8 + at, "Failed")) for at, name in enumerate(names)]],
    )

    async def go() -> list[Any]:
        found = Following(source, "pods")

        async def one(name: str) -> Any:
            with found.follow(name) as followed:
                while phase(followed) != "Failed":
                    await followed.changed(5.0)
                return followed.name

        waiting = [asyncio.create_task(one(name)) for name in names]
        task = asyncio.create_task(found.run())
        ended = await asyncio.gather(*waiting)
        task.cancel()
        assert found.followers == 0
        return ended

    assert asyncio.run(asyncio.wait_for(go(), 60)) == names
    assert source.asked[:2] == ["list", "watch 7"] and source.asked.count("list") == 1


def test_a_cancel_in_the_moment_of_the_news_is_a_cancel() -> None:
    """DEMAND TRN-7: else a person's act is lost, and the trigger goes on."""

    async def go() -> None:
        followed = Followed("a")
        waiting = asyncio.create_task(followed.changed(60))
        await asyncio.sleep(0.01)
        followed.tell(pod("a", 1))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(go())
