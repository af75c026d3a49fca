"""How the end of the process reaches its tracers: `atexit`, and signals where that was asked for."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
import weakref
from types import FrameType
from typing import Any, Protocol

from tracer.voice import log

__all__ = ["handle_signals", "watch"]


class Ending(Protocol):
    """What wants to send what waits before the process ends; never raises."""

    def flush(self) -> object: ...
    def finish(self, started: float) -> None:
        """Shut down within the time it may take, counted from `started` (monotonic seconds)."""
        ...


_live: weakref.WeakSet[Any] = weakref.WeakSet()
_handled: set[int] = set()


def watch(participant: Ending) -> None:
    """Let `participant` finish before the process ends, for as long as it lives."""
    _live.add(participant)


def _finish_all() -> None:
    started = time.monotonic()
    for participant in list(_live):  # they share the time: the exit takes the longest, not the sum
        participant.finish(started)


def handle_signals() -> None:
    """Let tracers finish when SIGTERM ends the process, and leave its effect as it was.

    What the program installed before is called afterwards; without that the process ends by the
    signal, so that its status is the same. A signal that is ignored stays so. Only the main thread
    can install a handler; elsewhere nothing happens, and the log says so.
    """
    number = signal.SIGTERM
    if number in _handled:
        return
    if threading.current_thread() is not threading.main_thread():
        log.warning("handle_signals: only the main thread can; SIGTERM is as it was")
        return
    before = signal.getsignal(number)
    if before is signal.SIG_IGN or before is None:  # None: set by what is not Python
        return

    def handler(received: int, frame: FrameType | None) -> None:
        if callable(before):
            for participant in list(_live):  # the program may go on, and record
                participant.flush()
            before(received, frame)
        else:
            _finish_all()
            signal.signal(received, signal.SIG_DFL)
            os.kill(os.getpid(), received)

    signal.signal(number, handler)
    _handled.add(number)


# Runs after the program's own threads have ended and before daemon threads, ours among them, stop.
atexit.register(_finish_all)
