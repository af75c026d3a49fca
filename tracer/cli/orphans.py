"""Send by hand what dead processes left: the flusher over a source that is not recorded into."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracer.buffer import Buffer
from tracer.cli.journal import plain
from tracer.config import Config, Connection
from tracer.errors import ConfigError, Guard, SpoolError
from tracer.flusher import Flusher
from tracer.frame import DROPPED, EVENT
from tracer.key import Key
from tracer.reports import Reports
from tracer.segment import Frame, Segment
from tracer.spool import Spool
from tracer.survey import Tally
from tracer.transport import HttpTransport
from tracer.voice import log

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

__all__ = ["NOTHING", "Orphans", "Outcome", "report", "send", "target"]

PATIENCE = 30.0  # seconds to wait for a server that answered before
LETTING_GO = 2.0  # seconds for an answer that is on its way when somebody presses Ctrl-C
STEP = 0.1
BAR_AFTER = 1.0  # seconds; what is done sooner needs no progress bar


def target(url: str | None, api_key: str | None) -> tuple[Config, Connection]:
    """Return what is configured, and the server to send to, from flags and environment."""
    everywhere = click.get_current_context().find_root().params
    url = everywhere.get("base_url") if url is None else url
    api_key = everywhere.get("api_key") if api_key is None else api_key
    try:
        connection = Connection.resolve(api_key, url)
        return Config.resolve(api_key=api_key, server_url=url, local=False), connection
    except ConfigError as error:
        said = str(error).replace("argument base_url:", "--url:")
        said = said.replace("argument api_key:", "--api-key:")
        raise click.UsageError(said) from None


class Orphans:
    """The segments that dead processes left in some spools, as a source to send from."""

    def __init__(self, spools: Sequence[Spool]) -> None:
        self._spools = spools
        self.exhausted = False

    def create(self, size: int) -> Segment:
        """Refuse: nothing is recorded here."""
        raise SpoolError("nothing is recorded while orphans are sent")

    def discard(self, segment: Segment) -> None:
        """Delete a settled segment's file."""
        self._spools[0].discard(segment)

    def adopt(self, *, any_destination: bool = False) -> Segment | None:
        """Lock and return the next orphan."""
        for spool in self._spools:
            segment = spool.adopt()
            if segment is not None:
                return segment
        self.exhausted = True
        return None

    def excess(self, size: int) -> int:
        """Return 0: no room is needed."""
        return 0

    def renew(self) -> None:
        """Do nothing: nothing is recorded after a fork either."""


class _Counting(Buffer):
    """Counts refused sessions and updates, too, which the books leave out."""

    refused = 0

    def settle(self, frames: list[Frame], state: int, reason: str | None = None) -> None:
        super().settle(frames, state, reason)
        for frame in frames:
            if frame.kind != EVENT and state == DROPPED:
                self.refused += 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the orphans, in events.

    Attributes:
        refused: sessions, updates and calls that were open; the books count events alone.
        reason: why some are left.
        held: files that are locked by us still, waiting for an answer: they belong to nobody else.
    """

    sent: int
    dropped: dict[str, int]
    refused: int
    reason: str | None
    last_error: str | None
    held: frozenset[str]


NOTHING = Outcome(0, {}, 0, None, None, frozenset())


def send(
    spools: Sequence[Spool], connection: Connection, config: Config, waiting: Tally, label: str
) -> Outcome:
    """Send all orphans in `spools`; what is not settled stays where it is for the next time.

    Gives up at the first failure when the server never answered, else after `PATIENCE`. Ctrl-C
    ends it, and is the reason then.

    Args:
        waiting: what there is to send, for the progress bar.
    """
    source = Orphans(spools)
    buffer = _Counting(source, 1, 1)
    flusher = Flusher(
        buffer,
        lambda t: HttpTransport(replace(connection, timeout=t)),
        config,
        Key(config, wanted=False),  # `connection` has it
        lambda: None,
        Reports(buffer, Guard(log), None, None),
    )
    reason: str | None = None
    with _quiet(), _progress(waiting.to_send, label) as show:
        try:
            while reason is None and not (source.exhausted and not buffer.holds_orphan):
                reason = flusher.flush(config.timeout + PATIENCE)
                if reason is not None and _recovers(flusher):
                    reason = None
                show(_settled(buffer))
        except KeyboardInterrupt:
            reason = "interrupted"
        said = flusher.stop(LETTING_GO)
    books = buffer.books()
    held = frozenset(Path(s.path).name for s in list(buffer.writer.segments) if s.path is not None)
    return Outcome(
        books.delivered + buffer.interrupted,
        books.dropped,
        buffer.refused,
        reason or said,
        flusher.delivery.exchange.last_error,
        held,
    )


def report(
    outcome: Outcome,
    left: Tally,
    what: str,
    place: Path,
    *,
    running: int = 0,
    as_json: bool,
) -> None:
    """Print what became of the orphans and exit: 0 when all were stored, else 1.

    Args:
        left: what still waits.
        running: segments that belong to living programs.
    """
    lost = sum(outcome.dropped.values())
    stay = left.to_send
    if as_json:
        said = {
            "sent": outcome.sent,
            "dropped": outcome.dropped,
            "refused_beside_events": outcome.refused,
            "left": stay,
            "segments_of_running_programs": running,
            "reason": outcome.reason,
        }
        click.echo(json.dumps(said, indent=2))
    else:
        click.echo(f"{outcome.sent:,} events {what}")
        if running:
            click.echo(f"{running} segments of running programs are left to them")
    if lost or outcome.refused:
        parts = [f"{lost:,} events ({_reasons(outcome)})"] if lost else []
        if outcome.refused:
            parts.append(f"{outcome.refused:,} sessions, updates or open calls")
        why = f": {plain(outcome.last_error)}" if outcome.last_error else ""
        click.echo(f"not stored: {' and '.join(parts)}{why}", err=True)
    if outcome.reason or stay:
        why = plain(outcome.reason or "somebody else has them locked")
        click.echo(
            f"not everything was sent: {why}; {stay:,} events stay in {plain(str(place))}", err=True
        )
    raise SystemExit(1 if lost or outcome.refused or stay or outcome.reason else 0)


def _reasons(outcome: Outcome) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in outcome.dropped.items())


def _settled(buffer: _Counting) -> int:
    books = buffer.books()
    return books.delivered + sum(books.dropped.values()) + buffer.interrupted


def _recovers(flusher: Flusher) -> bool:
    """Wait for the flusher's own retries; false at once if the server never answered."""
    before = flusher.delivery.exchange.last_success
    until = time.monotonic() + PATIENCE
    while before is not None and time.monotonic() < until:
        time.sleep(STEP)
        if flusher.delivery.exchange.last_success != before:
            return True
    return False


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Keep what the flusher logs off the terminal: the command says it once, at the end."""
    log, silent = logging.getLogger("tracer"), logging.NullHandler()
    log.addHandler(silent)
    try:
        yield
    finally:
        log.removeHandler(silent)


@contextmanager
def _progress(total: int, label: str) -> Generator[Callable[[int], None], None, None]:
    """Yield what shows how many are done: on a terminal, once it takes longer than a second."""
    begun = time.monotonic()
    bar: ProgressBar[int] | None = None
    shown = 0

    def show(done: int) -> None:
        nonlocal bar, shown
        if bar is None:
            if not sys.stderr.isatty() or time.monotonic() - begun < BAR_AFTER:
                return
            bar = click.progressbar(length=max(total, done), label=label, file=sys.stderr)
            bar.__enter__()
        bar.update(done - shown)
        shown = done

    try:
        yield show
    finally:
        if bar is not None:
            bar.render_finish()
