"""What refused batches taught: how large a request may be, and whether splitting is of any use."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tracer.segment import Frame

__all__ = ["Breaker", "SizeLimit"]

LARGE = 64 << 10  # bytes; from here on limits are round numbers, and so is the size of our batches
SHARE = 0.45  # of a large size is tried next: its half, with the commas, would miss them by a hair
FORGET = 600.0  # seconds; then a limit that was lifted is noticed, at the price of 2 or 3 requests
NO_LIMIT = 1 << 62
# Refusals in a row, nothing accepted between them. One bad event among 5,000 costs 13, four at the
# beginning of such a batch 20; a server that refuses all has cost at most 46 requests by then.
MAX_REFUSALS = 20


class SizeLimit:
    """The bytes a request may have, learned from 413 and kept for the batches that follow."""

    def __init__(self) -> None:
        self._room = self._refused = NO_LIMIT
        self._until = 0.0

    @property
    def room(self) -> int:
        """Bytes for the events of one request, with the commas between them."""
        if self._room != NO_LIMIT and time.monotonic() >= self._until:
            self._room = self._refused = NO_LIMIT
        return self._room

    def refused(self, size: int) -> None:
        """Learn that `size` bytes of events were too many."""
        self._refused = min(self._refused, size)
        self._room = min(self._room, size // 2 if size < LARGE else int(size * SHARE))
        self._until = time.monotonic() + FORGET

    def accepted(self, size: int) -> None:
        """Learn that `size` bytes were not: whatever refused less is over."""
        if size >= self._refused:
            self._until = 0.0

    def count(self, frames: Sequence[Frame]) -> int:
        """Return how many frames, from the first, fit into one request; at least one."""
        room = self.room
        if room == NO_LIMIT:
            return len(frames)
        for number, frame in enumerate(frames):
            room -= len(frame.payload) + 1
            if room < 0:
                return max(number, 1)
        return len(frames)


class Breaker:
    """Open once a server refuses whatever it is sent: then a batch is not worth splitting."""

    def __init__(self) -> None:
        self._refusals = 0

    @property
    def is_open(self) -> bool:
        """Whether nothing was accepted for long; the next acceptance closes it."""
        return self._refusals >= MAX_REFUSALS

    def refused(self) -> None:
        """Count one more request that was refused."""
        self._refusals += 1

    def accepted(self) -> None:
        """Begin to count anew."""
        self._refusals = 0
