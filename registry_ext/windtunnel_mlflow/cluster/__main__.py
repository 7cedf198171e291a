"""``python -m windtunnel_mlflow.cluster COMMAND``: what the registry's image runs.

serve      the server; secrets from the folder WINDTUNNEL_SECRETS, its own files in WINDTUNNEL_HOME. Of several on one
           database one serves, the others pass requests on to it and take over when it ends
migrate    bring the database's schema up to date, and end
downgrade  take our tables back to a revision, before an older image
check      a real check of a running server, and end
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from windtunnel.errors import UnavailableError, WindtunnelError
from windtunnel.home import Home


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    try:
        return _run(_parser().parse_args(argv))
    except WindtunnelError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  -> {error.hint}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m windtunnel_mlflow.cluster", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="the server")
    serve.add_argument("--host", default="0.0.0.0", help="address to listen at")
    serve.add_argument("--port", type=int, default=5000)
    serve.add_argument("--tls", type=Path, help="folder with tls.crt and tls.key, and ca.crt of who signed them")
    serve.add_argument("--address", help="HOST or HOST:PORT where the other servers of this registry reach this one")
    serve.add_argument(
        "--lease",
        type=float,
        default=10.0,
        help="seconds without PostgreSQL after which it ends itself; the same at all servers of a registry",
    )
    serve.add_argument("--startup", type=float, default=300.0, help="seconds it may take to be ready in its turn")
    migrate = commands.add_parser("migrate", help="bring the schema up to date")
    migrate.add_argument("--role", help="the server's own database role, where it does not own the tables")
    downgrade = commands.add_parser("downgrade", help="take our tables back, before an older image")
    downgrade.add_argument("revision", help="revision that the older image knows")
    downgrade.add_argument("--wait", type=float, default=120.0, help="seconds to wait until no server serves")
    check = commands.add_parser("check", help="a real check of a running server")
    check.add_argument("--url", required=True)
    check.add_argument("--ca", type=Path, help="PEM file of who signed the server's certificate")
    check.add_argument("--wait", type=float, default=0.0, help="seconds to wait for an answer")
    return parser


def _run(given: argparse.Namespace) -> int:
    from windtunnel_mlflow.cluster import mounted

    if given.command == "check":
        from windtunnel_mlflow.cluster.checking import check

        check(given.url.rstrip("/"), mounted.secret("mlflow-service"), ca=given.ca, wait=given.wait)
        return 0

    os.umask(0o077)
    home = Home.find()
    if given.command == "serve":
        if given.tls is not None:
            from windtunnel import tls

            tls.context(given.tls)  # before the database is touched
        from windtunnel_mlflow import serve
        from windtunnel_mlflow.cluster import leading
        from windtunnel_mlflow.cluster.rules import Times

        mounted.prepare(home, given.port)
        serve.settle()
        leading.serve(
            mounted.database_url(), given.host, given.port, given.tls, address=given.address,
            times=Times(given.lease), limit=given.startup, before=_brought_up,
        )  # fmt: skip
    elif given.command == "migrate":
        mounted.prepare(home, 0)
        with _database():
            _upgrade(given.role)
    else:
        from windtunnel_mlflow.cluster import schema

        with _database():
            schema.downgrade(mounted.database_url(), given.revision, given.wait)
        print(f"the registry's tables are at revision {given.revision}")
    return 0


def _brought_up() -> None:
    with _database():
        _upgrade(auth=False)


def _upgrade(role: str | None = None, *, auth: bool = True) -> None:
    from windtunnel_mlflow.cluster import mounted, schema

    done = schema.upgrade(mounted.database_url(), role, auth=auth)
    print("the schema was brought up to date" if done else "the schema is up to date", flush=True)


@contextmanager
def _database() -> Iterator[None]:
    """The driver's errors name host and user, never the password; a traceback with the URL helps nobody."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        raise UnavailableError(
            f"the database does not do what is asked: {str(error.orig).strip()}",
            hint="is it up, does the network policy let this pod in, has the role the right to change the schema?",
        ) from None


if __name__ == "__main__":
    sys.exit(main())
