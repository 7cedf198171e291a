"""The artifact proxy refuses to write or delete at, below or above a sealed path.

MLflow's handlers, Flask's and FastAPI's alike, reach artifacts through one repository object. Its class is
replaced by a subclass that checks first, so a handler added by a later MLflow is covered too.
"""

from __future__ import annotations

import asyncio
import posixpath
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.versions.locations import clean
from windtunnel_mlflow.versions.storing import told

#: Raises when the path is sealed. Arguments: path, whether everything below the path would be touched too.
Check = Callable[[str, bool], None]


class Writes:
    """Writes under way in this process, so that a seal waits for an upload that began before it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: Counter[str] = Counter()
        self._held: set[str] = set()

    @contextmanager
    def held(self, roots: Collection[str], timeout: float) -> Iterator[None]:
        """Nothing is written at, below or above these paths meanwhile: they are read to become sealed.

        Raises:
            Refusal: WT_SEALED: an upload did not end within ``timeout`` seconds.
        """
        with self._changed:
            taken = set(roots) - self._held
            self._held |= taken
        try:
            for root in roots:
                if not self.wait_idle(root, timeout):
                    raise Refusal("WT_SEALED", f"an upload below {root} did not end within {timeout:.0f} s", status=409)
            yield
        finally:
            with self._changed:
                self._held -= taken

    @contextmanager
    def writing(self, path: str, check: Check, tree: bool = False) -> Iterator[None]:
        """Announce, then check: a seal that comes in between sees the announcement and waits."""
        self.begin(path, check, tree)
        try:
            yield
        finally:
            self.end(path)

    def begin(self, path: str, check: Check, tree: bool) -> None:
        with self._changed:
            for root in self._held:
                above = tree and root.startswith(f"{path}/" if path else "")
                if above or path == root or path.startswith(f"{root}/"):
                    raise Refusal("WT_SEALED", f"{path or 'the artifact root'} is being imported", status=409)
            self._open[path] += 1
        try:
            check(path, tree)
        except BaseException:
            self.end(path)
            raise

    def end(self, path: str) -> None:
        with self._changed:
            self._open[path] -= 1
            if not self._open[path]:
                del self._open[path]
            self._changed.notify_all()

    @property
    def quiet(self) -> bool:
        """Whether nothing is being written."""
        with self._changed:
            return not self._open

    def wait_idle(self, root: str, timeout: float) -> bool:
        """Wait until nothing is being written at or below ``root``; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not any(path == root or path.startswith(root + "/") for path in self._open), timeout
            )


def _target(artifact_path: str | None, name: str = "") -> str:
    return clean(posixpath.join(artifact_path or "", name))


def govern(repo: Any, writes: Writes, check: Check) -> None:
    """Make ``repo`` refuse what ``check`` refuses. Doing it twice changes nothing."""
    base = type(repo)
    if getattr(base, "windtunnel_governed", False):
        return

    body: dict[str, Any] = {"windtunnel_governed": True}

    def log_artifact(self: Any, local_file: str, artifact_path: str | None = None) -> Any:
        path = _target(artifact_path, posixpath.basename(str(local_file)))
        with writes.writing(path, check), told(self, path):
            return base.log_artifact(self, local_file, artifact_path)

    def log_artifacts(self: Any, local_dir: str, artifact_path: str | None = None) -> Any:
        path = _target(artifact_path)
        with writes.writing(path, check, True), told(self, path):
            return base.log_artifacts(self, local_dir, artifact_path)

    def delete_artifacts(self: Any, artifact_path: str | None = None) -> Any:
        path = _target(artifact_path)
        with writes.writing(path, check, True), told(self, path):
            return base.delete_artifacts(self, artifact_path)

    def log_artifact_from_stream(
        self: Any, stream: Any, artifact_file_name: str, artifact_path: str | None = None
    ) -> Any:
        path = _target(artifact_path, posixpath.basename(artifact_file_name))
        with writes.writing(path, check), told(self, path):
            return base.log_artifact_from_stream(self, stream, artifact_file_name, artifact_path)

    async def log_artifact_from_async_stream(
        self: Any, chunks: Any, artifact_file_name: str, artifact_path: str | None = None
    ) -> Any:
        path = _target(artifact_path, posixpath.basename(artifact_file_name))
        await asyncio.to_thread(writes.begin, path, check, False)
        try:
            with told(self, path):
                return await base.log_artifact_from_async_stream(self, chunks, artifact_file_name, artifact_path)
        finally:
            writes.end(path)

    def _multipart(name: str) -> Callable[..., Any]:
        method = getattr(base, name)

        def checked(self: Any, local_file: str, *args: Any, **kwargs: Any) -> Any:
            # The directory is the last argument of all three; stores disagree on whether the file keeps its folders.
            artifact_path = kwargs.get("artifact_path") or (args[-1] if args and isinstance(args[-1], str) else None)
            for file_name in {posixpath.basename(local_file), local_file}:
                check(_target(artifact_path, file_name), False)
            check(_target(artifact_path), False)
            return method(self, local_file, *args, **kwargs)

        return checked

    def create_presigned_upload_url(self: Any, artifact_path: str, *args: Any, **kwargs: Any) -> Any:
        check(_target(artifact_path), False)
        return base.create_presigned_upload_url(self, artifact_path, *args, **kwargs)

    for function in (
        log_artifact,
        log_artifacts,
        delete_artifacts,
        log_artifact_from_stream,
        log_artifact_from_async_stream,
        create_presigned_upload_url,
    ):
        if hasattr(base, function.__name__):
            body[function.__name__] = function
    for name in ("create_multipart_upload", "complete_multipart_upload", "abort_multipart_upload"):
        if hasattr(base, name):
            body[name] = _multipart(name)
    repo.__class__ = type(f"Governed{base.__name__}", (base,), body)
