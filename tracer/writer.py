"""The writing end of the queue: any thread appends frames, without a lock and without waiting."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable
from itertools import count
from threading import get_ident

from tracer.counts import Counts, value_of
from tracer.errors import SpoolError, SpoolFullError
from tracer.frame import EVENT, MAX_PAYLOAD, build_frame, kind_of, session_of
from tracer.memory import PrivateMemory, SegmentSource
from tracer.segment import Segment, private_memory
from tracer.voice import log

__all__ = ["FIRST_SIZE", "FULL_SIZE", "MAX_SESSIONS", "NEVER", "Writer"]

FIRST_SIZE = 2 << 20  # many idle workers must not fill the disk
FULL_SIZE = 8 << 20
PATIENCE = 100  # looks at the counters of writers, for two in a row that agree
MAX_NESTED = 4  # signals faster than a segment is made would otherwise make them without end
MAX_SESSIONS = 10_000  # sessions whose losses are remembered until their end
NEVER = 1 << 62  # a sequence number no event reaches: nobody needs to be woken


class Writer:
    """Append to the current segment, go on to the next, hold the bounds, count.

    `write` takes no lock and may be re-entered by signal handlers and `__del__`. While the disk
    does not do its duty, frames go to private memory.
    """

    def __init__(self, source: SegmentSource, max_events: int, max_bytes: int) -> None:
        """Start with no segment; the first write makes one.

        Args:
            max_events: how many events may wait in private memory; files have no such bound.
            max_bytes: the same in bytes, should `source` fail and private memory take its place.
        """
        self.origin = source  # what is used; it and `_source` differ while the disk fails
        self.on_rotate: Callable[[], None] = _nobody
        self._max_events = max_events
        self._max_bytes = max_bytes
        self.start_empty()

    def start_empty(self) -> None:
        """Forget every segment and count from nothing, as a forked child does."""
        self.current = _sealed_segment()
        self.segments: dict[Segment, bool] = {}  # in the order made; True for adopted ones
        self._spares: deque[Segment] = deque()
        self._grown = False  # a first segment was filled
        self._making: dict[int, int] = {}  # thread -> how many segments it is making
        self._sequence = count(1)
        self._source = self.origin
        self.trouble: SpoolError | None = None  # why private memory took the place of the disk
        self._attend_at = self._wake_at = NEVER if self.durable else 0
        self._beside, self._refused = Counts(), Counts()
        self.refused_of: dict[bytes, Counts] = {}  # by session
        self.settled_in_memory = 0  # events; the flusher counts them
        self._on_disk = 0  # events that were accepted while private memory was not used
        self._in_memory = 0  # events that were accepted by it before files were used again
        self.closed = False

    @property
    def durable(self) -> bool:
        """Whether what is written now survives the process."""
        return not isinstance(self._source, PrivateMemory)

    def write(self, kind: int, session: bytes, payload: bytes, flags: int = 0) -> bool:
        """Append one frame; in D it survives the process once this returns True.

        Never raises and never waits. An event that cannot be kept is counted as dropped.
        """
        sequence = next(self._sequence)
        if kind != EVENT:
            self._beside.add(kind)
        if sequence >= self._attend_at and not self._attend(sequence, kind):
            return self._refuse(kind, session, self._reason("queue_full"))
        if len(payload) > MAX_PAYLOAD:
            return self._refuse(kind, session, "too_large")
        frame = build_frame(kind, sequence, session, payload, flags)
        segment = self.current
        try:
            segment.append(frame)
        except (ValueError, SpoolError):  # sealed, closed, full or failed: each means the next
            return self._write_to_next(segment, kind, frame)
        return True

    def write_again(self, frame: bytes) -> bool:
        """Append a frame that stands in an older segment; by the flusher alone."""
        segment = self.current
        try:
            segment.append(frame)
        except (ValueError, SpoolError):
            return self._write_to_next(segment, 0, frame)
        return True

    def _attend(self, sequence: int, kind: int) -> bool:
        """Hold the bound and wake the flusher: what few writes need, behind one comparison."""
        room = NEVER
        if not self.durable:
            accepted = sequence - self._beside.total() - self._refused.total()
            room = self._max_events - (accepted - self._on_disk - self.settled_in_memory)
            if room < 0 and kind == EVENT:
                return False
        if sequence >= self._wake_at:
            self._wake_at = NEVER
            self.on_rotate()
        self._attend_at = min(self._wake_at, sequence + 1 + max(room, 0))
        return True

    def _reason(self, of_memory: str) -> str:
        """Name what a refused event is lost to: the bound of memory, or the disk behind it."""
        if self.trouble is None:
            return of_memory
        return "spool_full" if isinstance(self.trouble, SpoolFullError) else "spool_io"

    def _write_to_next(self, segment: Segment, kind: int, frame: bytes) -> bool:
        for stranded in segment.stranded():
            self._write_to_next(segment, kind_of(stranded), stranded)
        while not self.closed:
            segment.seal()
            following = segment.successor
            if following is None:
                following = self._next_segment()
                if following is None:
                    reason = self._reason("spool_io" if self.durable else "bytes_full")
                    return self._refuse(kind, session_of(frame), reason)
                self._follow(segment, following)
            self.current = segment = following
            if self.closed:  # meanwhile, by a thread that sealed the segment before this one
                segment.seal()
            try:
                segment.append(frame)
            except ValueError:  # filled by others meanwhile, or the small first one
                continue
            except SpoolError as error:
                if self.durable:
                    self._fall_to_memory(error)
                continue
            self.on_rotate()
            return True
        return self._refuse(kind, session_of(frame), "shutdown")

    def _follow(self, segment: Segment, following: Segment) -> None:
        # two threads may both get here: then two segments live side by side, no harm
        self._grown = bool(self.segments)
        self.segments[following] = False
        segment.successor = following

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
            return source.create(FULL_SIZE if self.segments else FIRST_SIZE)
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
        accepted = self.recorded - self._refused.total() - 1  # the one being written is not
        self._on_disk = accepted - self._in_memory
        self.trouble = error
        self._source = PrivateMemory(self._max_bytes)
        self._attend_at = 0
        # said last: a log handler that records must not come here again
        log.warning("%s: events wait in memory now and die with the process", error)

    def _refuse(self, kind: int, session: bytes, reason: str) -> bool:
        if kind == EVENT:
            self._refused.add(reason)
            if len(self.refused_of) < MAX_SESSIONS:
                self.refused_of.setdefault(session, Counts()).add(reason)
        return False

    # -- counters --------------------------------------------------------------------------

    @property
    def drawn(self) -> int:
        """The sequence number given out last."""
        return value_of(self._sequence) - 1

    @property
    def recorded(self) -> int:
        """How many events were given to `write` so far, refused ones included."""
        return self.drawn - self._beside.total()

    def counted(self) -> tuple[int, int, list[tuple[int | str, int]]]:
        """Return what was drawn, recorded and refused by reason, as it stood at one moment."""
        looks = PATIENCE
        while True:  # until no other thread wrote between these lines
            drawn = self.drawn
            recorded, refused = drawn - self._beside.total(), self._refused.items()
            looks -= 1
            if drawn == self.drawn or not looks:
                return drawn, recorded, refused

    # -- for the flusher -------------------------------------------------------------------

    def wake_at(self, sequence: int) -> None:
        """Let the write of that number call `on_rotate`: the flusher sleeps."""
        self._wake_at = sequence
        self._attend_at = min(self._attend_at, sequence)

    @property
    def wants_spare(self) -> bool:
        """Whether a segment should be made ahead: only after the first rotation."""
        return self._grown and self.trouble is None and not self._spares and not self.closed

    def prepare(self) -> None:
        """Make a spare segment, so that no caller has to. Raises: SpoolError."""
        spare = self._source.create(FULL_SIZE)
        spare.populate()
        self._spares.append(spare)

    def renew(self, size: int) -> None:
        """Go on in an empty segment of `size` bytes, in a file again if memory took its place.

        Raises: SpoolError: the disk refuses it.
        """
        segment, following = self.current, self.origin.create(size)
        self._follow(segment, following)
        self._grown = size == FULL_SIZE
        if not self.durable:
            accepted = self.recorded - self._refused.total()
            self._in_memory = accepted - self._on_disk
            self._source, self.trouble = self.origin, None
        self.current = following
        segment.seal()

    def stop(self) -> None:
        """Count everything written from now on as dropped by shutdown."""
        self.closed = True
        self.current.seal()

    def discard(self, segment: Segment) -> None:
        """Let a segment go where it came from."""
        source = self._source if segment.path is None else self.origin
        source.discard(segment)

    def spares(self) -> list[Segment]:
        """Take out the segments that were made ahead."""
        taken: list[Segment] = []
        while self._spares:
            taken.append(self._spares.pop())
        return taken


def _sealed_segment() -> Segment:
    """Return a segment that refuses every write: the first one comes with the first write."""
    segment = private_memory(mmap.PAGESIZE)
    segment.close()
    return segment


def _nobody() -> None:
    """Wake nobody: no flusher is attached."""
