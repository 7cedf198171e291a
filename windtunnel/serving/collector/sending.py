"""A model server's own log, sent to a collector: every published file until it is acknowledged, then its watermark.

The files lie on the pod's disk, where they survive the death of the process. A file has one name for ever, so sending
it twice is storing it once. A watermark is sent after every file that it speaks of. No request waits for any of it.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import DescriptionError

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("windtunnel.collector.sending")

URL, TOKEN, CA = "WINDTUNNEL_COLLECTOR", "WINDTUNNEL_COLLECTOR_TOKEN", "WINDTUNNEL_COLLECTOR_CA"
#: ``1`` in the environment of a pod whose every request is a copy.
SHADOW = "WINDTUNNEL_SHADOW"
#: Statuses that another try may change.
_LATER = frozenset({401, 403, 404, 408, 429, 500, 502, 503, 504})


class Sender:
    """Sends the log below ``root``, in a thread of its own.

    Args:
        root: root of the server's prediction log; files are removed when they are acknowledged.
        url: of the collector.
        token_file: holds the bearer token; read for each round, as it may be exchanged.
        ca: authorities (PEM) of the collector's certificate.
        every_s: seconds between two rounds.
        keep_bytes: of files that cannot be sent; beyond it the oldest go, and their rows are counted as dropped. A
            full disk would end the pod.
    """

    def __init__(
        self,
        root: Path,
        url: str,
        *,
        token_file: Path | None = None,
        ca: Path | None = None,
        every_s: float = 2.0,
        keep_bytes: int = 512 * 2**20,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise DescriptionError(f"{URL} is {url!r}", hint="expected http://HOST:PORT or https://HOST:PORT")
        self._root, self._url, self._token_file, self._ca = root, url.rstrip("/"), token_file, ca
        self._every_s, self._keep_bytes = every_s, keep_bytes
        self._client: httpx.Client | None = None
        self._stop = threading.Event()
        self._lost: dict[str, int] = {}
        self.sent = 0
        self.error: str | None = None
        self._thread = threading.Thread(target=self._loop, name="prediction-log sender", daemon=True)

    def start(self) -> Sender:
        self._thread.start()
        return self

    def close(self, timeout_s: float = 5.0) -> None:
        """One last round; call it after the log's writer is closed. What is not sent by then stays on the disk."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def round(self) -> bool:
        """Send what there is; False when something has to be tried again."""
        marks = {path: path.read_bytes() for path in sorted(self._root.glob("*/_watermark/*.json"))}
        found = sorted(self._root.glob("*/date=*/hour=*/*.parquet"), key=lambda path: path.stat().st_mtime)
        found = self._bounded([path for path in found if not path.name.startswith(".")])
        try:
            for path in found:
                self._file(path)
            for path, data in marks.items():
                self._put(f"marks/{path.parts[-3]}/{path.name}", self._told(path.parts[-3], data))
        except _Later as error:
            if str(error) != self.error:
                log.warning("the prediction log stays here for now: %s", error)
            self.error = str(error)
            return False
        self.error = None
        return True

    # -- parts

    def _loop(self) -> None:
        wait, patience = self._every_s, 1
        while not self._stop.wait(wait):
            patience = 1 if self._guarded() else min(2 * patience, 15)
            wait = self._every_s * patience * random.uniform(0.8, 1.2)
        self._guarded()

    def _guarded(self) -> bool:
        try:
            return self.round()
        except Exception as error:  # whatever it is: the server serves on
            self.error = f"{type(error).__name__}: {error}"
            log.error("the prediction log cannot be sent: %s", self.error)
            return False

    def _file(self, path: Path) -> None:
        try:
            self._put("files/" + path.relative_to(self._root).as_posix(), path.read_bytes())
        except _Never as error:
            log.error("%s is refused for good: %s", path.name, error)
            self._drop(path)
            return
        path.unlink(missing_ok=True)
        self.sent += 1

    def _put(self, key: str, data: bytes) -> None:
        import httpx

        if self._client is None:
            import ssl

            verify: Any = ssl.create_default_context(cafile=str(self._ca)) if self._ca else self._url[:5] == "https"
            self._client = httpx.Client(timeout=30, verify=verify, trust_env=False)
        headers = {}
        try:
            if self._token_file is not None:
                headers["authorization"] = f"Bearer {self._token_file.read_text(encoding='utf-8').strip()}"
            answer = self._client.put(f"{self._url}/v1/{key}", content=data, headers=headers)
        except (httpx.HTTPError, OSError) as error:
            raise _Later(f"{self._url}: {error!r}") from error
        if answer.status_code in _LATER:
            raise _Later(f"{self._url} answers {answer.status_code}: {answer.text[:200]}")
        if not answer.is_success:
            raise _Never(f"{answer.status_code}: {answer.text[:200]}")

    def _told(self, model: str, data: bytes) -> bytes:
        """A watermark with what was lost here."""
        if not self._lost.get(model):
            return data
        plain = json.loads(data)
        plain["dropped"] += self._lost[model]
        return json.dumps(plain).encode()

    def _bounded(self, found: list[Path]) -> list[Path]:
        size = sum(path.stat().st_size for path in found)
        while found and size > self._keep_bytes:
            size -= found[0].stat().st_size
            self._drop(found.pop(0))
        return found

    def _drop(self, path: Path) -> None:
        import pyarrow.parquet as pq

        model = path.relative_to(self._root).parts[0]
        try:
            rows = int(pq.read_metadata(path).num_rows)
        except Exception:  # a file nobody can read has no rows to lose
            rows = 0
        self._lost[model] = self._lost.get(model, 0) + rows
        path.unlink(missing_ok=True)


class _Later(Exception):
    """Try again."""


class _Never(Exception):
    """No try helps."""


def of(root: Path, environment: Mapping[str, str]) -> Sender | None:
    """The sender that a pod's environment asks for; None when it names no collector."""
    url = environment.get(URL)
    if not url:
        return None
    token, ca = environment.get(TOKEN), environment.get(CA)
    return Sender(root, url, token_file=Path(token) if token else None, ca=Path(ca) if ca else None).start()
