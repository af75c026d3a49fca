"""Time and identifiers: wall-clock and monotonic nanoseconds, new event ids."""

from __future__ import annotations

import os
import re
import time
from itertools import count
from uuid import NAMESPACE_URL, uuid5

__all__ = ["UUID_FORM", "Clock", "IdSource", "wall_ms", "wire_session_id"]

COUNTER_BITS = 48
HEADROOM_BITS = 47  # the counter starts in the lower half: 1.4e14 ids before a new prefix

UUID_FORM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Clock:
    """The two clocks of a recorder; replace them in tests."""

    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.perf_counter_ns)


def wall_ms() -> int:
    """Return the wall clock in Unix milliseconds, the unit of the wire."""
    return time.time_ns() // 1_000_000


class IdSource:
    """Make UUIDs that are version 4 in form and ordered in time in content.

    Layout, in hex: 8 seconds of this source's start, 4 random, version and 3 random, variant and
    14 random bits, then a 48-bit counter that starts at random: 42 random bits before the counter
    and 47 in its start. Neighbours in time are neighbours in every index, no call reaches the
    random source, and the last 8 bytes alone serve as a W3C span id.
    """

    __slots__ = ("_counter", "_prefix")

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Start a new prefix and counter: after a fork, or when the counter is used up."""
        drawn = int.from_bytes(os.urandom(12), "big")
        seconds = int(time.time()) & 0xFFFFFFFF
        groups = (drawn & 0xFFFF, drawn >> 16 & 0xFFF, 0x8000 | drawn >> 28 & 0x3FFF)
        prefix = f"{seconds:08x}-{groups[0]:04x}-4{groups[1]:03x}-{groups[2]:04x}-"
        start = drawn >> 42 & ((1 << HEADROOM_BITS) - 1)
        self._prefix = prefix
        self._counter = count(start)

    def new(self) -> str:
        """Return the next id; safe in every thread and signal handler, no lock."""
        number = next(self._counter)
        if number >> COUNTER_BITS:
            self.renew()
            return self.new()
        return f"{self._prefix}{number:012x}"


def wire_session_id(session_id: str) -> str:
    """Return a session id as the server takes it: a UUID as it is, anything else as a UUIDv5.

    The same text gives the same UUID in every process.
    """
    if UUID_FORM.fullmatch(session_id):
        return session_id.lower()
    return str(uuid5(NAMESPACE_URL, f"hh-session:{session_id}"))
