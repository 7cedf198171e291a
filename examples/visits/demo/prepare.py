"""What the demo of a cluster needs before its first run, done by containers of Airflow's image there.

``python -m windtunnel_examples.visits.demo.prepare table FOLDER`` writes the team's table; ``... bucket NAME`` makes
the bucket, by boto3's own environment. Both may be done again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

#: Codes of an object store that has it already.
_THERE = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


def table(folder: str) -> None:
    """The history of the members so far, a month up to now; a table that is there stays."""
    from windtunnel_examples.visits import data

    print(data.begin_table(Path(folder), time.time()))


def bucket(name: str) -> None:
    """A bucket; one that is there stays."""
    import boto3
    from botocore.exceptions import ClientError

    try:
        boto3.client("s3").create_bucket(Bucket=name)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in _THERE:
            raise
    print(f"s3://{name}")


def main() -> None:
    jobs = {"table": table, "bucket": bucket}
    if len(sys.argv) != 3 or sys.argv[1] not in jobs:
        raise SystemExit("expected: table FOLDER, or bucket NAME")
    jobs[sys.argv[1]](sys.argv[2])


if __name__ == "__main__":
    main()
