"""A port of this machine that leads to a service of the cluster, for as long as it is needed."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from types import TracebackType

from windtunnel.errors import StackError
from windtunnel.loopback import any_free
from windtunnel.stack.laptop.parts import NAMESPACE, Laptop

#: Seconds between two tries: a pod that starts anew cuts the connection.
AGAIN_S = 1.0


class Forward:
    """``kubectl port-forward``, begun again when it ends; use it in a ``with``.

    Args:
        service: of the namespace.
        port: of the service.
        within_s: how long the first connection may take.
    """

    def __init__(self, laptop: Laptop, service: str, port: int, within_s: float = 60.0) -> None:
        self._where, self._within = f"service/{service}", within_s
        self._local = any_free()
        how = ("--namespace", NAMESPACE, "--address", "127.0.0.1", self._where, f"{self._local}:{port}")
        self._argv = (*laptop.kubectl, "port-forward", *how)
        self._over = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._said = ""
        self._thread = threading.Thread(target=self._keep, name=f"forward-{service}", daemon=True)

    @property
    def url(self) -> str:
        """Base URL on this machine."""
        return f"http://127.0.0.1:{self._local}"

    def __enter__(self) -> Forward:
        self._thread.start()
        end = time.monotonic() + self._within
        while not self._answers():
            if time.monotonic() > end:
                self.__exit__(None, None, None)
                raise StackError(
                    f"{self._where} of the cluster cannot be reached: {self._said or 'no answer'}",
                    hint=f"try {' '.join(self._argv)}",
                )
            self._over.wait(0.1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
        self._thread.join(10)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._local), 1.0):
                return True
        except OSError:
            return False

    def _keep(self) -> None:
        while not self._over.is_set():
            try:
                self._process = process = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                )
            except OSError as error:
                self._said = str(error)
                return
            if self._over.is_set():  # it was told while the process began
                process.terminate()
            _, said = process.communicate()
            self._said = (said or "").strip()[-300:] or self._said
            self._over.wait(AGAIN_S)
