"""For tests: what a program records, kept in memory, to look at instead of to send."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from itertools import count
from threading import RLock
from typing import Any

import orjson

from tracer import default
from tracer.buffer import Buffer
from tracer.clock import Clock, IdSource
from tracer.config import Config
from tracer.event import OBJECTS
from tracer.frame import DELIVERED, EVENT, EVENT_ID, SESSION
from tracer.memory import PrivateMemory
from tracer.surroundings import Surroundings
from tracer.tracer import Source, Tracer
from tracer.tree import branches

__all__ = ["Captured", "capture"]

NO_BOUND = 1 << 40  # events and bytes: a test is to see everything
START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z: where the deterministic clock starts
STEP_NS = 1_000_000  # how far it advances per reading: no two events start in the same ms
WIDTH = 60  # characters of inputs, of outputs and of an error in a tree
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in the repr of an object: another one in every run

_Record = dict[str, Any]


@contextmanager
def capture(*, deterministic: bool = False) -> Generator[Captured, None, None]:
    """Keep what the functions of the package record inside the block; no network, disk, thread.

    Takes the place of the default tracer for the whole process, all threads included, and leaves
    it afterwards as it was, also if it was not initialised yet; blocks nest. `init` inside makes
    a tracer with the options it is given, but what that records is kept here, too. Independent
    `Tracer(...)`s are left alone: hand `Captured.tracer` to code that takes one. A forked child
    keeps what it records to itself.

    Args:
        deterministic: ids count from 00000000-0000-4000-8000-000000000001 and the clock from
            2026-01-01T00:00:00Z, a millisecond at each reading, instead of at random and in time.
    """
    captured = Captured(deterministic=deterministic)
    with default.replaced(captured.build, Config(local=True, session_name="test")):
        yield captured


class Captured:
    """What was recorded so far, as the server would hold it; spans appear when they have ended.

    Everything that is handed out is a fresh copy of plain JSON values. What still runs when the
    block is left, and was begun in it, appears here later.
    """

    tracer: Tracer
    """The tracer that took the place of the default one; the latest if `init` made another."""

    def __init__(self, *, deterministic: bool) -> None:
        self._clock = _SteadyClock() if deterministic else None
        self._ids = _CountedIds() if deterministic else None
        self._kept = _Kept()

    def build(self, config: Config, source: Source) -> Tracer:
        """Make a tracer of `config` whose frames are kept here."""
        buffer = Buffer(PrivateMemory(NO_BOUND), NO_BOUND, NO_BOUND)
        around = Surroundings(buffer, self._kept.outlet(buffer), self._clock, self._ids)
        self.tracer = Tracer.of(config, source, around)
        return self.tracer

    # -- what there is -----------------------------------------------------------------------

    @property
    def events(self) -> list[_Record]:
        """The events in the order they ended, with what `enrich_span(event_id=…)` added later."""
        return list(self._stored()[0].values())

    @property
    def sessions(self) -> list[_Record]:
        """The sessions in the order of their first events, updates merged in.

        One that has ended has `end_time` and `duration`, one that was enriched e.g. `outputs`.
        """
        return list(self._stored()[1].values())

    @property
    def updates(self) -> list[_Record]:
        """The changes in the order made, ends of sessions among them, each with its `event_id`."""
        return self._stored()[2]

    def named(self, name: str) -> list[_Record]:
        """Return the events of this name, in the order they ended."""
        return [event for event in self.events if event["event_name"] == name]

    def only(self, name: str | None = None) -> _Record:
        """Return the one event there is, or the one of this name.

        Raises: AssertionError: there is none, or more than one; the message shows all there are.
        """
        found = self.events if name is None else self.named(name)
        if len(found) != 1:
            wanted = "one event" if name is None else f"one event named {name!r}"
            there = f"recorded were:\n{self.tree()}" if self.events else "nothing was recorded"
            raise AssertionError(f"{wanted} was expected, not {len(found)}; {there}")
        return found[0]

    def tree(self) -> str:
        """Return sessions and events as text, one a line, children below their parents.

        A line shows type, name, inputs → outputs (JSON, cut after 60 characters) and the error.
        Ids, times and addresses are left out, so that equal runs give equal text.
        """
        events, sessions, _ = self._stored()
        rows = [
            {
                "event_id": key,
                "event_type": "session",
                "event_name": session["session_name"],
                "error": session.get("metadata", {}).get("error"),
                **session,
            }
            for key, session in sessions.items()
        ]
        # what names no parent belongs to its session, as on the server
        rows += [{"parent_id": event["session_id"], **event} for event in events.values()]
        return "".join(f"{drawn}{_line(row)}\n" for drawn, row in branches(rows))

    def _stored(self) -> tuple[dict[str, _Record], dict[str, _Record], list[_Record]]:
        """Do what the server does: store events and sessions, then merge the updates."""
        events: dict[str, _Record] = {}
        sessions: dict[str, _Record] = {}
        updates: list[_Record] = []
        for kind, payload in self._kept.frames():
            if kind == EVENT:
                event = orjson.loads(payload)
                events[event["event_id"]] = event
            elif kind == SESSION:
                body = orjson.loads(payload)
                known = sessions.setdefault(body["session_id"], body)
                _merge(known, {n: body[n] for n in ("metadata", "user_properties") if n in body})
            else:
                event_id, change = payload[:EVENT_ID].decode(), orjson.loads(payload[EVENT_ID:])
                updates.append({"event_id": event_id, **_without_telemetry(change)})
        for update in updates:
            changed = events.get(update["event_id"]) or sessions.get(update["event_id"])
            if changed is not None:
                _merge(changed, {n: v for n, v in update.items() if n != "event_id"})
        return events, sessions, updates


def _without_telemetry(change: _Record) -> _Record:
    """Leave out what a session's end says about the tracer: snapshots are of the program."""
    found = dict(change)
    metadata = found.get("metadata", {})
    if metadata.get("tracer", {}).keys() == {"telemetry"}:
        found["metadata"] = {name: v for name, v in metadata.items() if name != "tracer"}
        if not found["metadata"]:
            del found["metadata"]
    return found


def _merge(record: _Record, change: _Record) -> None:
    for name, value in change.items():
        record[name] = {**record.get(name, {}), **value} if name in OBJECTS else value


def _line(row: Mapping[str, Any]) -> str:
    line = f"{row['event_type']} {_short(row['event_name'])}"
    if row.get("inputs"):
        line += f" {_json(row['inputs'])}"
    if "outputs" in row:
        line += f" → {_json(row['outputs'])}"
    if row.get("error"):
        line += f" !! {_short(row['error'])}"
    return line


def _json(value: Any) -> str:
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    text = ADDRESS.sub(" at 0x…", " ".join(text.split()))
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


class _Kept:
    """The frames of one or several buffers, taken out in the order written, buffer by buffer."""

    def __init__(self) -> None:
        self._outlets: list[_Outlet] = []
        self._frames: list[tuple[int, bytes]] = []
        self._lock = RLock()  # protects _frames; a signal handler may look at them, too

    def outlet(self, buffer: Buffer) -> _Outlet:
        """Return what takes the flusher's place for `buffer`."""
        outlet = _Outlet(self, buffer)
        self._outlets.append(outlet)
        return outlet

    def frames(self) -> list[tuple[int, bytes]]:
        """Return kind and payload of every frame there is."""
        with self._lock:
            for outlet in self._outlets:
                found = outlet.buffer.read(NO_BOUND, NO_BOUND)
                self._frames += [(frame.kind, frame.payload) for frame in found]
                outlet.buffer.settle(found, DELIVERED)
            return list(self._frames)

    def forget(self) -> None:
        """Start empty: the parent process keeps what it recorded."""
        self._lock = RLock()
        self._frames = []


class _Outlet:
    """What takes the flusher's place: it delivers into `_Kept`."""

    def __init__(self, kept: _Kept, buffer: Buffer) -> None:
        self._kept = kept
        self.buffer = buffer

    def flush(self, timeout: float) -> str | None:
        """Take what waits; never waits itself."""
        del timeout
        self._kept.frames()
        return None

    def stop(self, timeout: float) -> str | None:
        """Take what waits and refuse the rest, as after any `shutdown`."""
        self.buffer.refuse_writes()
        self.flush(timeout)
        self.buffer.close()
        return None

    def after_fork_in_child(self) -> None:
        """Leave what the parent recorded to the parent."""
        self._kept.forget()


class _SteadyClock(Clock):
    """Advance by the same step at each reading, whichever of the two clocks is read."""

    def __init__(self) -> None:
        readings = count(START_NS, STEP_NS)
        self.wall_ns = self.monotonic_ns = readings.__next__


class _CountedIds(IdSource):
    """Count from 1 in the last 12 digits."""

    __slots__ = ()

    def __init__(self) -> None:
        self._prefix, self._counter = "00000000-0000-4000-8000-", count(1)

    def renew(self) -> None:
        """Go on counting in a forked child, in which spans of the parent may be open."""
