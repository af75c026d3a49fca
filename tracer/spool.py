"""The directory of the segment files: names, locks, orphans.

A file's lock lives on a descriptor of its own that is never given to `mmap`, which keeps a
duplicate that a forked child would inherit. Who holds no lock is dead, whatever its pid says.
"""

from __future__ import annotations

import mmap
import os
import secrets
import stat
import sys
import time
from itertools import count
from pathlib import Path

from tracer.errors import SegmentError, SpoolError, SpoolFullError, disk_error
from tracer.filememory import FileMemory
from tracer.frame import FILE_HEADER, file_header, read_file_header
from tracer.segment import Segment

if sys.platform != "win32":
    import fcntl

__all__ = ["Spool"]

SUFFIX = ".segment"
UNFINISHED = ".tmp"
STALE = 60.0  # seconds after which an unfinished file without a lock belongs to nobody
# A full disk gives SIGBUS on btrfs even after posix_fallocate; these keep what they allocated.
MAPPABLE = {"ext2", "ext3", "ext4", "xfs", "tmpfs", "overlay"}


class Spool:
    """Segment files of one process in one directory, written for one destination.

    Raises: SpoolError: the directory cannot be used; the message says why.
    """

    def __init__(self, directory: Path, destination: str, max_bytes: int = 1 << 62) -> None:
        """Check the directory, and make it.

        Args:
            max_bytes: bound on all segments in it, of other processes too.
        """
        if sys.platform == "win32":  # nobody could tell who is alive
            raise SpoolError("this platform has no flock")
        self.directory = directory
        self._destination = destination
        self._max_bytes = max_bytes
        self._former: set[str] = set()
        try:
            _make(directory)
            found = directory.stat()
        except OSError as error:
            raise disk_error(error, directory) from error
        if found.st_uid != os.geteuid():
            raise SpoolError(f"{directory}: belongs to user {found.st_uid}, not to {os.geteuid()}")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SpoolError(f"{directory}: other users may write to it")
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise SpoolError(f"{directory}: not readable and writable")
        self.mapped = _filesystem_of(directory) in MAPPABLE
        self._names = count()
        self._prefix = f"{time.time_ns():016x}-{secrets.token_hex(4)}"

    def write_for(self, destination: str) -> None:
        """Write for another destination from now on; what was left for the former one is ours, too.

        That is the case of a key that was rotated while the process runs.
        """
        self._former.add(self._destination)
        self._destination = destination

    def create(self, size: int) -> Segment:
        """Make an empty segment file of `size` bytes and lock it; fully allocated where mapped.

        Takes 0.5 to 0.7 ms. Raises: SpoolError, SpoolFullError.
        """
        if self.excess(size) > size:  # one more than the cap: room is made in the background
            raise SpoolFullError(f"{self.directory}: holds its {self._max_bytes:,} bytes")
        path = str(self.directory / f"{self._prefix}-{next(self._names):06x}{SUFFIX}")
        unfinished = path + UNFINISHED
        lock_fd = None
        try:
            fd = self._open_new(unfinished)
            try:
                lock_fd = os.open(unfinished, os.O_RDWR | os.O_NOFOLLOW)
                _lock(lock_fd)
                memory: mmap.mmap | FileMemory
                if self.mapped:
                    _allocate(fd, size)
                    memory = mmap.mmap(fd, size)
                else:
                    memory = FileMemory(lock_fd, size, live=True)
            finally:
                os.close(fd)
            os.pwrite(lock_fd, file_header(self._destination), 0)
            os.rename(unfinished, path)
        except OSError as error:
            if lock_fd is not None:
                os.close(lock_fd)
            _unlink(unfinished)
            raise disk_error(error, self.directory) from error
        return Segment(memory, FILE_HEADER, path, lock_fd)

    def _open_new(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:  # somebody cleaned up; what is mapped lives on without a name
            _make(self.directory)
            return os.open(path, flags, 0o600)

    def excess(self, size: int) -> int:
        """Return by how many bytes another segment of `size` would exceed the cap."""
        used = size
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX):
                        used += entry.stat(follow_symlinks=False).st_size
        except OSError:  # the directory is gone, or one of its files meanwhile
            return 0
        return used - self._max_bytes

    def discard(self, segment: Segment) -> None:
        """Delete a settled segment's file."""
        if segment.path is not None:
            _unlink(segment.path)
        segment.close()

    def renew(self) -> None:
        """Take names of our own in a forked child."""
        self._prefix = f"{time.time_ns():016x}-{secrets.token_hex(4)}"

    def adopt(self, *, any_destination: bool = False) -> Segment | None:
        """Lock and return the oldest segment that a dead process left for this destination.

        It is read as a file, not mapped: whoever truncates it costs its frames, not the process.
        """
        try:
            names = sorted(os.listdir(self.directory))
        except OSError:  # the directory is gone, and every orphan with it
            return None
        for name in names:
            path = str(self.directory / name)
            if name.endswith(UNFINISHED):
                self._remove_stale(path)
            elif name.endswith(SUFFIX):
                segment = self._adopt_one(path, any_destination=any_destination)
                if segment is not None:
                    return segment
        return None

    def _adopt_one(self, path: str, *, any_destination: bool) -> Segment | None:
        try:
            # not followed, not blocking: a symlink or a FIFO in the directory is none of ours
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            found = os.fstat(fd)
            # read before locking: a moment's lock of ours must not hide it from its adopter
            ours = stat.S_ISREG(found.st_mode) and self._is_ours(
                os.pread(fd, FILE_HEADER, 0), any_destination=any_destination
            )
            if not ours:
                os.close(fd)
                return None
            _lock(fd)
            found = os.fstat(fd)
            if os.stat(path, follow_symlinks=False).st_ino != found.st_ino:
                os.close(fd)
                return None
        except OSError:  # locked by a living process, or gone meanwhile
            os.close(fd)
            return None
        segment = Segment(FileMemory(fd, found.st_size), FILE_HEADER, path, fd)
        segment.seal()
        return segment

    def _is_ours(self, header: bytes, *, any_destination: bool) -> bool:
        try:
            found = read_file_header(header)
            return any_destination or found in {self._destination, *self._former}
        except SegmentError:
            return False

    def _remove_stale(self, path: str) -> None:
        try:
            if time.time() - os.stat(path, follow_symlinks=False).st_mtime < STALE:
                return
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                _lock(fd)
                _unlink(path)
            finally:
                os.close(fd)
        except OSError:  # locked: somebody is still making it
            return


def _allocate(fd: int, size: int) -> None:
    if sys.platform == "darwin":  # has no posix_fallocate; such a mapping is refused before
        os.ftruncate(fd, size)
    else:
        os.posix_fallocate(fd, 0, size)


def _make(directory: Path) -> None:
    """Create a directory and what is missing above it, none of it open to other users."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _lock(fd: int) -> None:
    """Take the lock without waiting. Raises: BlockingIOError: its holder lives."""
    if sys.platform != "win32":
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # gone already, or the directory is: nothing is left to delete
        return


def _filesystem_of(directory: Path) -> str:
    """Return the type of the file system that holds `directory`, from the mount table."""
    try:
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "an unknown file system"
    place = str(directory.resolve())
    best, kind = "", "an unknown file system"
    for line in table.splitlines():
        mount, _, rest = line.partition(" - ")
        point = mount.split()[4].replace("\\040", " ")
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # a later mount on the same point covers it
            best, kind = point, rest.split()[0]
    return kind
