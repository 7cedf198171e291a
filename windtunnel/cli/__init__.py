"""The command ``windtunnel``.

    app       the commands and their options
    talk      data on stdout, talk on stderr, colours only where somebody looks
    NAME      one thin file per command: reads options, calls the library, prints

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 verdict FAIL, 4 verdict INCONCLUSIVE.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script."""
    from windtunnel.cli.app import run

    run()
