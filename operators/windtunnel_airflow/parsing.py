"""``python -m windtunnel_airflow.parsing FOLDER``: DAG files read as Airflow reads them, without its database.

Prints the DAGs it finds, and of each file that cannot be read why; the exit code is 1 then, or where there is no DAG.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Exit code.

    Args:
        argv: one folder. Modules beside the DAG files can be imported by them, as in Airflow.
    """
    from airflow.dag_processing.dagbag import DagBag

    (folder,) = argv
    if folder not in sys.path:
        sys.path.append(folder)
    found = DagBag(folder)
    for path, said in sorted(found.import_errors.items()):
        print(f"{path}: {said.strip()}", file=sys.stderr)
    if found.import_errors:
        return 1
    if not found.dags:
        print(f"no file in {folder} makes a DAG", file=sys.stderr)
        return 1
    print(f"{len(found.dags)} DAGs: {', '.join(sorted(found.dags))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
