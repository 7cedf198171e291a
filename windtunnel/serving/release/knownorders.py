"""``HOME/serving/orders.json``: what was known last of people's orders, for the time when the registry is down."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from windtunnel import files
from windtunnel.home import Home
from windtunnel.registry.orders import OrdersPage


def path(home: Home) -> Path:
    """Where it lies."""
    return home.serving / "orders.json"


def write(file: Path, page: OrdersPage) -> None:
    """Keep ``page``.

    Raises:
        OSError: it cannot be written.
    """
    files.write_json(file, {"v": 1, **asdict(page)}, parents=True)


def read(file: Path) -> OrdersPage | None:
    """What was kept last; None when nothing was, or it cannot be understood."""
    try:
        plain = files.read_json(file, broken_ok=True)
        return OrdersPage.from_dict(plain) if isinstance(plain, dict) else None
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None
