"""What is kept of a version's origins, in the transaction of its registration and of its seal.

A run can be edited and deleted afterwards, so what it says is written down at once. Parents are not here:
``wt_versions`` has them; nor is anything that comes later (verdicts, approvals, rollouts): their own tables have it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow.store.model_registry.dbmodels.models import SqlModelVersionTag
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from windtunnel_mlflow import tables
from windtunnel_mlflow.lineage import origins
from windtunnel_mlflow.lineage.origins import Origin
from windtunnel_mlflow.versions.runs import Run

_O = tables.origins


def of_registration(recipe: Mapping[str, Any], run_id: str | None, source: str, run: Run | None) -> list[Origin]:
    """Everything that is known of a version when it is registered.

    Args:
        run: MLflow's run, None where there is none.
    """
    told = origins.of_recipe(recipe, run_id, source)
    return told if run is None else origins.merged(told, origins.of_run(run.tags, list(run.datasets)))


def begin(session: Session, model: str, version: int, found: Iterable[Origin]) -> None:
    """Write down what a version was made of."""
    _keep(session, model, version, found)


def show(
    session: Session,
    model: str,
    version: int,
    found: Iterable[Origin],
    recipe: Mapping[str, Any],
    parent: int | None,
) -> None:
    """Show it on MLflow's pages, as tags of a version that is there already.

    Clients cannot change these tags (``marks``); a plain registry that is taken over may have had them.
    """
    shown = origins.tags(found, recipe, parent)
    table = SqlModelVersionTag
    session.execute(
        delete(table).where(
            table.workspace == DEFAULT_WORKSPACE_NAME,
            table.name == model,
            table.version == version,
            table.key.in_(sorted(shown)),
        )
    )
    session.add_all(
        SqlModelVersionTag(workspace=DEFAULT_WORKSPACE_NAME, name=model, version=version, key=key, value=value)
        for key, value in shown.items()
    )
    session.flush()


def sealed(session: Session, model: str, version: int, digests: Mapping[str, str]) -> None:
    """Write down what the sealed files say.

    Args:
        digests: path below the model -> SHA-256 in hex.
    """
    told = origins.of_files({path: f"sha256:{digest}" for path, digest in digests.items()})
    known = set(
        session.execute(select(_O.c.kind, _O.c.value).where(_O.c.model == model, _O.c.version == version)).tuples()
    )
    _keep(session, model, version, [one for one in told if (one.kind, one.value) not in known])


def without_copied(session: Session, source: str, tags: Any) -> Any:
    """MLflow's client copies a version with all its tags: ours are left out where they are the copied version's own.
    Others of our names stay, and are refused."""
    copied = origins.copy_of(source)
    if copied is None or not tags:
        return tags
    model, number = copied
    table = SqlModelVersionTag
    own = set(
        session.execute(
            select(table.key, table.value).where(
                table.workspace == DEFAULT_WORKSPACE_NAME,
                table.name == model,
                table.version == number,
                table.key.like("windtunnel.%"),
            )
        ).tuples()
    )
    return [tag for tag in tags if (tag.key, tag.value) not in own]


def demanded(session: Session, model: str, version: int) -> frozenset[str]:
    """Which origins of a policy's ``lineage`` list are known of a version."""
    kinds = session.execute(select(_O.c.kind).where(_O.c.model == model, _O.c.version == version)).scalars()
    return origins.demanded(kinds)


def _keep(session: Session, model: str, version: int, found: Iterable[Origin]) -> None:
    now = time.time()
    rows = [
        {"model": model, "version": version, "kind": one.kind, "value": one.value, "name": one.name, "said": one.said,
         "at": now}
        for one in found
    ]  # fmt: skip
    if rows:
        session.execute(_O.insert(), rows)
