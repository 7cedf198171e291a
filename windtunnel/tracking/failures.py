"""Which kind of failure an exception is; the retry policy hangs on it (PIP-3)."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from windtunnel.errors import (
    DataError,
    IntegrityError,
    ResourceError,
    TransientError,
    UnavailableError,
    WindtunnelError,
)
from windtunnel.tracking.contract import Failure

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}


def classify(error: BaseException) -> Failure:
    """The kind of failure behind an exception of the user's code or of ours; causes count too.

    A library's own out-of-memory errors are recognised by name (``OutOfMemoryError`` of torch, XGBoost's, ...).
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (DataError, IntegrityError)):
            return "data"
        if isinstance(seen, (MemoryError, ResourceError)) or "OutOfMemory" in type(seen).__name__:
            return "resource"
        if isinstance(seen, OSError) and seen.errno in _NO_SPACE:
            return "resource"
        if isinstance(seen, (TransientError, UnavailableError, ConnectionError, TimeoutError)):
            return "transient"
        if isinstance(seen, KeyboardInterrupt):
            return "transient"
        seen = seen.__cause__
    return "code"


def describe(error: BaseException) -> str:
    """One paragraph: what, and where in the user's code."""
    if isinstance(error, WindtunnelError):
        return str(error)
    own = Path(__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not Path(f.filename).is_relative_to(own)]
    theirs = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith("<")]
    where = f" ({theirs[-1].filename}:{theirs[-1].lineno} in {theirs[-1].name})" if theirs else ""
    text = str(error)
    return f"{type(error).__name__}{': ' + text[:1000] if text else ''}{where}"
