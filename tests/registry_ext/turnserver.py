"""A server of nothing but its turn: every 20 ms it writes its name into a table, and it answers with what it was sent.

python turnserver.py URL PORT LEASE
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import Any

from sqlalchemy import create_engine, text

from windtunnel_mlflow.cluster import leading
from windtunnel_mlflow.cluster.rules import Times

url, port, lease = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])


def make() -> leading.Made:
    engine = create_engine(url)

    def write() -> None:
        while True:
            # A session that the next server ended is opened anew: then this one has to be gone.
            with contextlib.suppress(Exception), engine.begin() as connection:
                connection.execute(text("INSERT INTO turns (server) VALUES (:port)"), {"port": port})
            time.sleep(0.02)

    threading.Thread(target=write, daemon=True).start()
    return leading.Made(app, lambda: True, lambda: None)


async def app(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    told = b"%d %s %s?%s " % (port, scope["method"].encode(), scope["raw_path"], scope["query_string"])
    hosts = [value for key, value in scope["headers"] if key == b"host"]
    headers = [(b"x-two", b"1"), (b"x-two", b"2"), (b"x-host", hosts[0])]
    await send({"type": "http.response.start", "status": 207, "headers": headers})
    await send({"type": "http.response.body", "body": told, "more_body": True})
    await send({"type": "http.response.body", "body": body})


leading.serve(url, "127.0.0.1", port, times=Times(lease), make=make, prepare=lambda: None)
