"""One list and one watch for everybody in a process who waits for an object of the same kind and namespace.

The asynchronous sibling of ``watching``: hundreds of coroutines follow an object each, and the API is asked as if it
were one. What a follower sees is the newest state, never each of its steps. An object that is gone is told as such,
even when it vanished while the watch was cut: then everything is listed again.

Without any library: a ``Source`` lists and watches, the caller's own way.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from windtunnel.errors import UnavailableError, WindtunnelError
from windtunnel.kube.answers import AGAIN, LONGEST_WAIT_S, Answer, error_of, wait_before

log = logging.getLogger(__name__)

#: The API ends a watch after this long. A connection that died without a word is noticed a little later.
FOR_S = 120
#: Refusals in a row that may be a moment's (a token just renewed, a webhook that restarts).
REFUSALS = 4
#: Seconds without an answer that are worth a word to those who wait.
TROUBLE_S = 20.0


class Refusal(Exception):
    """The API answered with a status of 400 or above."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status}: {answer.message}")
        self.answer = answer


class Cut(Exception):
    """No answer, or one that broke off."""


class Source(Protocol):
    """The API, as far as following needs it."""

    async def listed(self) -> Mapping[str, Any]:
        """The list, with its ``metadata.resourceVersion``.

        Raises:
            Refusal, Cut: as they say.
        """

    def watched(self, version: str, for_s: int) -> AsyncIterator[bytes]:
        """Changes since ``version``, one JSON text each; ends when the API ends it.

        Raises:
            Refusal, Cut: as they say.
        """

    async def renew(self) -> None:
        """Connect anew with fresh credentials, before the next call."""


class Followed:
    """One object as one follower sees it.

    Attributes:
        name: of the object.
        thing: its newest state; None while it is not there.
        seen: it was there once: with ``thing`` None, it is gone.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.thing: dict[str, Any] | None = None
        self.seen = False
        self._error: WindtunnelError | None = None
        self._new = asyncio.Event()

    def tell(self, thing: dict[str, Any] | None) -> None:
        """Its state is this now."""
        if thing is None and not self.seen:
            return
        self.thing, self.seen = thing, True
        self._new.set()

    def fail(self, error: WindtunnelError) -> None:
        """Nobody will tell anything any more."""
        self._error = error
        self._new.set()

    async def changed(self, within: float) -> bool:
        """Wait until there is something new, ``within`` seconds at most; whether there was.

        Raises:
            WindtunnelError: it cannot be followed.
        """
        # Not ``wait_for``: before Python 3.12 it loses a cancel that comes in the moment of the news.
        try:
            async with asyncio.timeout(max(0.0, within)):
                await self._new.wait()
        except TimeoutError:
            return False
        self._new.clear()
        if self._error is not None:
            raise self._error
        return True


class Following:
    """Everything of one kind in one namespace, kept as it is.

    Args:
        source: lists and watches.
        what: for messages: ``pods in namespace training``.
        patience_s: seconds without any answer after which followers are told that it is in vain.

    Attributes:
        objects: by name, what is known now.
        listed: set when there was a first list, or none can be had.
        trouble: why nothing has been heard for a while; None where all is well.
    """

    def __init__(self, source: Source, what: str, *, for_s: int = FOR_S, patience_s: float = 3600.0) -> None:
        self.source, self.what = source, what
        self.for_s, self.patience_s = for_s, patience_s
        self.objects: dict[str, dict[str, Any]] = {}
        self.listed = asyncio.Event()
        self.trouble: str | None = None
        self._followers: dict[str, set[Followed]] = {}
        self._error: WindtunnelError | None = None

    @property
    def over(self) -> bool:
        """It has given up; whoever comes now needs another."""
        return self._error is not None

    @contextmanager
    def follow(self, name: str) -> Iterator[Followed]:
        """Follow one object, there or not yet there."""
        found = Followed(name)
        if (thing := self.objects.get(name)) is not None:
            found.tell(thing)
        if self._error is not None:
            found.fail(self._error)
        self._followers.setdefault(name, set()).add(found)
        try:
            yield found
        finally:
            rest = self._followers[name]
            rest.discard(found)
            if not rest:
                del self._followers[name]

    @property
    def followers(self) -> int:
        return sum(map(len, self._followers.values()))

    async def run(self) -> None:
        """Keep up to date, until cancelled or until the API refuses for good: then followers are told."""
        try:
            await self._run()
        except WindtunnelError as error:
            self._give_up(error)
        except Exception as error:  # whatever it is, nobody may wait for ever
            log.exception("Following %s ended", self.what)
            self._give_up(UnavailableError(f"cannot follow {self.what}: {type(error).__name__}: {error}"))

    def _give_up(self, error: WindtunnelError) -> None:
        log.warning("%s", error)
        self._error = error
        self.listed.set()
        for followers in self._followers.values():
            for one in followers:
                one.fail(error)

    async def _run(self) -> None:
        version: str | None = None
        failed = refused = 0
        heard = time.monotonic()
        while True:
            try:
                if version is None:
                    version = await self._list()
                    failed = refused = 0
                    heard = time.monotonic()
                began = time.monotonic()
                async for line in self.source.watched(version, self.for_s):
                    version = self._take(line, version)
                    failed = refused = 0
                    heard = time.monotonic()
                failed = refused = 0
                heard = time.monotonic()
                if heard - began < 1.0:  # an API that ends every watch at once is not asked in a circle
                    await asyncio.sleep(1.0)
            except Refusal as refusal:
                answer = refusal.answer
                if answer.status == 410:  # too old a version: everything anew
                    version, failed = None, failed + 1
                    wait = _pause(failed - 1) if failed > 1 else 0.0
                elif answer.status in AGAIN:
                    failed += 1
                    wait = min(wait_before(answer, failed), LONGEST_WAIT_S)
                else:
                    refused += 1
                    if refused >= REFUSALS:
                        raise error_of(answer, f"list and watch {self.what}") from refusal
                    await self.source.renew()
                    wait = _pause(refused)
                await self._wait(wait, refusal, heard)
            except Cut as cut:
                failed += 1
                if failed > 1:  # a watch that was cut once goes on where it was
                    version = None
                    await self.source.renew()
                await self._wait(_pause(failed - 1) if failed > 1 else 0.0, cut, heard)
            else:
                self.trouble = None

    async def _wait(self, wait_s: float, why: Exception, heard: float) -> None:
        """Before another try.

        Raises:
            UnavailableError: there was no answer for too long.
        """
        away = time.monotonic() - heard
        if away > self.patience_s:
            raise UnavailableError(
                f"cannot follow {self.what}: the Kubernetes API has not answered for {away:.0f} s: {why}",
                hint="is its address right, and can the triggerer reach it?",
            ) from why
        if away > TROUBLE_S:
            self.trouble = f"the Kubernetes API does not answer ({why}); what runs there goes on"
        log.info("%s: %s; again in %.1f s", self.what, why, wait_s)
        await asyncio.sleep(wait_s)

    async def _list(self) -> str:
        found = await self.source.listed()
        version = str(found["metadata"]["resourceVersion"])
        fresh = {_name(item): item for item in found.get("items") or []}
        before, self.objects = self.objects, fresh
        for name in self._followers:
            if name in fresh:
                if _version(before.get(name)) != _version(fresh[name]):
                    self._tell(name, fresh[name])
            else:
                self._tell(name, None)
        self.listed.set()
        self.trouble = None
        return version

    def _take(self, line: bytes, version: str) -> str:
        """One change; the version that the watch has come to."""
        try:
            plain = json.loads(line)
            what, thing = plain["type"], plain["object"]
        except (ValueError, KeyError, TypeError) as error:
            raise Cut(f"a watch said what nobody understands: {line[:200]!r}") from error
        if what == "ERROR":
            raise Refusal(Answer(int(thing.get("code") or 500), thing, {}))
        if what != "BOOKMARK":
            name = _name(thing)
            if what == "DELETED":
                self.objects.pop(name, None)
                self._tell(name, None)
            else:
                self.objects[name] = thing
                self._tell(name, thing)
        return str(thing["metadata"].get("resourceVersion") or version)

    def _tell(self, name: str, thing: dict[str, Any] | None) -> None:
        for one in self._followers.get(name, ()):
            one.tell(thing)


def _pause(tried: int) -> float:
    """Seconds before the next try: doubling to half a minute, and never two processes at the same moment."""
    return min(0.5 * 2.0 ** (tried - 1), 30.0) * random.uniform(0.75, 1.25)


def _name(thing: Mapping[str, Any]) -> str:
    return str(thing["metadata"]["name"])


def _version(thing: Mapping[str, Any] | None) -> Any:
    return thing["metadata"].get("resourceVersion", object()) if thing is not None else None
