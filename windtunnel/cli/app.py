"""The commands of ``windtunnel``, put together."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated, NoReturn

import typer

from windtunnel import __version__
from windtunnel.cli import (
    audit,
    check,
    cluster,
    collector,
    demo,
    doctor,
    down,
    guard,
    lineage,
    logs,
    registry,
    rehearse,
    rollout,
    schema,
    setup_serving,
    status,
    talk,
    uninstall,
    up,
)
from windtunnel.cli.options import HomeOption
from windtunnel.errors import WindtunnelError

app = typer.Typer(
    name="windtunnel",
    help="No model flies untested: train, judge, release and watch models with Airflow and MLflow.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: it needs no 0.2 s import
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 verdict FAIL, 4 verdict INCONCLUSIVE.",
)


def _version(wanted: bool) -> None:
    if wanted:
        talk.data(f"windtunnel {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    home: HomeOption = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = home


for module in (
    up,
    down,
    status,
    logs,
    doctor,
    uninstall,
    setup_serving,
    demo,
    check,
    schema,
    guard,
    collector,
    rehearse,
    lineage,
):
    app.command(name=module.NAME)(module.command)
app.add_typer(rollout.app, name="rollout")
app.add_typer(registry.app, name="registry")
app.add_typer(audit.app, name="audit")
app.add_typer(cluster.app, name="cluster")


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM is treated like Ctrl-C: what was started is stopped."""
    raise KeyboardInterrupt


def run() -> NoReturn:
    """Run the command line and leave with its exit code; an error is a message, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(standalone_mode=False)
        raise SystemExit(code if isinstance(code, int) else talk.OK)
    except WindtunnelError as error:
        talk.fail(error)
    except (KeyboardInterrupt, typer.Abort):
        talk.say("windtunnel: interrupted")
        raise SystemExit(130) from None
    except Exception as error:
        if _is_usage(error):
            error.show()  # type: ignore[attr-defined]
            raise SystemExit(talk.USAGE) from None
        if isinstance(error, OSError):
            talk.fail(error)
        talk.say("windtunnel: this is a mistake in Windtunnel; WINDTUNNEL_DEBUG=1 shows where")
        talk.fail(error)


def _is_usage(error: Exception) -> bool:
    """Whether it is the command-line parser's own error, whichever click typer brings."""
    return hasattr(error, "show") and hasattr(error, "exit_code")
