"""Where the watch keeps what it knows: files of one home, or objects that any worker finds (decision 0024).

In the home the state is one file that each closed window replaces. An object store has no rename and not always a
compare-and-set, so there nothing is ever changed. All keys are below ``monitoring/MODEL/``:

    reference-N.json, reference-N.sample.parquet    of version N; the first one stays
    windows/START-END-vN/                           verdicts, reaction and pages of a window; of each the first stays
    state/closed/END_START_vN.json                  a window that was closed; the one that ends last counts
    state/retrained/AT_START-END-vN.json            a retraining that was asked for; the last one counts
    state/reported/AT_START-END-vN.json             a report that was written; the last one counts

The state is what the names say together, in whatever order they came: of two runs that overlap none can undo what the
other has written.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from windtunnel import canonical
from windtunnel.errors import DataError, UnavailableError, WindtunnelError
from windtunnel.home import Home
from windtunnel.monitoring import files, reference, windows
from windtunnel.monitoring.reference import Reference
from windtunnel.monitoring.windows import Closing, WindowState
from windtunnel.names import check_model_name

if TYPE_CHECKING:
    from windtunnel.data.objects import Objects

log = logging.getLogger(__name__)

#: HTML reports kept per model (4 MB each).
KEPT_REPORTS = 48
_PAGES = ("report.html", "performance.html")


class Keeping(Protocol):
    """What the steps of a round read and write. ``window`` is what ``watch.next_window`` gave.

    Every method raises ``UnavailableError`` where the store does not answer, or refuses; then nothing is judged.
    """

    def reference(self, model: str, version: str) -> Reference:
        """The reference of one version, without its sample.

        Raises:
            DataError: there is none.
        """

    def sample(self, model: str, version: str) -> Any | None:
        """Its sample as a DataFrame, None when none was kept."""

    def keep_reference(self, made: Reference) -> None:
        """Keep a reference, and its sample."""

    def state(self, model: str) -> WindowState:
        """What is known of the windows judged so far."""

    def read(self, window: Mapping[str, Any], name: str) -> Any | None:
        """What was kept of the window as ``name``, None when nothing was."""

    def keep(self, window: Mapping[str, Any], name: str, value: Any) -> Any:
        """Keep it, and give what a later reader gets."""

    def folder(self, window: Mapping[str, Any]) -> Any:
        """Context manager: a folder for the window's pages, which are there for readers when it ends."""

    def uri(self, window: Mapping[str, Any], name: str) -> str:
        """Where readers find the page ``name`` of that folder."""

    def close(self, window: Mapping[str, Any], closing: Closing) -> None:
        """Remember that the window was judged; doing it again changes nothing."""


def of(home: Home, store: Objects | None = None) -> Keeping:
    """The store where there is one, else the home."""
    return InHome(home) if store is None else InStore(store, home)


class InHome:
    """Files below ``HOME/monitoring``, for one machine, or workers that share the home."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def reference(self, model: str, version: str) -> Reference:
        return reference.load(self.home, model, version)

    def sample(self, model: str, version: str) -> Any | None:
        return reference.load_sample(self.home, model, version)

    def keep_reference(self, made: Reference) -> None:
        reference.save(self.home, made)

    def state(self, model: str) -> WindowState:
        return windows.load(self.home, model)

    def read(self, window: Mapping[str, Any], name: str) -> Any | None:
        return files.read_json(self._folder(window) / name)

    def keep(self, window: Mapping[str, Any], name: str, value: Any) -> Any:
        files.write_json(self._folder(window) / name, value)
        return files.read_json(self._folder(window) / name)

    @contextmanager
    def folder(self, window: Mapping[str, Any]) -> Iterator[Path]:
        yield self._folder(window)
        self._prune(window["model"])

    def uri(self, window: Mapping[str, Any], name: str) -> str:
        return str(self._folder(window) / name)

    def close(self, window: Mapping[str, Any], closing: Closing) -> None:
        state = self.state(window["model"])
        if not state.is_closed(closing.window):
            windows.save(self.home, window["model"], state.after(closing))

    def _folder(self, window: Mapping[str, Any]) -> Path:
        return files.folder(self.home, window["model"]) / "windows" / files.window_name(window)

    def _prune(self, model: str) -> None:
        pages = sorted((files.folder(self.home, model) / "windows").glob("*/report.html"), key=_written)
        for page in pages[:-KEPT_REPORTS]:
            for name in _PAGES:
                page.with_name(name).unlink(missing_ok=True)


class InStore:
    """Objects, for workers that share nothing else.

    Args:
        home: where a reference is looked for that the store does not have: one kept before the store was named.
    """

    def __init__(self, store: Objects, home: Home) -> None:
        self._store, self._home = store, home

    def reference(self, model: str, version: str) -> Reference:
        key = f"{_root(model)}/reference-{version}.json"
        try:
            plain = self._read(key)
        except DataError as error:
            # Nobody knows yet what the reference says: not a finding about the window.
            raise UnavailableError(f"the reference cannot be read: {error.message}", hint=error.hint) from error
        if plain is not None:
            return Reference.from_dict(plain)
        try:
            return reference.load(self._home, model, version)
        except DataError as error:
            raise DataError(
                f"no reference for {model} version {version} at {self._store.url}/{key}", hint=error.hint
            ) from error

    def sample(self, model: str, version: str) -> Any | None:
        data = self._store.get_bytes(_sample_key(model, version))
        if data is None:
            return reference.load_sample(self._home, model, version)
        import pandas as pd

        return pd.read_parquet(io.BytesIO(data))

    def keep_reference(self, made: Reference) -> None:
        if made.sample is not None:  # the same one for the same version, however often it is made
            sink = io.BytesIO()
            made.sample.to_parquet(sink, index=False)
            self._store.put_new(_sample_key(made.model, made.version), sink.getvalue())
        self._store.put_new(f"{_root(made.model)}/reference-{made.version}.json", _dumps(made.to_dict()))

    def state(self, model: str) -> WindowState:
        marks = _marks(self._store, model)
        closed, retrained, reported = (self._last(marks[kind]) for kind in ("closed", "retrained", "reported"))
        return WindowState(
            closed_end=None if closed is None else float(closed["end"]),
            dropped=0 if closed is None else int(closed["dropped"]),
            retrain_at=None if retrained is None else float(retrained["at"]),
            retrain_version=None if retrained is None else str(retrained["version"]),
            report_at=None if reported is None else float(reported["at"]),
            report_finding=None if reported is None else str(reported["finding"]),
            closed=tuple(map(_closed, marks["closed"][-windows.KEPT :])),
        )

    def read(self, window: Mapping[str, Any], name: str) -> Any | None:
        return self._read(self._key(window, name))

    def keep(self, window: Mapping[str, Any], name: str, value: Any) -> Any:
        self._store.put_new(self._key(window, name), _dumps(value))
        found = self.read(window, name)
        if found is None:
            raise UnavailableError(f"{self._store.url}/{self._key(window, name)} was written and is not there")
        return found

    @contextmanager
    def folder(self, window: Mapping[str, Any]) -> Iterator[Path]:
        work = Path(tempfile.mkdtemp(prefix="windtunnel-report-"))
        try:
            yield work
            for path in sorted(work.rglob("*")):
                if path.is_file():
                    self._store.put(self._key(window, path.relative_to(work).as_posix()), path)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def uri(self, window: Mapping[str, Any], name: str) -> str:
        return f"{self._store.url}/{self._key(window, name)}"

    def close(self, window: Mapping[str, Any], closing: Closing) -> None:
        model, which = window["model"], files.window_name(window)
        state, root = self.state(model), f"{_root(model)}/state"
        # The window's end last: whoever is killed before it does all of this again, under the same names.
        if closing.retrain:
            said = {"at": closing.at, "version": closing.version}
            self._store.put_new(f"{root}/retrained/{_at(closing.at)}_{which}.json", _dumps(said))
        if closing.finding is not None:
            told = {"at": closing.at, "finding": closing.finding}
            self._store.put_new(f"{root}/reported/{_at(closing.at)}_{which}.json", _dumps(told))
        if not state.is_closed(closing.window):
            after = state.after(closing)
            end, start = closing.window.end, closing.window.start
            plain = {"start": start, "end": end, "version": closing.version, "dropped": after.dropped}
            self._store.put_new(f"{root}/closed/{_at(end)}_{_at(start)}_v{closing.version}.json", _dumps(plain))
        try:
            self._prune(model)
        except WindtunnelError as error:
            log.warning("what is too old of the watch of %s stays for now: %s", model, error.message)

    def _prune(self, model: str) -> None:
        """Of windows older than those remembered nothing is kept but their verdicts, which the registry has."""
        marks = _marks(self._store, model)
        for key in marks["reported"][:-KEPT_REPORTS]:
            folder = f"{_root(model)}/windows/{_stem(key).partition('_')[2]}"
            self._store.delete([*(f"{folder}/{name}" for name in _PAGES), key])
        self._store.delete(marks["retrained"][: -windows.KEPT])
        for key in marks["closed"][: -windows.KEPT]:
            start, end, version = _closed(key)
            window = {"start": start, "end": end, "version": version}
            papers = self._store.sizes(f"{_root(model)}/windows/{files.window_name(window)}/")
            self._store.delete([*papers, key])

    def _last(self, keys: Sequence[str]) -> Any | None:
        if not keys:
            return None
        found = self._read(keys[-1])
        if found is None:
            raise UnavailableError(f"{self._store.url}/{keys[-1]} was listed and is not there: try again")
        return found

    def _key(self, window: Mapping[str, Any], name: str) -> str:
        return f"{_root(window['model'])}/windows/{files.window_name(window)}/{name}"

    def _read(self, key: str) -> Any | None:
        data = self._store.get_bytes(key)
        try:
            return None if data is None else canonical.loads(data)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(
                f"{self._store.url}/{key} cannot be read: {error}", hint="remove it; it will be written anew"
            ) from error


def _root(model: str) -> str:
    return f"monitoring/{check_model_name(model)}"


def _sample_key(model: str, version: str) -> str:
    return f"{_root(model)}/reference-{version}.sample.parquet"


def _dumps(value: Any) -> bytes:
    return canonical.dumps(value) + b"\n"


def _at(moment: float) -> str:
    """Seconds since the epoch, so that names sort as times do."""
    return f"{moment:014.3f}"


def _stem(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")


def _closed(key: str) -> tuple[float, float, str]:
    """Start, end and version, by the name; of the newest window its object says them exactly."""
    end, start, version = _stem(key).split("_", 2)
    return float(start), float(end), version.removeprefix("v")


def _marks(store: Objects, model: str) -> dict[str, list[str]]:
    """Keys of what is remembered, by its kind, the newest last."""
    root = f"{_root(model)}/state/"
    found: dict[str, list[str]] = {"closed": [], "retrained": [], "reported": []}
    for key in sorted(store.sizes(root)):
        kind = key.removeprefix(root).partition("/")[0]
        if kind in found and key.endswith(".json"):
            found[kind].append(key)
    return found


def _written(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0
