"""The collector's own numbers, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Mapping

#: (name, kind, what it says)
METRICS: tuple[tuple[str, str, str], ...] = (
    ("windtunnel_collector_requests_total", "counter", "Requests by route and outcome, since this process started"),
    ("windtunnel_collector_events_total", "counter", "Events taken, over the life of the spool"),
    ("windtunnel_collector_duplicates_total", "counter", "Events that had come already"),
    ("windtunnel_collector_rows_total", "counter", "Rows made of events"),
    ("windtunnel_collector_unanswered_total", "counter", "Requests whose answer never came; rows with an error"),
    ("windtunnel_collector_unasked_total", "counter", "Answers whose request never came; rows without features"),
    ("windtunnel_collector_unpaired_total", "counter", "Halves with different numbers of rows"),
    ("windtunnel_collector_handed_total", "counter", "Halves that the collector at home for them has taken"),
    ("windtunnel_collector_taken_over_total", "counter", "Halves taken of other collectors"),
    ("windtunnel_collector_sampled_out_total", "counter", "Events left out by the sampling rule; not a loss"),
    ("windtunnel_collector_file_rows_total", "counter", "Rows in files of model servers"),
    ("windtunnel_collector_waiting", "gauge", "Halves that wait for their other half"),
    ("windtunnel_collector_handing", "gauge", "Halves that wait for the collector at home for them"),
    ("windtunnel_collector_peers_away", "gauge", "Other collectors that do not take what is their own"),
    ("windtunnel_collector_queue", "gauge", "Events that wait for the disk"),
    ("windtunnel_collector_held_bytes", "gauge", "Bytes of events that are not published yet"),
    ("windtunnel_collector_writers", "gauge", "Model servers that send their own rows"),
    ("windtunnel_collector_flush_age_seconds", "gauge", "Since everything was last published"),
    ("windtunnel_collector_flush_problem", "gauge", "1 while publishing fails"),
)


def text(values: Mapping[str, float], requests: Mapping[tuple[str, str], int]) -> str:
    """Prometheus' text format.

    Args:
        values: by name, without labels.
        requests: by route and outcome.
    """
    lines = []
    for name, kind, said in METRICS:
        lines += [f"# HELP {name} {said}", f"# TYPE {name} {kind}"]
        if name == "windtunnel_collector_requests_total":
            lines += [f'{name}{{route="{r}",outcome="{o}"}} {n}' for (r, o), n in sorted(requests.items())]
        else:
            lines.append(f"{name} {values[name]:g}" if kind == "gauge" else f"{name} {int(values[name])}")
    return "\n".join(lines) + "\n"
