"""What an installation says of its cluster where Seldon Core 2 serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from windtunnel.errors import DescriptionError
from windtunnel.serving.seldon.settings import Seldon
from windtunnel.spec.serving import SeldonApi


@dataclass(frozen=True, slots=True)
class Core2(Seldon):
    """Where and how Seldon Core 2 serves; ``Seldon.of({..., "api": "core2"})`` makes one.

    What ``Seldon`` has means the same, but

    - ``gateway`` is the mesh as callers reach it, up to but without ``/v2``: ``http://seldon-mesh.{namespace}``;
    - ``direct`` is the same as this process reaches it; None: through the API;
    - ``prometheus`` scrapes the agents of the Servers;
    - ``logger`` cannot be set: Core 2 logs payloads to Kafka only. ``collector`` can, for the servers' own rows; then
      nothing may be copied (``mirror``);
    - ``autoscaler`` is Core 2's own.

    Attributes:
        server_config: the ServerConfig that our Servers are made from: Seldon's agent, rclone and their volume.
        server_container, rclone_container: names of two of its containers, the model server's and rclone's.
        mesh: Service and port of the mesh in the namespace.
    """

    api: ClassVar[SeldonApi] = "core2"

    server_config: str = "mlserver"
    server_container: str = "mlserver"
    rclone_container: str = "rclone"
    mesh: str = "seldon-mesh:80"

    def __post_init__(self) -> None:
        if self.logger is not None:
            raise DescriptionError(
                "seldon: logger cannot be set for Core 2, which sends payloads to Kafka only",
                hint="leave logger out, or serve by Core 1 (api = 'core1')",
            )
        if self.collector is not None and self.collector_rows != "server":
            raise DescriptionError(
                f"seldon: collector_rows is {self.collector_rows!r}, which Core 2 cannot",
                hint="'server': the model servers send their own rows",
            )
        if self.autoscaler != "hpa":
            raise DescriptionError(
                f"seldon: autoscaler is {self.autoscaler!r}, and Core 2 scales Models and Servers itself",
                hint="leave autoscaler out; serving.minimum and serving.maximum are its bounds",
            )
        service, _, port = self.mesh.partition(":")
        if not service or not port:
            raise DescriptionError(f"seldon: mesh is {self.mesh!r}", hint="expected SERVICE:PORT, as seldon-mesh:80")
