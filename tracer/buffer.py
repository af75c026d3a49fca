"""The queue: segments that are written to, and those that wait; what the flusher does with them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from threading import RLock
from typing import NamedTuple

from tracer.errors import SpoolError
from tracer.frame import DELIVERED, EVENT, EVENT_ID, OPEN, SUPERSEDED
from tracer.memory import SegmentSource
from tracer.segment import Frame, Segment
from tracer.voice import log
from tracer.writer import FIRST_SIZE, FULL_SIZE, MAX_SESSIONS, NEVER, Writer

__all__ = ["Books", "Buffer"]

IDLE = 60.0  # seconds without a write after which what was delivered leaves the disk
DISK_AGAIN = 5.0  # seconds between two looks whether a disk that failed works again
QUIET = 60.0  # seconds between two log lines about what the cap costs


class Books(NamedTuple):
    """Where every event is, at one moment: the terms of the accounting identity.

    recorded + adopted_in == delivered + in_flight + queued + spooled + sum(dropped.values()), with
    a slack of the number of threads that are writing at this moment.
    """

    recorded: int
    adopted_in: int
    delivered: int
    in_flight: int
    queued: int
    spooled: int
    dropped: dict[str, int]

    @property
    def waiting(self) -> int:
        """How many wait, in memory or in a file."""
        return self.queued + self.spooled


class Buffer:
    """Frames from any thread in, batches for the flusher out.

    `write` and `books` are for anyone; what reads, settles, adopts or closes belongs to the
    flusher alone.
    """

    def __init__(self, source: SegmentSource, max_events: int, max_bytes: int) -> None:
        """Start with no segment; the first write makes one. The bounds are those of `Writer`."""
        self.writer = Writer(source, max_events, max_bytes)
        self.write = self.writer.write
        # protects segments and counters of the flusher against `books`, never against a writer;
        # may be entered again by a signal handler that looks at the books
        self._reading = RLock()
        self._start_empty()

    def _start_empty(self) -> None:
        self._seen: int | None = 0  # every frame up to here was read; None: there was no room
        self._orphans_first = True  # turned before each read
        self._given_up: dict[str, int] = {}
        self._lost: dict[bytes, dict[str, int]] = {}  # the same by session
        self._left_behind = 0  # waiting events in the files that `close` let go
        self._flying: dict[tuple[Segment, int], Frame] = {}  # by place: events that are being sent
        self.delivered = self.adopted_in = 0
        self.interrupted = 0  # spans of dead processes, sent as events of this one
        self.open_frames: dict[str, Frame] = {}  # by event id: spans that were open a second
        self._still_since = (0, 0.0)  # the sequence number drawn last, and since when
        self._disk_at = 0.0  # when to look at the disk again
        self._cap_said = -QUIET

    # -- any thread ------------------------------------------------------------------------

    def books(self) -> Books:
        """Count where every event is."""
        with self._reading:
            drawn, recorded, refused = self.writer.counted()
            dropped = self._with_refused(refused)
            waiting = {False: 0, True: self._left_behind}  # by whether it is in a file
            for segment, adopted in list(self.writer.segments.items()):
                number = segment.count_waiting(None if adopted else drawn)
                waiting[segment.path is not None] += number
            for frame in list(self._flying.values()):
                waiting[frame.segment.path is not None] -= 1
            return Books(
                recorded,
                self.adopted_in,
                self.delivered,
                len(self._flying),
                max(waiting[False], 0),
                max(waiting[True], 0),
                dropped,
            )

    def dropped(self) -> dict[str, int]:
        """Return how many events were lost so far, by reason."""
        return self._with_refused(self.writer.counted()[2])

    def _with_refused(self, refused: list[tuple[int | str, int]]) -> dict[str, int]:
        dropped = dict(self._given_up)
        for reason, number in refused:
            dropped[str(reason)] = dropped.get(str(reason), 0) + number
        return dropped

    def losses_of(self, session: bytes) -> dict[str, int]:
        """Return how many events of a session were lost, by reason."""
        lost = dict(self._lost.get(session, {}))
        refused = self.writer.refused_of.get(session)
        for reason, number in refused.items() if refused is not None else ():
            lost[str(reason)] = lost.get(str(reason), 0) + number
        return lost

    def forget_losses(self, session: bytes) -> None:
        """Forget what was lost of a session that has ended: it was told."""
        self._lost.pop(session, None)
        self.writer.refused_of.pop(session, None)

    # -- the flusher: reading and settling --------------------------------------------------

    def read(self, max_frames: int, max_bytes: int) -> list[Frame]:
        """Return waiting frames, oldest first, and free the segments that hold none any more.

        What dead processes left comes first in every second batch: neither side starves.
        Never waits. `max_bytes` bounds the sum of payloads; one larger frame comes alone.
        """
        found: list[Frame] = []
        room = max_bytes
        drawn, self._seen = self.writer.drawn, None
        self._orphans_first = not self._orphans_first
        with self._reading:
            for segment, adopted in self._in_turn():
                for frame in self._walk(segment):
                    if frame.kind == OPEN and not adopted:  # the span may still end
                        self._note_open(frame)
                        continue
                    room -= len(frame.payload)
                    if len(found) == max_frames or (found and room < 0):
                        return found
                    found.append(frame)
                if segment.is_settled and segment in self.writer.segments:
                    self._discard(segment)
        self._seen = drawn
        return found

    def note_open(self) -> None:
        """Find the frames of open spans, also behind more waiting ones than a batch takes."""
        with self._reading:
            for segment, adopted in list(self.writer.segments.items()):
                if not adopted:
                    with suppress(OSError):  # the disk does not give it back; `read` says so
                        for frame in segment.look_on():
                            if frame.kind == OPEN:
                                self._note_open(frame)

    def _note_open(self, frame: Frame) -> None:
        self.open_frames[str(frame.payload[:EVENT_ID], "ascii")] = frame

    def _in_turn(self) -> list[tuple[Segment, bool]]:
        segments = list(self.writer.segments.items())
        for segment, _ in segments:
            if segment is not self.writer.current:
                segment.seal()
        return sorted(segments, key=lambda item: item[1] is not self._orphans_first)

    @property
    def unread(self) -> int:
        """How many frames came since the last `read`; NEVER if it left some for want of room."""
        return NEVER if self._seen is None else self.writer.drawn - self._seen

    def wake_after(self, frames: int) -> None:
        """Let the write that makes `frames` unread ones call `on_rotate`: the flusher sleeps."""
        self.writer.wake_at((self.writer.drawn if self._seen is None else self._seen) + frames)

    def _discard(self, segment: Segment) -> None:
        del self.writer.segments[segment]
        self.writer.discard(segment)

    def _walk(self, segment: Segment) -> Iterator[Frame]:
        """Yield the waiting frames; count the gaps, each the first time it is passed."""
        try:
            for found in segment.walk():
                if isinstance(found, Frame):
                    yield found
                elif segment.is_new(found):
                    self._give_up("spool_corrupt", 1)
        except OSError as error:  # the disk does not give it back
            log.warning("%s: %s: its events are lost", segment.path, error.strerror)
            self._abandon(segment, "spool_io")

    def _abandon(self, segment: Segment, reason: str) -> int:
        """Count what waits in a segment as dropped, and delete it."""
        number = segment.count_known()
        self._give_up(reason, number)
        self._discard(segment)
        return number

    def take_off(self, frames: list[Frame]) -> None:
        """Count the events among `frames` as in flight, until they are settled or `land`."""
        self._flying = {frame[:2]: frame for frame in frames if frame.kind == EVENT}

    def land(self) -> None:
        """Count what is still in flight as waiting again."""
        self._flying = {}

    def settle(self, frames: list[Frame], state: int, reason: str | None = None) -> None:
        """Write the outcome of `frames` and count it; `reason` says why they are dropped."""
        with self._reading:
            events = 0
            for frame in frames:
                frame.segment.settle(frame, state)
                if frame.kind == EVENT:
                    events += 1
                    self._flying.pop(frame[:2], None)
                    self.writer.settled_in_memory += frame.segment.path is None
                    if reason is not None and len(self._lost) < MAX_SESSIONS:
                        lost = self._lost.setdefault(frame.session, {})
                        lost[reason] = lost.get(reason, 0) + 1
                elif frame.kind == OPEN and state == DELIVERED:
                    self.interrupted += 1
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
            # not the first segment alone: of two that live side by side the older one may hold the
            # later frames
            return not any(
                not adopted and segment.holds_to(sequence)
                for segment, adopted in list(self.writer.segments.items())
            )

    # -- the flusher: space ------------------------------------------------------------------

    def adopt(self) -> bool:
        """Take over a segment of a dead process with the same destination; tell whether one is held.

        One at a time: however much was left, little of it is in memory.
        """
        if self.holds_orphan:
            return True
        segment = self.writer.origin.adopt()
        if segment is None:
            return False
        with self._reading:
            self.writer.segments[segment] = True
            self.adopted_in += segment.count_waiting()
        return True

    @property
    def holds_orphan(self) -> bool:
        """Whether a segment of a dead process is being sent."""
        return any(self.writer.segments.values())

    def tend(self, now: float) -> None:
        """Do what callers must not wait for, and what nobody would do otherwise.

        Args:
            now: monotonic seconds.
        """
        if self.writer.closed:
            return
        try:
            if self.writer.trouble is not None:
                self._use_disk_again(now)
            if self.writer.wants_spare:
                self._make_room()
                self.writer.prepare()
            self._leave_disk(now)
        except SpoolError:  # the caller that needs a segment will say so
            pass
        self.writer.current.populate()
        self._move_on()
        with self._reading:
            for segment in list(self.writer.segments)[1:]:
                if segment is not self.writer.current:
                    segment.rest()

    def _use_disk_again(self, now: float) -> None:
        if now >= self._disk_at:
            self._disk_at = now + DISK_AGAIN
            self._make_room()
            self.writer.renew(FULL_SIZE)
            log.warning("the journal works again: what is recorded survives the process")

    def _leave_disk(self, now: float) -> None:
        """Replace a segment nobody wrote to for a minute: it holds what is delivered."""
        drawn, since = self._still_since
        if drawn != self.writer.drawn:
            self._still_since = self.writer.drawn, now
        elif now - since >= IDLE and self.writer.current.is_used and self._only_open():
            self.writer.renew(FIRST_SIZE)
            self._still_since = drawn, now

    def _only_open(self) -> bool:
        current = self.writer.current
        return current.path is not None and not current.holds_to(NEVER)

    def _make_room(self) -> None:
        """Drop whole segments, those of dead processes first, until another one fits the cap."""
        origin = self.writer.origin
        while origin.excess(FULL_SIZE) > 0:
            with self._reading:
                segment = self._victim()
                if segment is None:
                    return
                number = self._abandon(segment, "spool_full")
            now = time.monotonic()
            if number and now - self._cap_said >= QUIET:
                self._cap_said = now
                log.warning("the journal is full: the %d oldest events in it are lost", number)

    def _victim(self) -> Segment | None:
        segments = self.writer.segments
        for segment, adopted in segments.items():
            if adopted:
                return segment
        orphan = self.writer.origin.adopt(any_destination=True)
        if orphan is not None:
            segments[orphan] = True
            self.adopted_in += orphan.count_waiting()
            return orphan
        own = [s for s in segments if s is not self.writer.current and s.path is not None]
        return own[0] if own else None

    def _move_on(self) -> None:
        """Free old segments that hold nothing but open spans, by writing these once more."""
        moved = False
        for segment in list(self.writer.segments):
            if segment is self.writer.current or self.writer.segments[segment]:
                continue
            with self._reading:
                if not segment.sealed or segment.holds_to(NEVER):
                    continue
                for frame in list(self._walk(segment)):
                    if self.writer.write_again(frame.rebuilt()):
                        segment.settle(frame, SUPERSEDED)
                        moved = True
        if moved:
            self.note_open()

    def refuse_writes(self) -> None:
        """Count everything written from now on as dropped by shutdown."""
        self.writer.stop()

    def close(self) -> None:
        """Let go: files with waiting frames stay for the next start, memory is dropped, counted."""
        with self._reading:
            for segment in list(self.writer.segments):
                segment.seal()
                waiting = sum(frame.kind == EVENT for frame in self._walk(segment))
                if segment.is_settled or segment.path is None:
                    self._give_up("shutdown", waiting)
                    self._discard(segment)
                else:
                    self._left_behind += waiting
                    segment.close()
            for spare in self.writer.spares():
                self.writer.discard(spare)
            self.writer.segments = {}

    # -- fork --------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Start empty: the parent sends what the parent recorded."""
        inherited = [*self.writer.segments, *self.writer.spares()]
        self._reading = RLock()
        closed = self.writer.closed
        self.writer.start_empty()
        self._start_empty()
        self.writer.closed = closed  # shut down once is shut down in the children, too
        self.writer.origin.renew()
        # Only now: a child that still wrote would overwrite the parent's next frame.
        for segment in inherited:
            segment.close(forked=True)
