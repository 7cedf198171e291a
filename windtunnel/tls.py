"""TLS of a server by files that somebody else renews: cert-manager, or whoever writes the secret.

A mounted secret is exchanged under the process. New connections get the new certificate; no restart is needed.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

from windtunnel.errors import DescriptionError

log = logging.getLogger(__name__)

#: Names in a secret of type ``kubernetes.io/tls``.
CERTIFICATE, KEY = "tls.crt", "tls.key"
#: Seconds between two looks at the files; the kubelet itself takes up to a minute or two.
EVERY_S = 30.0


def context(folder: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """A server's context with the pair in ``folder``; TLS 1.2 and later.

    Args:
        client_ca: senders must show a certificate by one of these authorities.

    Raises:
        DescriptionError: a file is missing, or they are not a pair.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(made, folder)
    if client_ca is not None:
        try:
            made.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise DescriptionError(f"{client_ca} holds no authorities: {error}") from error
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def followed(folder: Path, client_ca: Path | None = None, every_s: float = EVERY_S) -> ssl.SSLContext:
    """``context``, which takes up renewed files by itself until the process ends.

    Each handshake takes the newest pair that was whole, by the callback that a client's hello calls: a context into
    which a pair is loaded has, for a moment, a certificate without its key, and refuses everybody.
    """
    files = [folder / CERTIFICATE, folder / KEY, *([client_ca] if client_ca else [])]
    seen = _stamp(files)  # before they are read: what is renewed meanwhile is taken up at the first look
    made = context(folder, client_ca)
    newest = [made]

    def choose(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        connection.context = newest[0]

    def follow() -> None:
        nonlocal seen
        never = threading.Event()
        while not never.wait(every_s):
            now = _stamp(files)
            if now is None or now == seen:
                continue
            try:
                newest[0] = context(folder, client_ca)
                seen = now
                log.info("took up the renewed certificate in %s", folder)
            except DescriptionError as error:  # half exchanged: the old pair goes on, the next look tries again
                log.warning("%s", error)

    made.sni_callback = choose
    threading.Thread(target=follow, name="tls", daemon=True).start()
    return made


def authorities() -> ssl.SSLContext | bool:
    """Whose certificates a client believes, as httpx takes it: those in the file that ``SSL_CERT_FILE`` names, else the
    usual ones. httpx reads the variable by itself only where it may take proxies from the environment as well.

    Raises:
        DescriptionError: the file cannot be read.
    """
    named = os.environ.get("SSL_CERT_FILE")
    if not named:
        return True
    try:
        return ssl.create_default_context(cafile=named)
    except (OSError, ssl.SSLError) as error:
        raise DescriptionError(f"SSL_CERT_FILE: {named} holds no authorities: {error}") from error


def _stamp(files: Sequence[Path]) -> tuple[int, ...] | None:
    try:
        found = [file.stat() for file in files]
    except OSError:
        return None
    return tuple(number for one in found for number in (one.st_mtime_ns, one.st_ino, one.st_size))


def _load(made: ssl.SSLContext, folder: Path) -> None:
    try:
        made.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    except (OSError, ssl.SSLError) as error:
        raise DescriptionError(
            f"{folder} holds no usable pair {CERTIFICATE} and {KEY}: {error}",
            hint="expected a secret of type kubernetes.io/tls, mounted there",
        ) from error
