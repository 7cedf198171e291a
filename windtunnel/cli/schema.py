"""``windtunnel schema``: the JSON Schema of a description."""

from __future__ import annotations

import json as json_module

from windtunnel.cli import talk

NAME = "schema"


def command() -> None:
    """Print the schema of a description."""
    from windtunnel.spec.load import schema

    talk.data(json_module.dumps(schema(), indent=2))
