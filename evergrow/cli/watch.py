"""`evergrow watch`: the timelines of models as web pages on this machine."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(watch)


def watch(
    model: Annotated[str | None, typer.Argument(help="Name of a model; all if not given.", show_default=False)] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="HTTP port; 0 for any that is free.", min=0, max=65535)] = 8088,
    open_: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Show what serves, how it does, what was seen and decided: web pages that keep themselves up to date.

    They only read. If EVERGROW_WATCH_TOKEN is set, browsers ask for it as a password.

    Examples:
      evergrow watch

      evergrow watch arrival-delay --open
    """
    command = watch_command(host, port, model, open_)
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - this Python and a module of ours


def watch_command(host: str, port: int, model: str | None = None, open_browser: bool = False) -> list[str]:
    """The command that serves the pages."""
    command = [sys.executable, "-m", "components.watch", "--host", host, "--port", str(port)]
    command += ["--model", model] if model else []
    return command + (["--open"] if open_browser else [])
