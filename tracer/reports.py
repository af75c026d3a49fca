"""What the program is told about losses and errors, if it asked: by the background, never by a call."""

from __future__ import annotations

from collections.abc import Callable

from tracer.buffer import Buffer
from tracer.errors import Guard, TransportError

__all__ = ["OnDrop", "OnError", "Reports"]

OnDrop = Callable[[str, int], object]  # why, and how many events since the last call
OnError = Callable[[TransportError], object]


class Reports:
    """Call the program's hooks; what they raise is logged once and changes nothing."""

    def __init__(
        self, buffer: Buffer, guard: Guard, on_drop: OnDrop | None, on_error: OnError | None
    ) -> None:
        self._buffer = buffer
        self._guard = guard
        self._on_drop, self._on_error = on_drop, on_error
        self._told: dict[str, int] = {}

    def tend(self) -> None:
        """Tell what was dropped since the last time, reason by reason."""
        if self._on_drop is None:
            return
        dropped = self._buffer.dropped()
        for reason, number in dropped.items():
            more = number - self._told.get(reason, 0)
            if more > 0:
                with self._guard.during("on_drop"):
                    self._on_drop(reason, more)
        self._told = dropped

    def error(self, error: TransportError) -> None:
        """Tell that a request did not succeed, each time."""
        if self._on_error is not None:
            with self._guard.during("on_error"):
                self._on_error(error)

    def after_fork_in_child(self) -> None:
        """Count from nothing, as the buffer does."""
        self._told = {}
