"""What the router and the meter carry and cost, before a server that answers at once. DEMAND SRV-4.

Demanded: more than 1,000 requests a second through router and log, less than 1 ms added to the median, and every
request counted.
"""

from __future__ import annotations

import json
import statistics

from bench import load, quiet, rig
from bench.table import Table

ANSWER = {
    "model_name": rig.MODEL,
    "outputs": [{"name": "prediction", "shape": [1, 1], "datatype": "FP64", "data": [2.5]}],
}
BODY = json.dumps(
    {"inputs": [{"name": f"feature{n}", "shape": [1, 1], "datatype": "FP64", "data": [0.1 * n]} for n in range(9)]}
).encode()
#: What is asked of the router: name, connections, and the mean pause of each between its requests in ms.
LOADS = (("one connection", 1, 0), ("about 1,000 requests/s", 16, 16), ("as many as it can", 32, 0))
ROUNDS = 5
SECONDS = 3.0
#: For each load, when others use the machine.
LIMIT_S = 60.0


def run() -> Table:
    table = Table(
        "Router and meter before a server that answers at once",
        ("load", "direct, requests/s", "through the router, requests/s", "direct p50, ms", "router p50, ms",
         "added p50, ms (range)", "router p99, ms", "processor, ms a request: router, meter"),
    )  # fmt: skip
    added_at: dict[str, tuple[float, bool | None]] = {}
    most = 0.0
    with rig.rig() as made, rig.stub(ANSWER) as port:
        made.send_all_to(port)
        bare = f"http://127.0.0.1:{port}{rig.PATH}"
        bursts = [(4, load.burst(made.url, BODY, connections=4, seconds=1).requests)]
        notes: list[str] = []
        load.burst(bare, BODY, connections=4, seconds=1)
        for name, connections, pause in LOADS:
            before = made.processor_s()

            def pair(_: int, connections: int = connections, pause: int = pause) -> tuple[load.Load, load.Load]:
                def ask(url: str) -> load.Load:
                    return load.burst(url, BODY, connections=connections, seconds=SECONDS, pause_ms=pause)

                found = ask(bare), ask(made.url)
                bursts.append((connections, found[1].requests))
                return found

            answered = -sum(requests for _, requests in bursts)
            measured = quiet.measure(pair, ROUNDS, LIMIT_S)
            notes.append(f"{name}: {measured.note}")
            direct, routed = zip(*measured.values, strict=True)
            sent = sum(requests for _, requests in bursts)
            answered += sent
            made.await_count(sent)
            spent = {who: (s - before[who]) * 1000 / answered for who, s in made.processor_s().items()}
            added = [b.p50_ms - a.p50_ms for a, b in zip(direct, routed, strict=True)]
            more = statistics.median(added)
            added_at[name] = more, measured.shows(more < 1.0)
            rate = statistics.median(one.rate for one in routed)
            most = max(most, rate)
            table.add(
                name,
                f"{statistics.median(one.rate for one in direct):,.0f}",
                f"{rate:,.0f}",
                f"{statistics.median(one.p50_ms for one in direct):.2f}",
                f"{statistics.median(one.p50_ms for one in routed):.2f}",
                f"{more:.2f} ({min(added):.2f} to {max(added):.2f})",
                f"{statistics.median(one.p99_ms for one in routed):.1f}",
                f"{spent['router']:.2f}, {spent['meter']:.2f}",
            )
        counted = made.await_count(sent)
    table.demand("more than 1,000 requests/s through router and log", f"{most:,.0f}", most > 1000)
    for name, _, _ in LOADS[:2]:
        more, met = added_at[name]
        table.demand(f"less than 1 ms added to the median, {name}", f"{more:.2f} ms", met)
    # A burst ends in the middle of requests: those are counted, too, one a connection at most.
    slack = sum(connections for connections, _ in bursts)
    exact = sent <= counted <= sent + slack
    table.demand("the meter counts every request", f"{counted:,} counted, {sent:,} answered", exact)
    table.note = (
        f"Load by {load.tool()}, {ROUNDS} rounds of {SECONDS:g} s each way in turn ({'; '.join(notes)}). Router, "
        "meter, server and load share the machine; the server is a second Envoy that answers by itself. Where the load "
        "is as many as it can, both ways are saturated and the median is time spent waiting. Up to "
        f"{slack} requests in flight when a burst ended may be counted without having been answered."
    )
    return table
