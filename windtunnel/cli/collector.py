"""``windtunnel collector``: take pods' predictions into the prediction log, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NAME = "collector"


def command(
    spool: Annotated[Path, typer.Option(help="Folder of its own for what is not published yet; on a disk that stays.")],
    to: Annotated[str, typer.Option(help="The prediction log: file:///FOLDER or s3://BUCKET/PREFIX.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    instance: Annotated[str, typer.Option(help="Its name among collectors of one log.")] = "0",
    peer: Annotated[
        list[str] | None, typer.Option(help="NAME=URL of a collector of the same log; several times, for each.")
    ] = None,
    peer_ca: Annotated[Path | None, typer.Option(help="Authorities (PEM) of their certificates.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token that senders show.")] = None,
    open_events: Annotated[
        bool, typer.Option("--open-events", help="Events need no token: Seldon's executor can show none.")
    ] = False,
    tls: Annotated[Path | None, typer.Option(help="Folder with tls.crt and tls.key.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Authorities (PEM) by which senders' certificates must be.")
    ] = None,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Take events of this namespace only; several times.")
    ] = None,
    sample: Annotated[
        list[str] | None, typer.Option(help="MODEL=FRACTION: keep so many of its predictions; several times.")
    ] = None,
    flush: Annotated[float, typer.Option(min=0.1, help="Seconds between two publications.")] = 10.0,
    window: Annotated[float, typer.Option(min=1.0, help="Seconds a request waits for its answer's event.")] = 60.0,
    hand: Annotated[float, typer.Option(min=0.1, help="Seconds a half waits before it goes to its home.")] = 5.0,
    max_waiting: Annotated[int, typer.Option(min=1, help="Events that may wait for the disk; beyond: 429.")] = 2000,
    max_held: Annotated[int, typer.Option(min=1, help="MiB of events not published yet; beyond: 429.")] = 256,
) -> None:
    """Collect pods' rows into the prediction log.

    They are events of Seldon's request logger, or what model servers send. Ends with Ctrl-C or SIGTERM; what it was
    sent survives any end.
    """
    import ipaddress

    from windtunnel import logs
    from windtunnel.errors import DescriptionError
    from windtunnel.serving.collector import homes, places, server
    from windtunnel.serving.collector.admission import Limits, Rules, samples
    from windtunnel.serving.collector.handing import Handing
    from windtunnel.serving.collector.keeper import Keeper
    from windtunnel.serving.collector.writers import Writers

    logs.configure("collector")
    context = None
    if tls is not None:
        from windtunnel.tls import followed

        context = followed(tls, client_ca)
    elif client_ca is not None:
        raise DescriptionError("--client-ca needs --tls", hint="a folder with tls.crt and tls.key of this server")
    try:
        private = ipaddress.ip_address(host).is_loopback
    except ValueError:
        private = host == "localhost"
    if token_file is None and client_ca is None and not private:
        raise DescriptionError(
            f"{host} is open to others, and nobody would have to say who they are",
            hint="give --token-file, or --tls with --client-ca; or listen on 127.0.0.1",
        )
    rules = Rules(token_file, open_events, frozenset(namespace or ()), samples(sample or []))
    peers = homes.peers(peer or [], instance)
    place = places.connect(to)
    keeper = Keeper(spool, place, instance=instance, flush_s=flush, window_s=window, peers=peers, hand_s=hand)
    identity = tls if client_ca is not None else None
    handing = Handing(keeper, peers, token_file=token_file, ca=peer_ca, identity=identity)
    limits = Limits(waiting=max_waiting, held_bytes=max_held * 2**20)
    app = server.Collector(keeper, Writers(spool, place), rules, limits, handing)
    server.serve(app, host, port, tls=context)
