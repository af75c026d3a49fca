"""The queue: the segments being written and those not yet settled; their bounds and counters."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from threading import RLock, get_ident
from typing import NamedTuple

from tracer.counts import Counts, value_of
from tracer.errors import SpoolError
from tracer.memory import PrivateMemory, SegmentSource
from tracer.segment import (
    DELIVERED,
    EVENT,
    MAX_PAYLOAD,
    Frame,
    Segment,
    build_frame,
    private_memory,
)
from tracer.voice import log

__all__ = ["Books", "Buffer"]

FIRST_SIZE = 2 << 20  # many idle workers must not fill the disk
FULL_SIZE = 8 << 20
PATIENCE = 100  # looks at the counters of writers, for two in a row that agree
MAX_NESTED = 4  # signals faster than a segment is made would otherwise make them without end
NEVER = 1 << 62  # a sequence number no event reaches: nobody needs to be woken


class Books(NamedTuple):
    """Where every event is, at one moment: the terms of the accounting identity.

    recorded + adopted_in == delivered + in_flight + waiting + sum(dropped.values()), with a slack
    of the number of threads that are writing at this moment.
    """

    recorded: int
    adopted_in: int
    delivered: int
    in_flight: int
    waiting: int
    dropped: dict[str, int]


class Buffer:
    """Frames from any thread in, batches for the flusher out.

    `write` takes no lock and may be re-entered by signal handlers and `__del__`; `books` may be
    called by anyone; what reads, settles, adopts or closes belongs to the flusher alone.
    """

    def __init__(self, source: SegmentSource, max_events: int, max_bytes: int) -> None:
        """Start with no segment; the first write makes one.

        Args:
            max_events: how many events may wait in private memory; files have no such bound.
            max_bytes: the same in bytes, should `source` fail and private memory take its place.
        """
        self._origin = self._source = source  # they differ once the disk has failed
        self.on_rotate: Callable[[], None] = _nobody
        self._max_events = max_events
        self._max_bytes = max_bytes
        # protects segments and counters of the flusher against `books`, never against a writer;
        # may be entered again by a signal handler that looks at the books
        self._reading = RLock()
        self._segments: dict[Segment, bool] = {}  # in the order made; True for adopted ones
        self._spares: deque[Segment] = deque()
        self._start_empty()

    def _start_empty(self) -> None:
        self._current = _sealed_segment()
        self._segments, self._spares = {}, deque()
        self._making: dict[int, int] = {}  # thread -> how many segments it is making
        self._sequence = count(1)
        self._source = self._origin
        self._attend_at = self._wake_at = NEVER if self.durable else 0
        self._seen: int | None = 0  # every frame up to here was read; None: there was no room
        self._beside, self._refused = Counts(), Counts()
        self._given_up: dict[str, int] = {}
        self._settled = 0  # events in private memory
        self._on_disk = 0  # events accepted before private memory took the place of files
        self._left_behind = 0  # waiting events in the files that `close` let go
        self.delivered = self.in_flight = self.adopted_in = 0
        self.closed = False

    @property
    def durable(self) -> bool:
        """Whether what is written now survives the process."""
        return not isinstance(self._source, PrivateMemory)

    # -- any thread ------------------------------------------------------------------------

    def write(self, kind: int, session: bytes, payload: bytes, flags: int = 0) -> bool:
        """Append one frame; in D it survives the process once this returns True.

        Never raises and never waits. An event that cannot be kept is counted as dropped.
        """
        sequence = next(self._sequence)
        if kind != EVENT:
            self._beside.add(kind)
        if sequence >= self._attend_at and not self._attend(sequence, kind):
            return self._refuse(kind, "queue_full")
        if len(payload) > MAX_PAYLOAD:
            return self._refuse(kind, "too_large")
        frame = build_frame(kind, sequence, session, payload, flags)
        segment = self._current
        try:
            segment.append(frame)
        except ValueError:  # sealed, closed or full: each means the next segment
            return self._write_to_next(segment, kind, frame)
        return True

    def _attend(self, sequence: int, kind: int) -> bool:
        """Hold the bound and wake the flusher: what few writes need, behind one comparison."""
        room = NEVER
        if not self.durable:
            accepted = sequence - self._beside.total() - self._refused.total()
            room = self._max_events - (accepted - self._settled - self._on_disk)
            if room < 0 and kind == EVENT:
                return False
        if sequence >= self._wake_at:
            self._wake_at = NEVER
            self.on_rotate()
        self._attend_at = min(self._wake_at, sequence + 1 + max(room, 0))
        return True

    def _write_to_next(self, segment: Segment, kind: int, frame: bytes) -> bool:
        while not self.closed:
            segment.seal()
            following = segment.successor
            if following is None:
                following = self._next_segment()
                if following is None:
                    return self._refuse(kind, "spool_io" if self.durable else "bytes_full")
                # two threads may both get here: then two segments live side by side, no harm
                self._segments[following] = False
                segment.successor = following
            self._current = segment = following
            if self.closed:  # meanwhile, by a thread that sealed the segment before this one
                segment.seal()
            try:
                segment.append(frame)
            except ValueError:  # filled by others meanwhile, or the small first one
                continue
            self.on_rotate()
            return True
        return self._refuse(kind, "shutdown")

    def _next_segment(self) -> Segment | None:
        try:
            return self._spares.pop()
        except IndexError:
            pass
        source, me = self._source, get_ident()
        depth = self._making.get(me, 0)
        if depth == MAX_NESTED:
            return None
        self._making[me] = depth + 1
        try:
            return source.create(FULL_SIZE if self._segments else FIRST_SIZE)
        except SpoolError as error:
            if isinstance(source, PrivateMemory):
                return None
            if self._source is source:
                self._fall_to_memory(error)
            return self._next_segment()
        finally:
            if depth:
                self._making[me] = depth
            else:
                del self._making[me]

    def _fall_to_memory(self, error: SpoolError) -> None:
        self._on_disk = self.recorded - self._refused.total() - 1  # the one being written is not
        self._source = PrivateMemory(self._max_bytes)
        self._attend_at = 0
        # said last: a log handler that records must not come here again
        log.warning("%s: events wait in memory now and die with the process", error)

    def _refuse(self, kind: int, reason: str) -> bool:
        if kind == EVENT:
            self._refused.add(reason)
        return False

    @property
    def recorded(self) -> int:
        """How many events were given to `write` so far, refused ones included."""
        return self.drawn - self._beside.total()

    @property
    def drawn(self) -> int:
        """The sequence number given out last."""
        return value_of(self._sequence) - 1

    def _producers(self) -> tuple[int, int, list[tuple[int | str, int]]]:
        """Return the counters of the writers as they stand at one moment."""
        looks = PATIENCE
        while True:  # until no other thread wrote between these lines
            drawn = self.drawn
            recorded, refused = drawn - self._beside.total(), self._refused.items()
            looks -= 1
            if drawn == self.drawn or not looks:
                return drawn, recorded, refused

    def books(self) -> Books:
        """Count where every event is."""
        with self._reading:
            drawn, recorded, refused = self._producers()
            dropped = dict(self._given_up)
            for reason, number in refused:
                dropped[str(reason)] = dropped.get(str(reason), 0) + number
            waiting = self._left_behind
            for segment, adopted in list(self._segments.items()):
                waiting += segment.count_waiting(None if adopted else drawn)
            return Books(
                recorded,
                self.adopted_in,
                self.delivered,
                self.in_flight,
                max(waiting - self.in_flight, 0),
                dropped,
            )

    # -- the flusher -----------------------------------------------------------------------

    def read(self, max_frames: int, max_bytes: int) -> list[Frame]:
        """Return waiting frames, oldest first, and free the segments that hold none any more.

        Never waits. `max_bytes` bounds the sum of payloads; one larger frame comes alone.
        """
        found: list[Frame] = []
        room = max_bytes
        drawn, self._seen = self.drawn, None
        with self._reading:
            for segment in list(self._segments):
                if segment is not self._current:
                    segment.seal()
                for frame in self._walk(segment):
                    room -= len(frame.payload)
                    if len(found) == max_frames or (found and room < 0):
                        return found
                    found.append(frame)
                if segment.is_settled:
                    del self._segments[segment]
                    self._discard(segment)
        self._seen = drawn
        return found

    @property
    def unread(self) -> int:
        """How many frames came since the last `read`; NEVER if it left some for want of room."""
        return NEVER if self._seen is None else self.drawn - self._seen

    def _discard(self, segment: Segment) -> None:
        source = self._source if segment.path is None else self._origin
        source.discard(segment)

    def _walk(self, segment: Segment) -> Iterator[Frame]:
        """Yield the waiting frames; count the gaps, each the first time it is passed."""
        for found in segment.walk():
            if isinstance(found, Frame):
                yield found
            elif found.end > segment.counted_gaps_to:
                segment.counted_gaps_to = found.end
                self._give_up("spool_corrupt", 1)

    def settle(self, frames: list[Frame], state: int, reason: str | None = None) -> None:
        """Write the outcome of `frames` and count it; `reason` says why they are dropped."""
        with self._reading:
            events = 0
            for frame in frames:
                frame.segment.settle(frame, state)
                if frame.kind == EVENT:
                    events += 1
                    self._settled += frame.segment.path is None
            self.in_flight -= min(events, self.in_flight)
            if reason is not None:
                self._give_up(reason, events)
            elif state == DELIVERED:
                self.delivered += events

    def _give_up(self, reason: str, events: int) -> None:
        if events:
            self._given_up[reason] = self._given_up.get(reason, 0) + events

    def is_drained_to(self, sequence: int) -> bool:
        """Tell whether every own frame up to `sequence` is settled."""
        with self._reading:
            for segment, adopted in list(self._segments.items()):
                first = next(self._walk(segment), None)
                # not the first segment alone: of two that live side by side the older one may
                # hold the later frames
                if first is not None and not adopted and first.sequence <= sequence:
                    return False
        return True

    def adopt(self) -> None:
        """Take over what dead processes left for the same destination."""
        for segment in self._origin.adopt():
            with self._reading:
                self._segments[segment] = True
                self.adopted_in += segment.count_waiting()

    def prepare(self) -> None:
        """Make a spare segment, so that no caller has to; only after the first rotation."""
        if self._current.end == FULL_SIZE and not self._spares and not self.closed:
            try:
                self._spares.append(self._source.create(FULL_SIZE))
            except SpoolError:  # the caller that needs it will say so
                return

    def wake_after(self, frames: int) -> None:
        """Let the write that makes `frames` unread ones call `on_rotate`: the flusher sleeps."""
        self._wake_at = (self.drawn if self._seen is None else self._seen) + frames
        self._attend_at = min(self._attend_at, self._wake_at)

    def refuse_writes(self) -> None:
        """Count everything written from now on as dropped by shutdown."""
        self.closed = True
        self._current.seal()

    def close(self) -> None:
        """Let go: files with waiting frames stay for the next start, memory is dropped, counted."""
        with self._reading:
            for segment in list(self._segments):
                segment.seal()
                waiting = sum(frame.kind == EVENT for frame in self._walk(segment))
                if segment.is_settled or segment.path is None:
                    self._give_up("shutdown", waiting)
                    self._discard(segment)
                else:
                    self._left_behind += waiting
                    segment.close()
            while self._spares:
                self._discard(self._spares.pop())
            self._segments = {}

    # -- fork --------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Start empty: the parent sends what the parent recorded."""
        inherited = [*self._segments, *self._spares]
        self._reading = RLock()
        closed = self.closed
        self._start_empty()
        self.closed = closed  # shut down once is shut down in the children, too
        self._origin.renew()
        # Only now: a child that still wrote would overwrite the parent's next frame.
        for segment in inherited:
            segment.close()


def _sealed_segment() -> Segment:
    """Return a segment that refuses every write: the first one comes with the first write."""
    segment = private_memory(mmap.PAGESIZE)
    segment.close()
    return segment


def _nobody() -> None:
    """Wake nobody: no flusher is attached."""
