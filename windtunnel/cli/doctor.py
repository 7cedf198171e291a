"""``windtunnel doctor``: what is wrong, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home

NAME = "doctor"


def command(context: typer.Context, json: JsonOption = False, home: HomeOption = None) -> None:
    """Find what is wrong and say how to mend it.

    Looks at versions, environments, ports, disk, permissions, clock, memory and servers. Exit code 1 if any fails.
    """
    from windtunnel.stack.doctor import examine

    where = the_home(context, home)
    findings = examine(where)
    failed = any(finding.result == "fail" for finding in findings)
    if json:
        talk.data_json(
            "windtunnel.doctor/1",
            {"home": str(where.root), "ok": not failed, "findings": [asdict(finding) for finding in findings]},
        )
    else:
        talk.table(
            [["check", "result", "found"], *([one.name, one.result, one.found] for one in findings)], colour_column=1
        )
        for one in findings:
            if one.mend:
                talk.data(f"\n{one.name}: {one.mend}")
    if failed:
        raise SystemExit(talk.FAILED)
