"""A segment: a fixed-size run of frames in a mapping, in a file (D) or in private memory (M).

`mmap.write` reserves and copies in one call of the interpreter, so writers need no lock.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from tracer.filememory import FileMemory
from tracer.frame import EVENT, MAGIC, OPEN, SETTLED, STATE_AT, build_frame, parse_frame

__all__ = ["Frame", "Gap", "Segment", "private_memory"]

POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14; the mmap module has no name for it
POPULATE_STEP = 256 << 10  # bytes a call: it holds the interpreter for some 50 µs
POPULATE_AHEAD = 1 << 20  # bytes that are ready to be written before the flusher comes again


class Frame(NamedTuple):
    """A waiting frame: where it lies, what its header says, and its payload."""

    segment: Segment
    offset: int
    kind: int
    flags: int
    sequence: int
    session: bytes
    payload: bytes

    def rebuilt(self) -> bytes:
        """Return the frame once more, waiting, to be written elsewhere."""
        return build_frame(self.kind, self.sequence, self.session, self.payload, self.flags)


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of a sealed segment that holds no readable frame, counted as one lost event."""

    offset: int
    end: int


class Segment:
    """Frames written by any thread, walked and settled by the flusher alone.

    `head` is the offset below which every frame is settled.
    """

    __slots__ = (
        "_counted",
        "_gaps_to",
        "_looked_to",
        "_populated",
        "append",
        "end",
        "head",
        "lock_fd",
        "memory",
        "path",
        "sealed",
        "start",
        "successor",
    )

    append: Callable[[bytes], int]

    def __init__(
        self,
        memory: mmap.mmap | FileMemory,
        start: int,
        path: str | None = None,
        lock_fd: int | None = None,
    ) -> None:
        self.memory: mmap.mmap | FileMemory = memory
        self.path = path
        self.lock_fd = lock_fd
        self.start = self.head = start
        self.end = len(memory)
        self.sealed = False
        self.successor: Segment | None = None
        self._gaps_to = 0  # gaps that end here or before it are counted
        self._counted: tuple[int, int] | None = None  # once sealed: waiting events, newest of them
        self._populated = 0
        self._looked_to = start  # `look_on` has seen what lies before
        memory.seek(start)
        self.append = memory.write if _has_gil() else _locked(memory.write)

    @property
    def is_settled(self) -> bool:
        """Whether nothing in it waits and nothing more can be written."""
        return self.sealed and self.head >= self.end

    @property
    def is_used(self) -> bool:
        """Whether anything was settled in it."""
        return self.head > self.start

    def seal(self) -> None:
        """Make every later write fail, also of those frames that would still fit.

        Once it returns nobody is in the midst of a write; so it is done again by who wants that.
        """
        with suppress(ValueError):  # closed by the flusher: nothing can be written either
            self.memory.seek(0, os.SEEK_END)
        self.sealed = True

    def stranded(self) -> Iterator[bytes]:
        """Take out the frames that were accepted and that the disk then refused."""
        while isinstance(self.memory, FileMemory) and self.memory.interposed:
            with suppress(IndexError):  # by another thread
                yield self.memory.interposed.popleft()

    def rest(self) -> None:
        """Give up the mapping of what waits sealed: it is read from the file from now on."""
        if self.sealed and self.lock_fd is not None and isinstance(self.memory, mmap.mmap):
            self.count_waiting()
            self.memory.close()
            self.memory = FileMemory(self.lock_fd, self.end)

    def populate(self) -> None:
        """Let the kernel provide the next pages now, so that no writer waits for them."""
        memory = self.memory
        if not isinstance(memory, mmap.mmap) or self.sealed or sys.platform != "linux":
            return
        until = min(memory.tell() + POPULATE_AHEAD, self.end)  # a hint: writers go on meanwhile
        while self._populated < until:
            step = min(POPULATE_STEP, self.end - self._populated)
            try:
                memory.madvise(POPULATE_WRITE, self._populated, step)
            except OSError:  # an older kernel, or no room: the writers will see
                self._populated = self.end
                return
            self._populated += step

    def walk(self) -> Iterator[Frame | Gap]:
        """Yield the waiting frames, oldest first; in a sealed segment also the gaps between them.

        Moves `head` past what is settled. In a segment that is still written to, what cannot be
        read yet ends the walk.
        """
        settled = True
        for end, found in self._scan():
            if found is not None:
                settled = settled and isinstance(found, Gap)
                yield found
            if settled:
                self.head = end

    def look_on(self) -> Iterator[Frame]:
        """Yield the waiting frames that came since the last look, however many wait before them."""
        for end, found in self._scan(max(self.head, self._looked_to)):
            self._looked_to = end
            if isinstance(found, Frame):
                yield found

    def is_new(self, gap: Gap) -> bool:
        """Tell whether `gap` is passed for the first time: it stands for one lost event."""
        if gap.end <= self._gaps_to:
            return False
        self._gaps_to = gap.end
        self._uncount()
        return True

    def count_waiting(self, last: int | None = None) -> int:
        """Return how many events wait, a gap nobody counted yet being one.

        Args:
            last: a sequence number; later frames are not counted.
        """
        if self._counted is not None and (last is None or self._counted[1] <= last):
            return self._counted[0]
        sealed = self.sealed  # asked before looking: nothing comes after that
        number = later = newest = 0
        for _, found in self._scan():
            if isinstance(found, Gap):
                number += found.end > self._gaps_to
            elif found is not None and found.kind == EVENT:
                newest = max(newest, found.sequence)
                if last is None or found.sequence <= last:
                    number += 1
                else:
                    later += 1
        if sealed:
            self._counted = number + later, newest
        return number

    def count_known(self) -> int:
        """As `count_waiting`, also where the disk does not give the frames back: then 1 at least."""
        try:
            return self.count_waiting()
        except OSError:
            return 1

    def holds_to(self, sequence: int) -> bool:
        """Tell whether the oldest frame that waits, open spans apart, is up to `sequence`."""
        for _, found in self._scan():
            if isinstance(found, Frame) and found.kind != OPEN:
                return found.sequence <= sequence
        return False

    def _uncount(self) -> None:
        if self._counted is not None:
            self._counted = self._counted[0] - 1, self._counted[1]

    def _scan(self, start: int | None = None) -> Iterator[tuple[int, Frame | Gap | None]]:
        """Yield what lies from `start` on, with its end: a waiting frame, a gap, None if settled.

        Args:
            start: where a frame begins; None: `head`.
        """
        offset = self.head if start is None else start
        while offset < self.end:
            sealed = self.sealed  # asked before reading: a frame written in between is no gap
            content = parse_frame(self.memory, offset, self.end)
            if content is not None:
                end = content.following
                yield end, None if content.state in SETTLED else Frame(self, offset, *content[2:])
            elif not sealed:
                return
            else:
                end = self._resynchronise(offset)
                lost = end < self.end or self._holds_anything(offset)  # else: zeros to the end
                yield end, Gap(offset, end) if lost else None
            offset = end

    def _resynchronise(self, offset: int) -> int:
        """Return where the next frame seems to begin behind an unreadable place."""
        at = self.memory.find(MAGIC, offset + 1)
        while at & 7 and at != -1:
            at = self.memory.find(MAGIC, at + 1)
        return self.end if at == -1 else at

    def _holds_anything(self, offset: int) -> bool:
        return any(
            self.memory[at : at + 65536].strip(b"\0") for at in range(offset, self.end, 65536)
        )

    def settle(self, frame: Frame, state: int) -> None:
        """Write the outcome of a frame where a later start can see it."""
        if frame.kind == EVENT:
            self._uncount()
        self.memory[frame.offset + STATE_AT] = state

    def close(self, *, forked: bool = False) -> None:
        """Unmap, and let the lock go: from now on another process may adopt the file.

        Args:
            forked: in a child, for what it inherited: the parent's lock stays.
        """
        self.sealed = True
        if isinstance(self.memory, FileMemory):
            self.memory.close(forked=forked)
        else:
            self.memory.close()
        lock_fd, self.lock_fd = self.lock_fd, None
        if lock_fd is not None:
            os.close(lock_fd)


def private_memory(size: int) -> Segment:
    """Return an empty segment in memory that a forked child does not share."""
    if sys.platform == "win32":
        return Segment(mmap.mmap(-1, size), 0)
    # the default of mmap is MAP_SHARED: a child would write into the parent's queue
    return Segment(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), 0)


def _has_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def _locked(write: Callable[[bytes], int]) -> Callable[[bytes], int]:
    """Put a lock around the copy: without the GIL two writers would share a position."""
    lock = Lock()  # protects the mapping's position

    def append(frame: bytes) -> int:
        with lock:
            return write(frame)

    return append
