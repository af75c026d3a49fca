"""A segment file used without a mapping: where one is not safe, and where one is not worth it.

Mapping is not safe where a full disk kills the process with SIGBUS; it is not worth it for what
dead processes left, and for what waits while the server is away.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from threading import RLock
from typing import overload

from tracer.errors import SpoolFullError, disk_error

__all__ = ["FileMemory"]

CHUNK = 256 << 10  # bytes read at once from a file that nobody writes to any more
SLACK = 16 << 20  # bytes: what signal handlers interpose may end behind the limit


class FileMemory:
    """Looks like `mmap.mmap` to what reads, writes and settles frames; beyond its end are zeros."""

    def __init__(self, fd: int, size: int, *, live: bool = False) -> None:
        """Use the open file `fd`, which stays the caller's to close.

        Args:
            size: bytes it holds, or, when `live`, may hold.
        """
        self._fd = fd
        self._limit = size
        self._size = size + SLACK if live else size
        self._sealed = not live
        # Makes the next writer wait, and who seals or closes: a write lets the interpreter go, and
        # a descriptor that was closed may be the program's by then. May be entered again by a
        # signal handler, which then finds `_writing` set.
        self._lock = RLock()
        self._writing = self._closed = False
        self.interposed: deque[bytes] = deque()  # by those handlers; left only when a write failed
        self._position = 0
        self._chunk = bytearray()
        self._chunk_at = 0
        self._stale = False  # something in the chunk was settled, by whatever thread

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, key: int, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> bytes: ...
    def __getitem__(self, key: int | slice, /) -> int | bytes:
        """Read like a mapping. Raises: OSError: the disk does not answer."""
        if isinstance(key, int):
            return self[key : key + 1][0]
        start, stop = key.start, key.stop
        length = stop - start
        if not self._sealed or length > CHUNK:
            return os.pread(self._fd, length, start).ljust(length, b"\0")
        if self._stale:
            self._stale, self._chunk = False, bytearray()
        at = start - self._chunk_at
        if at < 0 or at + length > len(self._chunk):
            self._chunk, self._chunk_at = bytearray(os.pread(self._fd, CHUNK, start)), start
            at = 0
        return bytes(self._chunk[at : at + length]).ljust(length, b"\0")

    def __setitem__(self, key: int, value: int, /) -> None:
        """Write one byte in place. Raises: ValueError: closed."""
        with self._lock:
            if self._closed:
                raise ValueError("the file was closed")
            os.pwrite(self._fd, bytes((value,)), key)
        self._stale = True

    def find(self, sub: bytes, start: int, /) -> int:
        """Return where `sub` stands next, -1 if nowhere."""
        while start < self._size:
            piece = os.pread(self._fd, CHUNK, start)
            at = piece.find(sub)
            if at >= 0:
                return start + at
            if len(piece) < CHUNK:
                break
            start += CHUNK - len(sub) + 1
        return -1

    def write(self, frame: bytes, /) -> int:
        """Append a frame, whole or not at all.

        Raises: ValueError: sealed or full. SpoolError: the disk refused it.
        """
        with self._lock:
            if self._sealed or self._position + len(frame) > self._limit:
                raise ValueError("sealed or full")
            if self._writing:  # a signal handler, or a finalizer: whom it interrupted writes it
                self.interposed.append(frame)
                return len(frame)
            following = frame
            while True:
                self._writing = True
                try:
                    self._put(following)
                finally:
                    self._writing = False
                try:
                    following = self.interposed.popleft()
                except IndexError:
                    return len(frame)

    def _put(self, frame: bytes) -> None:
        at = self._position
        try:
            if os.pwrite(self._fd, frame, at) < len(frame):
                raise SpoolFullError("a frame did not fit")
            self._position = at + len(frame)
        except (OSError, SpoolFullError) as error:
            self._sealed = True
            with suppress(OSError):
                os.ftruncate(self._fd, at)  # nobody maps it, and nothing stands behind it
            if isinstance(error, OSError):
                raise disk_error(error, "writing a frame") from error
            raise

    def seek(self, pos: int, whence: int = os.SEEK_SET, /) -> None:
        """Begin writing at `pos`; from the end: wait for whoever writes, and let nobody any more."""
        with self._lock:
            if whence == os.SEEK_SET:
                self._position = pos
            else:
                self._sealed = True

    def close(self, *, forked: bool = False) -> None:
        """Refuse every later write; the descriptor is the caller's to close, from now on.

        Args:
            forked: in a child, where a thread of the parent may hold the lock for ever.
        """
        if forked:
            self._lock = RLock()
        with self._lock:
            self._sealed = self._closed = True
