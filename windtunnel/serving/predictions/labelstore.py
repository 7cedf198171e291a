"""Labels beside a cluster's prediction log, for workers that share no disk: ``MODEL/_labels/*.parquet`` below its URL.

Each call of ``hand_in`` is one object that nobody changes; whoever joins labels fetches those that are new. The names
carry the time of arrival, as those of the files in a home do, and are kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel import files
from windtunnel.data import objects
from windtunnel.names import check_model_name
from windtunnel.serving.predictions.labels import Labels

if TYPE_CHECKING:
    import pandas as pd


def hand_in(
    url: str,
    model: str,
    rows: pd.DataFrame | Sequence[Mapping[str, Any]],
    *,
    figure: str | None = None,
    client: Any = None,
) -> int:
    """Add labels, or values of a figure; when this returns they are in the store, all or none.

    Args:
        url: where the prediction log lies: ``predictions`` in the settings of Seldon.
        rows, figure: as for ``Labels.append``.
        client: a boto3 S3 client; made from the environment unless given.

    Returns:
        How many were added.

    Raises:
        DataError: a row is none of a label, or the store refuses; nothing was added.
        UnavailableError: the store does not answer; doing it again changes nothing that was added.
    """
    store = objects.connect(url, client)
    with tempfile.TemporaryDirectory(prefix="windtunnel-labels-") as folder:
        labels = Labels(Path(folder))
        count = labels.append(model, rows, figure=figure)
        for path in labels.files(model, figure):
            store.put(_prefix(model) + path.name, path)
    return count


def bring(url: str, root: Path, model: str, client: Any = None) -> int:
    """Fetch what is not in ``root`` (``HOME/labels``) yet; how many files.

    Raises:
        UnavailableError, DataError: the store does not answer, or refuses; what is here is as it was.
    """
    store, prefix = objects.connect(url, client), _prefix(model)
    fetched = 0
    for key in store.sizes(prefix):
        name = key.removeprefix(prefix)
        target = root / model / name
        if "/" in name or not name.endswith(".parquet") or target.exists():
            continue
        files.write_with(target, lambda part, key=key: _get(store, key, part), parents=True)  # type: ignore[misc]
        fetched += 1
    return fetched


def _get(store: objects.Objects, key: str, part: Path) -> None:
    if not store.get(key, part):
        raise FileNotFoundError(f"{store.url}/{key} went while it was fetched")


def _prefix(model: str) -> str:
    return f"{check_model_name(model)}/_labels/"
