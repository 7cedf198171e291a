"""``python -m windtunnel.serving.collector.lost URL INSTANCE MODEL...``: this collector is lost, with its spool.

Its watermarks would make the log stale for ever, and rightly: nobody knows what was on its volume. Who may write to the
log says here that nobody will know, and its watermarks are closed with that as their error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from windtunnel.errors import DataError, StackError
from windtunnel.names import check_model_name
from windtunnel.serving.collector.marks import WRITER
from windtunnel.serving.collector.places import Place, connect
from windtunnel.serving.predictions import publish
from windtunnel.serving.predictions.watermark import stale_after

SAID = "lost with its spool: events that it had acknowledged and not published are missing, nobody knows how many"


def close(place: Place, instance: str, models: Sequence[str], now: float) -> None:
    """Close the watermarks of a lost collector.

    Args:
        now: seconds since the epoch.

    Raises:
        DataError: it has none of a model.
        StackError: it lives: it has renewed one lately. Then none is closed.
    """
    name = f"{WRITER}-{publish.safe(instance)}"
    marks = [(model, place.mark_of(check_model_name(model), name)) for model in models]
    for model, mark in marks:
        if mark is None:
            raise DataError(f"{place.url} has no watermark {model}/_watermark/{name}.json")
        if not mark.closed and now - mark.at <= 2 * stale_after(mark):
            raise StackError(
                f"collector {instance} has renewed its watermark of {model} {now - mark.at:.0f} s ago: it lives",
                hint="end it first; its volume, if there is one, still has what it did not publish",
            )
    for _, mark in marks:
        if mark is not None and not mark.closed:
            mark.closed, mark.error = True, SAID
            place.mark(mark, name)


def main() -> int:
    from windtunnel.errors import WindtunnelError

    parser = argparse.ArgumentParser(prog="python -m windtunnel.serving.collector.lost", description=__doc__)
    parser.add_argument("url", help="the log: file:///FOLDER or s3://BUCKET/PREFIX")
    parser.add_argument("instance", help="the lost collector's name, such as 1")
    parser.add_argument("model", nargs="+", help="whose watermarks are closed")
    given = parser.parse_args()
    try:
        close(connect(given.url), given.instance, given.model, time.time())
    except WindtunnelError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"the watermarks of collector {given.instance} are closed: {', '.join(given.model)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
