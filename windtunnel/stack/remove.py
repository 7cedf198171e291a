"""Deleting a home."""

from __future__ import annotations

import shutil
from pathlib import Path

from windtunnel.errors import StackError
from windtunnel.stack.stack import Stack


def remove(stack: Stack) -> None:
    """Stop everything of the home, then delete it.

    Raises:
        StackError: it does not look like a home of ours, a process would not end, or a file would not go.
    """
    root = stack.home.root
    ours = (root / "stack.json").exists() or (root / ".lock").exists() or not any(root.iterdir())
    if not ours or root in (Path("/"), Path.home()):
        raise StackError(f"{root} does not look like a home of Windtunnel", hint="delete it by hand if you are sure")
    left = stack.down()
    if left:
        raise StackError(f"some processes would not end: {', '.join(left)}", hint="end them, then try again")
    try:
        shutil.rmtree(root)
        if stack.supervisor.socket.parent != stack.home.supervisor:
            shutil.rmtree(stack.supervisor.socket.parent, ignore_errors=True)
    except OSError as error:
        raise StackError(f"{root} could not be deleted: {error}", hint="delete the rest by hand") from error
