"""The one background thread: read, open sessions, send, settle, count, stop.

Every decision about failure is taken here. A batch is read anew for each attempt: what is
delivered is marked in the segments, so there is no second list of events anywhere.
"""

from __future__ import annotations

# getaddrinfo looks for it, and the thread must not import
import encodings.idna  # noqa: F401  # pyright: ignore[reportUnusedImport]  # see above
import os
import time
from collections import deque
from collections.abc import Callable
from threading import Thread, current_thread

from tenacity import RetryCallState

from tracer.buffer import Buffer
from tracer.config import Config
from tracer.context import CURRENT, OwnWork
from tracer.deadletters import DeadLetters
from tracer.delivery import Delivery
from tracer.errors import AuthError, TransientError, TransportError
from tracer.key import Key
from tracer.mailbox import Mailbox, Wish
from tracer.reports import Reports
from tracer.retry import retrying
from tracer.transport import Transport
from tracer.voice import log
from tracer.writer import NEVER

__all__ = ["Flusher"]

MAX_BATCH_BYTES = 4 << 20  # a request's events, unless one alone is larger
DOOMED_EXIT = 0.5  # seconds to wait at exit for a server that failed; the journal keeps the rest
LETTING_GO = 0.2  # seconds beyond its time that a shutdown waits for the books to be closed
ADOPT_EVERY = 3.0  # seconds between looks for journals of killed siblings
LOOK_EVERY = 1.0  # seconds between looks for a server that is not there (local mode)
RESTART_PAUSE = 0.5  # seconds before work goes on after a failure of ours
MAX_RESTARTS = 5  # a minute: a failure that comes back must not cost a processor


class Flusher:
    """Send what `buffer` holds, in the background, until told to stop."""

    def __init__(
        self,
        buffer: Buffer,
        make_transport: Callable[[float], Transport],
        config: Config,
        key: Key,
        tend: Callable[[], None],
        reports: Reports,
        is_there: Callable[[], bool] = lambda: True,
    ) -> None:
        """Do not start yet: the first segment of the buffer does that.

        Args:
            make_transport: called with the seconds an attempt may take, and again when `key`
                is another one.
            tend: called before each sleep, for what else is to be done in the background.
            reports: told of errors and losses.
            is_there: asked before each attempt; while there is nobody to send to, what waits stays
                where it is, and a flush has nothing to wait for.
        """
        self._key = key
        self._buffer = buffer
        self._make_transport = make_transport
        self._tend = tend
        self._reports = reports
        self._is_there = is_there
        self._config = config
        self._retry = retrying(self._pause, self._gives_up)
        self._stopped = False
        self._fresh()
        buffer.writer.on_rotate = self.notify

    def _fresh(self) -> None:
        self._pid = os.getpid()
        self._patience = self._config.timeout  # seconds an attempt may take
        self._transport = self._make_transport(self._patience)
        dead = DeadLetters(self._config.spool_path) if self._buffer.writer.durable else None
        self._delivery = Delivery(self._buffer, self._transport, dead, self._reports.error)
        self._mailbox = Mailbox()
        self._threads: dict[str, Thread] = {}
        self._wishes: list[Wish] = []
        self._stopping = self._failing = self._in_attempt = False
        self._reason: str | None = None  # of the end: why not everything was sent
        self._failures: deque[float] = deque(maxlen=MAX_RESTARTS)
        self.retries = self.restarts = 0
        self._adopt_at = 0.0
        self._deadline = float("inf")  # for what is sent on the thread that ends the program
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
            self._mailbox.wake()

    def flush(self, timeout: float) -> str | None:
        """Wait until everything recorded so far is settled, or had its one attempt.

        Returns: None when it is settled, else why not.
        """
        return self._ask(timeout, stops=False)

    def stop(self, timeout: float) -> str | None:
        """Flush, then end the thread and let the segments go; as `flush`."""
        if self._failing and self._buffer.writer.durable:
            timeout = min(timeout, DOOMED_EXIT)
        reason = self._ask(timeout, stops=True)
        self._buffer.refuse_writes()  # also while the thread still waits for an answer
        return reason

    def _ask(self, timeout: float, *, stops: bool) -> str | None:
        if self._stopped:
            return self._reason
        if os.getpid() != self._pid:
            return "the process was forked just now: nothing is sent yet"
        if stops and not self._threads and not self._buffer.writer.drawn:
            self._finish()  # nothing was recorded: no thread, no connection
            return None
        wish = Wish(self._buffer.writer.drawn, stops=stops, until=time.monotonic() + timeout)
        self._mailbox.ask(wish)
        if current_thread() in self._threads.values():  # a hook, or the last reference died there
            return "asked by the thread that sends: it cannot wait for itself"
        self._start()
        if not self._threads:  # the interpreter is ending, or out of threads
            if not stops:
                return "no thread can be started"
            self._send_here(wish.until)
        done = wish.done.wait(timeout)
        if not done and stops and timeout > 0 and not self._in_attempt:
            done = wish.done.wait(LETTING_GO)  # it gives up now, and counts what is left
        if not done:
            if self._stopped:  # by another thread, just now
                return self._reason
            return f"not done within {timeout:g} s" + (f": {self._error}" if self._failing else "")
        return wish.reason

    def _send_here(self, until: float) -> None:
        """Do the thread's work on the thread that ends the program, until its time is over."""
        if self._threads.setdefault("flusher", current_thread()) is not current_thread():
            return
        self._deadline = until
        try:
            if not self._stopped:
                self._patience = min(self._config.timeout, max(until - time.monotonic(), 0.1))
                self._connect_anew()
                self._work()
        except Exception as error:  # noqa: BLE001 - `shutdown` never raises
            self._after_failure(error)
        finally:
            self._threads.clear()
            self._take(0)
            self._grant(self._reason, self._wishes[:])

    def _start(self) -> bool:
        if self._threads or self._stopped or os.getpid() != self._pid:
            # the last: in a child whose fork hook, an earlier one of the user's now recording,
            # has not come to us yet. A thread started there would be a second one afterwards.
            return False
        thread = Thread(target=self._run, name="tracer-flusher", daemon=True)
        if self._threads.setdefault("flusher", thread) is not thread:
            return False
        self._mailbox.follow()
        try:
            thread.start()
        except RuntimeError:  # no thread can be had now; the next segment or flush tries again
            self._threads.clear()
            return False
        return True

    def after_fork_in_child(self) -> None:
        """Begin anew: thread, connections and wishes are the parent's."""
        self._fresh()  # but shut down stays shut down
        self._reports.after_fork_in_child()
        if self._buffer.writer.drawn:  # an earlier fork hook of the user recorded already
            self.notify()

    # -- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        """Work until told to stop, and go on after a failure of ours."""
        # nothing we call is recorded, and the span that was current at our start is let go
        CURRENT.set(OwnWork(None))
        failure: BaseException | None = None
        while not self._stopped:
            try:
                if failure is not None:
                    pause = self._after_failure(failure)
                    failure = None
                    self._rest(pause)
                self._work()
            except BaseException as error:  # noqa: BLE001 - nobody is above; without us all waits
                failure = error  # looked at above, where a second one is caught, too
        self._threads.clear()
        self._take(0)
        self._grant(self._reason, self._wishes[:])

    def _work(self) -> None:
        while not self._stopping:
            self._sleep()
            self._drain()
        self._buffer.refuse_writes()
        if not self._failing:  # what was written while the last batch went out
            self._drain()
        self._reason = str(self._error) if self._failing else self._delivery.trouble
        self._finish()

    def _after_failure(self, error: BaseException) -> float:
        """Say it, let nobody wait for it; return how long to pause."""
        first = not self._failures
        self.restarts += 1
        now = time.monotonic()
        full = len(self._failures) == MAX_RESTARTS
        pause = max(RESTART_PAUSE, self._failures[0] + 60 - now) if full else RESTART_PAUSE
        self._failures.append(now)
        self._reason = f"{type(error).__name__}: {error}"
        if self._stopping:  # what is in files stays there
            self._buffer.refuse_writes()
            self._stopped = True
        self._grant(self._reason, self._wishes[:])
        if first:  # last: a handler that exits comes back here as the next failure
            log.warning("sending failed (%s), and goes on", self._reason)
        return pause

    def _rest(self, pause: float) -> None:
        until = time.monotonic() + pause
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._take(left)

    def _adopt(self) -> bool:
        now = time.monotonic()
        if now < self._adopt_at:
            return False
        if self._buffer.adopt():
            return True
        self._adopt_at = now + ADOPT_EVERY
        return False

    def _finish(self) -> None:
        self._buffer.refuse_writes()
        self._tend()  # what ended since the last look was not interrupted
        self._buffer.close()
        self._transport.close()
        self._stopped = True
        self._reports.tend()

    def _sleep(self) -> None:
        self._tend()
        self._buffer.tend(time.monotonic())
        self._reports.tend()
        full = self._config.batch_size
        if self._is_left_alone():  # no batch is read, so none is ever full
            self._take(min(LOOK_EVERY, self._config.flush_interval))
            return
        self._buffer.wake_after(full)
        waits = self._buffer.unread < full and not self._wishes  # those came while we rested
        self._take(self._config.flush_interval if waits else 0)
        self._buffer.writer.wake_at(NEVER)

    def _take(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds to be woken; tell whether somebody wants something."""
        self._mailbox.wait(timeout)
        asked = False
        while (wish := self._mailbox.first()) is not None:
            self._wishes.append(wish)
            asked = True
            if wish.stops:
                self._stopping = True
                self._give_up_at = wish.until
            self._mailbox.taken()
        return asked

    def _grant(self, reason: str | None, wishes: list[Wish]) -> None:
        for wish in wishes:
            if not wish.stops or self._stopped:
                wish.grant(reason)
                self._wishes.remove(wish)

    def _drain(self) -> None:
        """Send what waits; less than a batch that comes meanwhile waits for more, unless asked for.

        Small batches would follow a busy caller event by event and take the interpreter from it.
        """
        try:
            while self._retry(self._attempt):
                self._take(0)
                drained = [w for w in self._wishes if self._buffer.is_drained_to(w.target)]
                self._grant(self._delivery.trouble, drained)
                little = self._buffer.unread < self._config.batch_size
                if little and not self._wishes and not self._buffer.holds_orphan:
                    return
            self._grant(self._delivery.trouble, self._wishes[:])
        except (TransientError, AuthError) as error:
            self._grant(str(error), self._wishes[:])

    def _gives_up(self, _: RetryCallState) -> bool:
        return self._stopping and (
            self._buffer.writer.durable or time.monotonic() >= self._give_up_at
        )

    def _pause(self, state: RetryCallState) -> None:
        """Wait out the backoff; a flush cuts it short, unless the server said when to return.

        Who has gone since is not waited for.
        """
        self.retries += 1
        error = self._error
        gated = isinstance(error, TransientError) and error.retry_after is not None
        until = time.monotonic() + state.upcoming_sleep
        self._grant(str(error), self._wishes[:])  # these had their attempt
        self._tend()
        self._buffer.tend(time.monotonic())
        self._reports.tend()
        while (now := time.monotonic()) < until:
            patience = until - now
            if self._stopping:
                patience = min(patience, self._give_up_at - now)
                if patience <= 0 or (gated and self._buffer.writer.durable):
                    raise error
            if self._take(patience) and (not gated or self._is_left_alone()):
                return
            self._grant(str(error), self._wishes[:])

    def _attempt(self) -> bool:
        """Send one batch; False when nothing waits. Raises what the retry loop decides about."""
        return self._send_batch(again=True)

    def _send_batch(self, *, again: bool) -> bool:
        if time.monotonic() >= self._deadline:
            self._failing, self._error = True, TransientError("the time to exit is over")
            raise self._error
        if self._is_left_alone():
            return False
        self._adopt()
        frames = self._buffer.read(self._config.batch_size, MAX_BATCH_BYTES)
        if not frames and self._adopt():  # the one before is done
            frames = self._buffer.read(self._config.batch_size, MAX_BATCH_BYTES)
        if not frames:
            return False
        if self._failing and isinstance(self._error, AuthError):
            self._renew_key()
        self._buffer.take_off(frames)
        self._in_attempt = True
        try:
            self._key.check()
            self._delivery.send(frames)
        except (TransientError, AuthError) as error:
            if again and error.status in (401, 403) and self._renew_key():
                return self._send_batch(again=False)  # rotated meanwhile: no reason to wait
            if self._is_left_alone():  # it went away meanwhile, which is no failure
                return False
            self._failing, self._error = True, error
            self._delivery.note(error)
            raise
        finally:
            self._buffer.land()
            self._in_attempt = False
        self._failing = False
        return True

    def _renew_key(self) -> bool:
        """Ask for the key again, and use it if it is another one."""
        if not self._key.renew():
            return False
        self._connect_anew()
        return True

    def _connect_anew(self) -> None:
        self._transport.close()
        self._transport = self._make_transport(self._patience)
        self._delivery.exchange.transport = self._transport

    def _is_left_alone(self) -> bool:
        """Look whether there is nobody to send to; then what failed before is over."""
        alone = not self._is_there()
        if alone:
            self._failing = False
        return alone
