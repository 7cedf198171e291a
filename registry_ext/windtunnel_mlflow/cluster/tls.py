"""TLS by files that somebody else renews: cert-manager, or whoever writes the secret.

A mounted secret is exchanged under the process. New connections get the new certificate; no restart is needed.
"""

from __future__ import annotations

import logging
import ssl
import threading
from pathlib import Path

from windtunnel.errors import StackError

_logger = logging.getLogger(__name__)

#: Names in a secret of type ``kubernetes.io/tls``.
CERTIFICATE, KEY = "tls.crt", "tls.key"
#: Seconds between two looks at the files; the kubelet itself takes up to a minute or two.
EVERY = 30.0


def context(folder: Path) -> ssl.SSLContext:
    """A server's context with the pair in ``folder``; TLS 1.2 and later.

    Raises:
        StackError: a file is missing, or they are not a pair.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(made, folder)
    return made


def followed(folder: Path, every: float = EVERY) -> ssl.SSLContext:
    """``context``, which takes up the files again whenever they change, until the process ends."""
    made = context(folder)
    threading.Thread(target=_follow, args=(made, folder, every), name="windtunnel-tls", daemon=True).start()
    return made


def _follow(made: ssl.SSLContext, folder: Path, every: float) -> None:
    never, seen = threading.Event(), _stamp(folder)
    while not never.wait(every):
        now = _stamp(folder)
        if now == seen or now is None:
            continue
        try:
            _load(made, folder)
            seen = now
            _logger.info("took up the renewed certificate in %s", folder)
        except StackError as error:
            # Half exchanged, or wrong: the old pair goes on, and the next look tries again.
            _logger.warning("%s", error)


def _stamp(folder: Path) -> tuple[int, ...] | None:
    try:
        found = [(folder / name).stat() for name in (CERTIFICATE, KEY)]
    except OSError:
        return None
    return tuple(number for one in found for number in (one.st_mtime_ns, one.st_ino, one.st_size))


def _load(made: ssl.SSLContext, folder: Path) -> None:
    try:
        made.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    except (OSError, ssl.SSLError) as error:
        raise StackError(
            f"{folder} holds no usable pair {CERTIFICATE} and {KEY}: {error}",
            hint="expected a secret of type kubernetes.io/tls, mounted there",
        ) from error
