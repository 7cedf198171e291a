"""Halves brought to the collectors that are at home for their predictions, in a thread of its own.

No sender waits for any of it, and a collector that is away is told once, in the log and in the metrics.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.serving.collector import guests
from windtunnel.serving.collector.guests import Batch
from windtunnel.serving.collector.keeper import Keeper
from windtunnel.serving.collector.outbox import Said

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("windtunnel.collector.handing")

#: What may be left out between two tries to reach one that is away (seconds), at most.
_PATIENCE_S = 5.0
_LEAVING_S = 30.0
#: Answers of one that certainly keeps nothing of a batch. After 5xx it may have a part.
_NOT_TAKEN = range(400, 500)


class Handing:
    """Empties a keeper's outbox.

    Args:
        peers: the other collectors: name -> URL.
        token_file: holds the bearer token; read for each batch, as it may be exchanged.
        ca: authorities (PEM) of their certificates.
        identity: folder with ``tls.crt`` and ``tls.key``, where they ask for a certificate.
        every_s: seconds between two rounds.
        timeout_s: of one request.
    """

    def __init__(
        self,
        keeper: Keeper,
        peers: Mapping[str, str],
        *,
        token_file: Path | None = None,
        ca: Path | None = None,
        identity: Path | None = None,
        every_s: float = 1.0,
        timeout_s: float = 10.0,
    ) -> None:
        self._keeper, self._peers, self._token_file = keeper, dict(peers), token_file
        self._ca, self._identity, self._every_s, self._timeout_s = ca, identity, every_s, timeout_s
        self._client: httpx.Client | None = None
        self._again: dict[str, tuple[float, float]] = {}  # of those that are away: when, and the wait after that
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="handing", daemon=True)
        #: Collectors that do not take what is theirs, and why.
        self.away: dict[str, str] = {}

    def start(self) -> None:
        if self._peers:
            self._thread.start()

    def stop(self) -> None:
        """End the thread; ``leave`` may be called then."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(2 * self._timeout_s)

    def round(self) -> None:
        """Hand over what there is to those that may be there."""
        for name in self._peers:
            if time.monotonic() >= self._again.get(name, (0.0, 0.0))[0]:
                self._bring(name)

    def leave(self, budget_s: float = 40.0) -> bool:
        """This collector ends: give everything that waits to one that lives.

        Returns:
            Whether the watermarks of all that have taken something of it speak of that.

        Raises: like ``Keeper.leave``.
        """
        end = time.monotonic() + budget_s
        self._keeper.leave()
        gone: set[str] = set()
        # Who was given something a moment ago may not have said so yet: all are asked.
        for name in sorted(self._peers):
            if time.monotonic() > end or not self._bring(name, leaving=True):
                gone.add(name)
                self._keeper.readdress(gone)
        if not gone:
            self._keeper.forget_holds()
            return True
        for name in sorted(set(self._peers) - gone):
            if time.monotonic() < end:
                self._bring(name, leaving=True)
        return False

    # -- parts

    def _loop(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.round()
            except Exception as error:  # whatever it is: events are taken all the same
                log.error("cannot hand over: %s", error, extra={"operation": "hand"})

    def _bring(self, name: str, *, leaving: bool = False) -> bool:
        """Everything for one collector; whether it took it, and (``leaving``) its watermarks speak of it."""
        asked = False
        while True:
            halves = self._keeper.to_hand(name, guests.COUNT)
            if not halves and (asked or not leaving):
                self._back(name)
                return True
            asked = True
            said, why, renewed = Said.UNSURE, "it was not tried", False
            try:
                said, why, renewed = self._post(name, Batch(self._keeper.instance, name, tuple(halves), leaving))
            finally:
                self._keeper.handed(halves, said)
            if said is not Said.TOOK or (leaving and not renewed):
                self._gone(name, why)
                return False

    def _post(self, name: str, batch: Batch) -> tuple[Said, str, bool]:
        import httpx

        url = f"{self._peers[name]}/v1/halves"
        headers = {"content-type": "application/json"}
        try:
            if self._token_file is not None:
                headers["authorization"] = f"Bearer {self._token_file.read_text(encoding='utf-8').strip()}"
            if self._client is None:
                self._client = httpx.Client(timeout=self._timeout_s, verify=self._verify(), trust_env=False)
        except (OSError, ValueError) as error:
            return Said.NOT, f"{error!r}", False
        try:
            # One that is left in charge publishes before it answers.
            limit = httpx.Timeout(_LEAVING_S if batch.leaving else self._timeout_s, connect=5.0)
            answer = self._client.post(url, content=guests.written(batch), headers=headers, timeout=limit)
        except httpx.HTTPError as error:
            self._client.close()
            self._client = None
            sure = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            return Said.NOT if sure else Said.UNSURE, f"{url}: {error!r}", False
        if answer.status_code == 202:
            return Said.TOOK, "its log could not be written", answer.json().get("renewed") is True
        why = f"{url} answers {answer.status_code}: {answer.text[:200]}"
        return Said.NOT if answer.status_code in _NOT_TAKEN else Said.UNSURE, why, False

    def _verify(self) -> Any:
        if self._ca is None and self._identity is None:
            return True
        context = ssl.create_default_context(cafile=str(self._ca) if self._ca is not None else None)
        if self._identity is not None:
            context.load_cert_chain(self._identity / "tls.crt", self._identity / "tls.key")
        return context

    def _gone(self, name: str, why: str) -> None:
        if name not in self.away:
            log.warning("collector %s does not take what is its own: %s", name, why, extra={"operation": "hand"})
        self.away[name] = why
        wait = self._again.get(name, (0.0, self._every_s))[1]
        self._again[name] = (time.monotonic() + wait * random.uniform(0.8, 1.2), min(2 * wait, _PATIENCE_S))

    def _back(self, name: str) -> None:
        if self.away.pop(name, None) is not None:
            log.info("collector %s is there again", name, extra={"operation": "hand"})
            self._again.pop(name, None)
