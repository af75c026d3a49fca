"""What the background thread waits for: somebody to wake it, or to ask for something."""

from __future__ import annotations

import queue
from collections import deque
from contextlib import suppress
from threading import Event

__all__ = ["Mailbox", "Wish"]


class Wish:
    """A `flush` or `shutdown` that somebody waits for: everything up to `target`, one attempt."""

    def __init__(self, target: int, *, stops: bool, until: float) -> None:
        self.target = target
        self.stops = stops
        self.until = until
        self.reason: str | None = None
        self.done = Event()

    def grant(self, reason: str | None) -> None:
        """Let who waits go on; `reason` says why not everything is settled."""
        self.reason = reason
        self.done.set()


class Mailbox:
    """Any thread, signal handlers and finalizers put something in; one thread takes it out.

    Only `SimpleQueue.put` and `deque.append` are called to put: both may be re-entered.
    """

    def __init__(self) -> None:
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._wishes: deque[Wish] = deque()

    def wake(self) -> None:
        """End the wait of who takes."""
        self._tokens.put(None)

    def ask(self, wish: Wish) -> None:
        """Hand a wish over."""
        self._wishes.append(wish)
        self._tokens.put(None)

    def wait(self, timeout: float) -> None:
        """Wait until somebody puts something in, `timeout` seconds at most."""
        with suppress(queue.Empty):
            if timeout > 0:
                self._tokens.get(timeout=timeout)
            while True:
                self._tokens.get_nowait()

    def first(self) -> Wish | None:
        """Return the oldest wish; it stays until `taken`, so that an exception costs nobody his."""
        return self._wishes[0] if self._wishes else None

    def taken(self) -> None:
        """Take out the oldest wish."""
        self._wishes.popleft()

    def follow(self) -> None:
        """Take the queue of now: gevent replaced it since, and threads with greenlets.

        One of those that waits in the queue of before stops every other.
        """
        if type(self._tokens) is queue.SimpleQueue:
            return
        before, self._tokens = self._tokens, queue.SimpleQueue()
        with suppress(queue.Empty):
            while True:
                self._tokens.put(before.get_nowait())
