"""Labels (or one figure's values) of a rollout's rows, read once and joined by prediction id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import DataError
from windtunnel.serving.predictions import columns, labels

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from windtunnel.home import Home

    Values = np.ndarray[Any, Any]

#: Files of labels this much older (seconds) than the rollout cannot hold labels of its predictions.
_EARLIER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Joined:
    """One arm's rows whose label is known, each array of shape (n,), in no order."""

    prediction: Values
    label: Values


class LabelRows:
    """What came of the rows since ``start``, as far as it was read.

    Args:
        figure: the values of this figure; None for labels.
        start: seconds since the epoch.
    """

    def __init__(self, home: Home, model: str, figure: str | None, start: float) -> None:
        self._store, self._model, self._figure, self._start = labels.Labels(home.labels), model, figure, start
        self._files: list[str] = []
        self._table: pa.Table | None = None
        self._joined: tuple[tuple[int, int], tuple[Joined, Joined]] | None = None

    @property
    def count(self) -> int:
        """Rows in memory."""
        return 0 if self._table is None else int(self._table.num_rows)

    def refresh(self) -> None:
        """Read what is new.

        Raises:
            OSError, pyarrow.ArrowException: a file cannot be read.
        """
        for _ in range(5):
            found = [str(path) for path in self._store.files(self._model, self._figure) if self._may_matter(path)]
            if found == self._files:
                return
            self._joined = None
            kept = len(self._files)
            if found[:kept] != self._files:  # some were merged or removed, or one arrived late
                kept, self._files, self._table = 0, [], None
            try:
                read = labels.load([Path(path) for path in found[kept:]])
            except FileNotFoundError:
                continue  # merged between the listing and the reading
            self._table = read if self._table is None else labels.together([self._table, read])
            self._files = found
            return
        raise DataError(f"the labels of model {self._model!r} change faster than they can be read")

    def joined(self, *arms: tuple[pa.ChunkedArray, pa.ChunkedArray]) -> tuple[Joined, Joined]:
        """Champion's and candidate's rows whose label is known.

        Args:
            arms: ids and predictions of both arms; rows are only ever added to them.
        """
        counts = (len(arms[0][0]), len(arms[1][0]))
        if self._joined is None or self._joined[0] != counts:
            self._joined = counts, self._join(*arms)
        return self._joined[1]

    def _may_matter(self, path: Path) -> bool:
        """The time of arrival is in a file's name; a name of another kind may hold anything."""
        stamp = path.name.partition("-")[0]
        return not stamp.isdecimal() or int(stamp) / 1e9 >= self._start - _EARLIER_S

    def _join(self, *arms: tuple[pa.ChunkedArray, pa.ChunkedArray]) -> tuple[Joined, Joined]:
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self._table
        assert table is not None  # somebody counted its rows
        if pc.count_distinct(table.column("prediction_id")).as_py() != table.num_rows:
            table = labels.newest(table)
        # The one that counts is chosen first: a label from before does not come back because a later one is older.
        since = pa.scalar(round(self._start * 1e6), columns.arrow_type("time"))
        table = table.filter(pc.greater_equal(table.column("label_time"), since))
        ids = table.column("prediction_id").combine_chunks()

        def one(rows: pa.ChunkedArray, predictions: pa.ChunkedArray) -> Joined:
            place = pc.index_in(rows, ids)
            there = pc.is_valid(place)
            label = table.column("label").take(place.filter(there))
            return Joined(predictions.filter(there).to_numpy(), label.to_numpy())

        return one(*arms[0]), one(*arms[1])
