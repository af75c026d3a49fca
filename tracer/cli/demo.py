"""`tracer demo`: a real agent, a real collector, and what arrived, read back."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.books import Stats
from tracer.cli.serve import missing_extra
from tracer.cli.tree import tree_lines
from tracer.client import Client
from tracer.default import init
from tracer.errors import ConfigError, TransportError
from tracer.schema import SEARCH_LIMIT

if TYPE_CHECKING:
    from tracer.cli.demo_agent import Asked

__all__ = ["demo"]

START = 20.0  # seconds a collector may take to listen
READY = "ready at "


@click.command()
@click.option("--url", help="Send to this server instead of a collector of the demo's own.")
@click.option("--json", "as_json", is_flag=True, help="Print the accounting alone, as JSON.")
def demo(url: str | None, *, as_json: bool) -> None:
    """Run a small agent, deliver its events, read them back and compare the books.

    The agent answers questions from the Python language reference; no language model is called
    and nothing leaves this machine unless --url names another server.
    """
    with tempfile.TemporaryDirectory(prefix="tracer-demo-") as name:
        directory = Path(name)
        try:
            if url is not None:
                balanced = _run(url, directory, as_json=as_json)
            else:
                with _collector(directory) as own:
                    balanced = _run(own, directory, as_json=as_json)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None
        except TransportError as error:
            raise click.ClickException(str(error)) from None
    raise SystemExit(0 if balanced else 1)


def _run(url: str, directory: Path, *, as_json: bool) -> bool:
    tracer = init(
        server_url=url,
        spool_dir=directory / "spool",
        session_name="tracer demo",
        disable_tracing=False,
        local=False,
        durable=True,
    )
    # Imported here: its decorators belong to the tracer made above, and it needs the index.
    from tracer.cli.demo_agent import Agent

    asked = Agent(directory).run()
    flushed = tracer.shutdown()
    stats = tracer.stats()
    with Client(base_url=url, api_key=tracer.config.ask_for_key()) as client:
        sessions = [_read_back(client, one.session_id) for one in asked]
    events = [e for found in sessions for e in found if e["event_type"] != "session"]
    dropped = sum(stats.dropped.values())
    if as_json:
        numbers = {
            "recorded": stats.recorded,
            "delivered": stats.delivered,
            "dropped": dropped,
            "sessions": sum(bool(found) for found in sessions),
            "events_read_back": len(events),
            "url": url,
        }
        click.echo(json.dumps(numbers))
    else:
        _print(asked, sessions, stats, len(events), url)
        if flushed.reason:
            click.echo(f"not everything was sent: {flushed.reason}", err=True)
    return dropped == 0 and stats.recorded == stats.delivered == len(events)


def _read_back(client: Client, session_id: str) -> list[dict[str, Any]]:
    """Return every stored event of a session, page by page, the session's own event included."""
    found: list[dict[str, Any]] = []
    while True:
        answer = client.events.search(
            filters=[{"field": "session_id", "operator": "is", "value": session_id}],
            page=len(found) // SEARCH_LIMIT + 1,
        )
        found += answer["events"]
        if not answer["events"] or len(found) >= answer["totalEvents"]:
            return found


def _print(
    asked: list[Asked], sessions: list[list[dict[str, Any]]], stats: Stats, events: int, url: str
) -> None:
    click.echo("Answers are sentences picked by counting words: no language model is called.")
    for one, found in zip(asked, sessions, strict=True):
        click.secho(f"\n{one.question}", bold=True)
        for line in textwrap.wrap(one.answer, 96):
            click.echo(f"  {line}")
        click.echo()
        for line in tree_lines(found):
            click.echo(f"  {line}")
    dropped = sum(stats.dropped.values())
    click.echo(
        f"\n{len(sessions)} sessions at {url}"
        f"\nrecorded {stats.recorded} = delivered {stats.delivered} + waiting "
        f"{stats.queued + stats.spooled} + dropped {dropped}; read back {events}"
    )


@contextmanager
def _collector(directory: Path) -> Generator[str, None, None]:
    """Run `tracer serve` as a process of its own; yield its URL, stop it afterwards."""
    missing = missing_extra()
    if missing is not None:
        raise ConfigError(missing)
    environ = {k: v for k, v in os.environ.items() if k != "HH_COLLECTOR_TOKEN"}
    environ["XDG_STATE_HOME"] = str(directory)  # programs in local mode must not find this one
    command = [sys.executable, "-m", "tracer", "serve", "--port", "0"]
    process = subprocess.Popen(  # noqa: S603 - our own program
        [*command, "--db", str(directory / "collector.db")], stdout=subprocess.PIPE, env=environ
    )
    try:
        yield _ready_url(process)
    finally:
        process.terminate()
        process.communicate()


def _ready_url(process: subprocess.Popen[bytes]) -> str:
    if process.stdout is None:
        raise ConfigError("the collector has no output to read its URL from")
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(START):
            raise ConfigError(f"the collector did not start within {START:g} s")
    line = process.stdout.readline().decode()
    if READY not in line:
        raise ConfigError("the collector did not start; see its message above")
    return line.split(READY)[1].split()[0]
