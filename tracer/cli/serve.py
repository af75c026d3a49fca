"""`tracer serve`: run the collector."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from tracer.config import collector_file, state_directory
from tracer.errors import ConfigError

__all__ = ["DEFAULT_PORT", "default_database", "missing_extra", "serve"]

DEFAULT_PORT = 4747
NEEDED = ("starlette", "uvicorn", "msgspec")


def default_database() -> Path:
    """Return where the collector keeps its database if nobody says: the XDG state directory."""
    return state_directory() / "collector.db"


def missing_extra() -> str | None:
    """Return what to install before a collector can run; None when it is all there."""
    if any(find_spec(name) is None for name in NEEDED):
        return 'the collector needs more packages: pip install "tracer-sdk[collector]"'
    return None


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Database file; made if it is not there.  [default: $XDG_STATE_HOME/tracer/collector.db]",
)
@click.option(
    "--token",
    envvar="HH_COLLECTOR_TOKEN",
    show_envvar=True,
    help="Bearer token requests must carry; needed beyond this machine. Better set in the "
    "environment: command lines can be read by every user.",
)
def serve(host: str, port: int, db: Path | None, token: str | None) -> None:
    """Run the collector: the API of the wire contract over a SQLite database.

    Programs in local mode find it, through a file in the state directory, and send to it.
    """
    if missing_extra() is not None:
        click.echo(
            'tracer serve needs the collector extra: pip install "tracer-sdk[collector]"', err=True
        )
        raise SystemExit(2)
    # Loaded here: no other command needs a web server, and it may not be installed.
    from tracer.collector.server import serve as run

    try:
        run(host, port, db or default_database(), token or None, collector_file())
    except ConfigError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
