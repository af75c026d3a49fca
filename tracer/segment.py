"""A segment: a fixed-size run of frames in a mapping, in a file (D) or in private memory (M).

A frame is 8-byte aligned, little-endian:

    offset  size
         0     3  magic, no UTF-8 text holds it
         3     1  state: waiting, delivered, dead, dropped, superseded (written by the flusher)
         4     4  CRC-32 of everything behind it, padding excluded
         8     4  length of the payload
        12     1  kind: event, session, update, open
        13     1  zero
        14     2  flags
        16     8  sequence number
        24    16  session id
        40        payload: the JSON of an event; of a `create`; for an update 36 characters of
                  event id and the JSON of a `PUT`; padded with zeros to 8 bytes

`mmap.write` reserves and copies in one call of the interpreter, so writers need no lock.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple
from zlib import crc32

from tracer.errors import SegmentError

__all__ = [
    "DEAD",
    "DELIVERED",
    "DROPPED",
    "ENDS",
    "EVENT",
    "EVENT_ID",
    "FILE_HEADER",
    "MAX_PAYLOAD",
    "SESSION",
    "SUPERSEDED",
    "UPDATE",
    "WAITING",
    "Frame",
    "Gap",
    "Segment",
    "build_frame",
    "private_memory",
    "read_file_header",
    "write_file_header",
]

EVENT, SESSION, UPDATE, OPEN = 1, 2, 3, 4
# Two bits apart: one flipped bit makes a state that nobody wrote, and such a frame is sent again
# (the server knows its event_id) instead of being taken for delivered.
WAITING, DELIVERED, DEAD, DROPPED, SUPERSEDED = 0b0000, 0b0011, 0b0101, 0b0110, 0b1001
SETTLED = frozenset((DELIVERED, DEAD, DROPPED, SUPERSEDED))
UNREADABLE = -1  # never written: what a walk finds instead of a state

ENDS = 1  # flag of the update that ends its session
EVENT_ID = 36  # characters of event id in front of an update's JSON

MAGIC = b"\xf7TF"
_FRONT = struct.Struct("<3sBI")
_BACK = struct.Struct("<IBxHQ16s")
_HEAD = struct.Struct("<3sBIIBxHQ16s")
HEAD_SIZE = _HEAD.size
STATE_AT = 3
PADDING = [b"\0" * (-n & 7) for n in range(8)]

MAX_FRAME = 4 << 20  # bytes: half a full segment, so that rotating wastes at most half
MAX_PAYLOAD = MAX_FRAME - HEAD_SIZE
CRC_SLICE = 5120  # zlib lets the GIL go above 5 KiB and waits milliseconds to get it back

FORMAT = 1
_FILE = struct.Struct("<8sI4x32s")
FILE_MAGIC = b"TRACESEG"
FILE_HEADER = 64  # bytes before the first frame: magic, format version, destination fingerprint


class Frame(NamedTuple):
    """A waiting frame: where it lies, what its header says, and its payload."""

    segment: Segment
    offset: int
    kind: int
    flags: int
    sequence: int
    session: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of a sealed segment that holds no readable frame, counted as one lost event."""

    offset: int
    end: int


def build_frame(kind: int, sequence: int, session: bytes, payload: bytes, flags: int = 0) -> bytes:
    """Return header, payload and padding as one object, ready for a single copy."""
    length = len(payload)
    back = _BACK.pack(length, kind, flags, sequence, session)
    if length > CRC_SLICE:  # too long to be copied once more
        front = _FRONT.pack(MAGIC, WAITING, _checksum(payload, crc32(back)))
        return b"".join((front, back, payload, PADDING[length & 7]))
    body = back + payload
    return _FRONT.pack(MAGIC, WAITING, crc32(body)) + body + PADDING[length & 7]


def _checksum(payload: bytes, start: int) -> int:
    if len(payload) <= CRC_SLICE:
        return crc32(payload, start)
    view = memoryview(payload)
    for at in range(0, len(payload), CRC_SLICE):
        start = crc32(view[at : at + CRC_SLICE], start)
    return start


class Segment:
    """Frames written by any thread, walked and settled by the flusher alone.

    `head` is the offset below which every frame is settled.
    """

    __slots__ = (
        "append",
        "counted_gaps_to",
        "end",
        "head",
        "lock_fd",
        "memory",
        "path",
        "sealed",
        "successor",
    )

    append: Callable[[bytes], int]

    def __init__(
        self, memory: mmap.mmap, start: int, path: str | None = None, lock_fd: int | None = None
    ) -> None:
        self.memory = memory
        self.path = path
        self.lock_fd = lock_fd
        self.head = start
        self.counted_gaps_to = 0
        self.end = len(memory)
        self.sealed = False
        self.successor: Segment | None = None
        memory.seek(start)
        self.append = memory.write if _has_gil() else _locked(memory.write)

    @property
    def is_settled(self) -> bool:
        """Whether nothing in it waits and nothing more can be written."""
        return self.sealed and self.head >= self.end

    def seal(self) -> None:
        """Make every later write fail, also of those frames that would still fit."""
        if not self.sealed:
            with suppress(ValueError):  # closed by the flusher: nothing can be written either
                self.memory.seek(0, os.SEEK_END)
            self.sealed = True

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

    def count_waiting(self, last: int | None = None) -> int:
        """Return how many events wait, a gap nobody counted yet being one.

        Args:
            last: a sequence number; later frames are not counted.
        """
        number = 0
        for _, found in self._scan():
            if isinstance(found, Gap):
                number += found.end > self.counted_gaps_to
            elif found is not None and found.kind == EVENT:
                number += last is None or found.sequence <= last
        return number

    def _scan(self) -> Iterator[tuple[int, Frame | Gap | None]]:
        """Yield what lies from `head` on, with its end: a waiting frame, a gap, None if settled."""
        offset = self.head
        while offset < self.end:
            sealed = self.sealed  # asked before reading: a frame written in between is no gap
            state, end, frame = self._read(offset)
            if state != UNREADABLE:
                yield end, frame
            elif not sealed:
                return
            else:
                end = self._resynchronise(offset)
                lost = end < self.end or self._holds_anything(offset)  # else: zeros to the end
                yield end, Gap(offset, end) if lost else None
            offset = end

    def _read(self, offset: int) -> tuple[int, int, Frame | None]:
        """Return the state at `offset`, where the next frame begins, and a waiting frame."""
        begin = offset + HEAD_SIZE
        if begin > self.end:
            return UNREADABLE, offset, None
        magic, state, checksum, length, kind, flags, sequence, session = _HEAD.unpack_from(
            self.memory, offset
        )
        end = begin + length
        if magic != MAGIC or end > self.end:
            return UNREADABLE, offset, None
        payload = self.memory[begin:end]
        # of settled frames too: a damaged length would lead past others that wait
        if checksum != _checksum(payload, crc32(self.memory[offset + _FRONT.size : begin])):
            return UNREADABLE, offset, None
        following = end + (-end & 7)
        if state in SETTLED:
            return state, following, None
        return WAITING, following, Frame(self, offset, kind, flags, sequence, session, payload)

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
        self.memory[frame.offset + STATE_AT] = state

    def close(self) -> None:
        """Unmap, and let the lock go: from now on another process may adopt the file."""
        self.sealed = True
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


def write_file_header(memory: mmap.mmap, destination: str) -> None:
    """Write what makes a file a segment: magic, format version, destination."""
    memory[:FILE_HEADER] = _FILE.pack(FILE_MAGIC, FORMAT, destination.encode()).ljust(
        FILE_HEADER, b"\0"
    )


def read_file_header(header: bytes) -> str:
    """Return the destination that a segment file was written for.

    Raises: SegmentError: no segment, or of a format this version does not read.
    """
    if len(header) < FILE_HEADER:
        raise SegmentError("too short for a segment")
    magic, version, destination = _FILE.unpack_from(header)
    if magic != FILE_MAGIC:
        raise SegmentError("not a segment")
    if version != FORMAT:
        raise SegmentError(f"segment format {version}; this version reads format {FORMAT}")
    return str(destination.rstrip(b"\0"), "ascii", "replace")


def _has_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def _locked(write: Callable[[bytes], int]) -> Callable[[bytes], int]:
    """Put a lock around the copy: without the GIL two writers would share a position."""
    lock = Lock()  # protects the mapping's position

    def append(frame: bytes) -> int:
        with lock:
            return write(frame)

    return append
