"""The one background thread: read, open sessions, send, settle, count, stop.

Every decision about failure is taken here. A batch is read anew for each attempt: what is
delivered is marked in the segments, so there is no second list of events anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event, Thread, current_thread

from tenacity import RetryCallState

from tracer.buffer import NEVER, Buffer
from tracer.config import Config
from tracer.delivery import Delivery
from tracer.errors import AuthError, TransientError, TransportError
from tracer.retry import retrying
from tracer.segment import EVENT
from tracer.transport import Transport

__all__ = ["Flusher"]

MAX_BATCH_BYTES = 4 << 20  # a request's events, unless one alone is larger
DOOMED_EXIT = 0.5  # seconds to wait at exit for a server that failed; the journal keeps the rest


class _Wish:
    """A `flush` or `shutdown` that somebody waits for: everything up to `target`, one attempt."""

    def __init__(self, target: int, *, stops: bool, until: float) -> None:
        self.target = target
        self.stops = stops
        self.until = until
        self.reason: str | None = None
        self.done = Event()

    def grant(self, reason: str | None) -> None:
        self.reason = reason
        self.done.set()


class Flusher:
    """Send what `buffer` holds, in the background, until told to stop."""

    def __init__(
        self, buffer: Buffer, make_transport: Callable[[], Transport], config: Config
    ) -> None:
        """Do not start yet: the first segment of the buffer does that."""
        self._buffer = buffer
        self._make_transport = make_transport
        self._config = config
        self._retry = retrying(self._pause, self._gives_up)
        self.retries = 0
        self._fresh()
        buffer.on_rotate = self.notify

    def _fresh(self) -> None:
        self._transport = self._make_transport()
        self._delivery = Delivery(self._buffer, self._transport)
        self._mailbox: SimpleQueue[_Wish | None] = SimpleQueue()
        self._threads: dict[str, Thread] = {}
        self._wishes: list[_Wish] = []
        self._stopping = self._stopped = self._failing = False
        self._error: TransportError = TransientError("nothing was sent yet")
        self._give_up_at = 0.0

    @property
    def delivery(self) -> Delivery:
        """What sends, with its counters."""
        return self._delivery

    # -- any thread ------------------------------------------------------------------------

    def notify(self) -> None:
        """Start the thread, or wake it: a segment is full, or a batch."""
        if not self._start():
            self._mailbox.put(None)

    def flush(self, timeout: float) -> str | None:
        """Wait until everything recorded so far is settled, or had its one attempt.

        Returns: None when it is settled, else why not.
        """
        return self._ask(timeout, stops=False)

    def stop(self, timeout: float) -> str | None:
        """Flush, then end the thread and let the segments go; as `flush`."""
        if self._failing and self._buffer.durable:
            timeout = min(timeout, DOOMED_EXIT)
        return self._ask(timeout, stops=True)

    def _ask(self, timeout: float, *, stops: bool) -> str | None:
        if self._stopped or current_thread() in self._threads.values():
            return None
        if stops and not self._threads and not self._buffer.drawn:
            self._finish()  # nothing was recorded: no thread, no connection
            return None
        wish = _Wish(self._buffer.drawn, stops=stops, until=time.monotonic() + timeout)
        self._mailbox.put(wish)
        self._start()
        if not self._threads:  # the interpreter is ending, or out of threads
            if not stops:
                return "no thread can be started"
            self._run()
        if not wish.done.wait(timeout):
            return f"not done within {timeout:g} s" + (f": {self._error}" if self._failing else "")
        return wish.reason

    def _start(self) -> bool:
        if self._threads or self._stopped:
            return False
        thread = Thread(target=self._run, name="tracer-flusher", daemon=True)
        if self._threads.setdefault("flusher", thread) is not thread:
            return False
        try:
            thread.start()
        except RuntimeError:  # no thread can be had now; the next segment or flush tries again
            self._threads.clear()
            return False
        return True

    def after_fork_in_child(self) -> None:
        """Begin anew: thread, connections and wishes are the parent's."""
        self._fresh()
        if self._buffer.drawn:  # an earlier fork hook of the user recorded already
            self.notify()

    # -- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._buffer.adopt()
            while not self._stopping:
                self._sleep()
                self._drain()
            self._buffer.refuse_writes()
            if not self._failing:  # what was written while the last batch went out
                self._drain()
            self._finish()
        finally:
            self._threads.clear()  # after a failure of ours the next notify starts a new thread
            self._take(0)
            self._grant(str(self._error) if self._failing else None, self._wishes[:])

    def _finish(self) -> None:
        self._buffer.refuse_writes()
        self._buffer.close()
        self._transport.close()
        self._stopped = True

    def _sleep(self) -> None:
        self._buffer.prepare()
        self._buffer.wake_after(self._config.batch_size)
        self._take(self._config.flush_interval)
        self._buffer.wake_after(NEVER)

    def _take(self, timeout: float) -> bool:
        """Wait for a token at most `timeout` seconds, take all there are; was there a wish?"""
        asked = False
        try:
            token = (
                self._mailbox.get(timeout=timeout) if timeout > 0 else self._mailbox.get_nowait()
            )
            while True:
                if token is not None:
                    asked = True
                    self._wishes.append(token)
                    if token.stops:
                        self._stopping = True
                        self._give_up_at = token.until
                token = self._mailbox.get_nowait()
        except Empty:
            return asked

    def _grant(self, reason: str | None, wishes: list[_Wish]) -> None:
        for wish in wishes:
            if not wish.stops or self._stopped:
                wish.grant(reason)
                self._wishes.remove(wish)

    def _drain(self) -> None:
        try:
            while self._retry(self._attempt):
                self._take(0)
                self._grant(None, [w for w in self._wishes if self._buffer.is_drained_to(w.target)])
            self._grant(None, self._wishes[:])
        except (TransientError, AuthError) as error:
            self._grant(str(error), self._wishes[:])

    def _gives_up(self, _: RetryCallState) -> bool:
        return self._stopping and (self._buffer.durable or time.monotonic() >= self._give_up_at)

    def _pause(self, state: RetryCallState) -> None:
        """Wait out the backoff; a flush cuts it short, unless the server said when to return."""
        self.retries += 1
        error = self._error
        gated = isinstance(error, TransientError) and error.retry_after is not None
        until = time.monotonic() + state.upcoming_sleep
        self._grant(str(error), self._wishes[:])  # these had their attempt
        self._buffer.prepare()
        while (now := time.monotonic()) < until:
            patience = until - now
            if self._stopping:
                patience = min(patience, self._give_up_at - now)
                if patience <= 0 or (gated and self._buffer.durable):
                    raise error
            if self._take(patience) and not gated:
                return
            self._grant(str(error), self._wishes[:])

    def _attempt(self) -> bool:
        """Send one batch; False when nothing waits. Raises what the retry loop decides about."""
        frames = self._buffer.read(self._config.batch_size, MAX_BATCH_BYTES)
        if not frames:
            return False
        self._buffer.in_flight = sum(frame.kind == EVENT for frame in frames)
        try:
            self._delivery.send(frames)
        except (TransientError, AuthError) as error:
            self._failing, self._error = True, error
            self._delivery.note(error)
            raise
        finally:
            self._buffer.in_flight = 0
        self._failing = False
        return True
