"""A frame: one record of the journal, and the header of a file of them.

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
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol
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
    "KINDS",
    "MAGIC",
    "MAX_PAYLOAD",
    "OPEN",
    "SESSION",
    "SETTLED",
    "STATE_AT",
    "SUPERSEDED",
    "UPDATE",
    "WAITING",
    "Content",
    "Readable",
    "build_frame",
    "file_header",
    "kind_of",
    "parse_frame",
    "read_file_header",
    "session_of",
]

EVENT, SESSION, UPDATE, OPEN = KINDS = 1, 2, 3, 4
# Two bits apart: one flipped bit makes a state that nobody wrote, and such a frame is sent again
# (the server knows its event_id) instead of being taken for delivered.
WAITING, DELIVERED, DEAD, DROPPED, SUPERSEDED = 0b0000, 0b0011, 0b0101, 0b0110, 0b1001
SETTLED = frozenset((DELIVERED, DEAD, DROPPED, SUPERSEDED))

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


class Readable(Protocol):
    """What holds frames: a mapping, or a file that looks like one."""

    def __getitem__(self, key: slice, /) -> bytes: ...


class Content(NamedTuple):
    """What a frame says, and where the next one begins."""

    state: int
    following: int
    kind: int
    flags: int
    sequence: int
    session: bytes
    payload: bytes


def build_frame(kind: int, sequence: int, session: bytes, payload: bytes, flags: int = 0) -> bytes:
    """Return header, payload and padding as one object, ready for a single copy."""
    length = len(payload)
    back = _BACK.pack(length, kind, flags, sequence, session)
    if length > CRC_SLICE:  # too long to be copied once more
        front = _FRONT.pack(MAGIC, WAITING, _checksum(payload, crc32(back)))
        return b"".join((front, back, payload, PADDING[length & 7]))
    body = back + payload
    return _FRONT.pack(MAGIC, WAITING, crc32(body)) + body + PADDING[length & 7]


def kind_of(frame: bytes) -> int:
    """Return the kind of a frame that was built."""
    return frame[_FRONT.size + 4]


def session_of(frame: bytes) -> bytes:
    """Return the session of a frame that was built."""
    return frame[HEAD_SIZE - 16 : HEAD_SIZE]


def parse_frame(memory: Readable, offset: int, end: int) -> Content | None:
    """Read the frame at `offset` of what ends at `end`; None where no whole frame stands."""
    begin = offset + HEAD_SIZE
    if begin > end:
        return None
    head = memory[offset:begin]
    magic, state, checksum, length, kind, flags, sequence, session = _HEAD.unpack(head)
    last = begin + length
    if magic != MAGIC or last > end:
        return None
    payload = memory[begin:last]
    # of settled frames too: a damaged length would lead past others that wait
    if checksum != _checksum(payload, crc32(head[_FRONT.size :])):
        return None
    return Content(state, last + (-last & 7), kind, flags, sequence, session, payload)


def _checksum(payload: bytes, start: int) -> int:
    if len(payload) <= CRC_SLICE:
        return crc32(payload, start)
    view = memoryview(payload)
    for at in range(0, len(payload), CRC_SLICE):
        start = crc32(view[at : at + CRC_SLICE], start)
    return start


def file_header(destination: str) -> bytes:
    """Return what makes a file a segment: magic, format version, destination."""
    return _FILE.pack(FILE_MAGIC, FORMAT, destination.encode()).ljust(FILE_HEADER, b"\0")


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
