"""What lies in a spool directory, looked at from outside: nothing is changed, adopted or kept."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import SegmentError
from tracer.filememory import FileMemory
from tracer.frame import EVENT, FILE_HEADER, OPEN, SESSION, UPDATE, read_file_header
from tracer.segment import Frame, Segment
from tracer.spool import SUFFIX, UNFINISHED

if sys.platform != "win32":
    import fcntl

__all__ = ["Found", "Tally", "survey", "tally"]


@dataclass(slots=True)
class Tally:
    """What waits in a segment; `interrupted` are calls that were open, `unreadable` gaps."""

    events: int = 0
    sessions: int = 0
    updates: int = 0
    interrupted: int = 0
    unreadable: int = 0

    def add(self, other: Tally) -> None:
        """Add what waits in another segment."""
        self.events += other.events
        self.sessions += other.sessions
        self.updates += other.updates
        self.interrupted += other.interrupted
        self.unreadable += other.unreadable

    @property
    def to_send(self) -> int:
        """How many events a server would be sent."""
        return self.events + self.interrupted


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of a directory.

    Attributes:
        what: None for a segment of ours, else what it is instead.
        destination: the fingerprint it was written for; "local" for local mode.
        alive: whether its process lives.
        age: seconds since it was written to.
    """

    name: str
    what: str | None
    destination: str
    alive: bool
    age: float
    size: int
    waiting: Tally


def survey(directory: Path) -> Iterator[Found]:
    """Yield what lies in a directory, by name; a living process's files are counted as they stand.

    A file is locked for a moment, shared, to see whether its owner lives. Links are not followed
    and FIFOs not waited for.

    Raises: OSError: the directory cannot be read.
    """
    for name in sorted(os.listdir(directory)):
        found = _look_at(str(directory / name), name)
        if found is not None:
            yield found


def tally(segment: Segment) -> Tally:
    """Count what waits in a segment. Raises: OSError: the disk does not give it back."""
    counted = Tally()
    for found in segment.walk():
        if not isinstance(found, Frame):
            counted.unreadable += 1
        elif found.kind == EVENT:
            counted.events += 1
        elif found.kind == SESSION:
            counted.sessions += 1
        elif found.kind == UPDATE:
            counted.updates += 1
        elif found.kind == OPEN:
            counted.interrupted += 1
    return counted


def _look_at(path: str, name: str) -> Found | None:
    try:
        seen = os.stat(path, follow_symlinks=False)
    except OSError:  # gone meanwhile
        return None
    age = max(time.time() - seen.st_mtime, 0.0)
    what = _kind_of(seen.st_mode)
    if what is None and name.endswith(UNFINISHED):
        what = "an unfinished segment"
    elif what is None and not name.endswith(SUFFIX):
        what = "another file"
    if what is None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            what = f"not readable: {error.strerror}"
        else:
            found = _read(descriptor, name, age)
            if isinstance(found, Found):
                return found
            what = found
    return Found(name, what, "", alive=False, age=age, size=seen.st_size, waiting=Tally())


def _kind_of(mode: int) -> str | None:
    """Name what is no regular file; None for one."""
    for asked, what in (
        (stat.S_ISREG, None),
        (stat.S_ISLNK, "a link"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if asked(mode):
            return what
    return "a device"


def _read(descriptor: int, name: str, age: float) -> Found | str:
    """Look into an open file, and close it; a text says why it is no segment of ours."""
    try:
        size = os.fstat(descriptor).st_size
        destination = read_file_header(os.pread(descriptor, FILE_HEADER, 0))
        alive = _is_held(descriptor)
        segment = Segment(FileMemory(descriptor, size), FILE_HEADER)
        if not alive:  # else the last frame may be half written
            segment.seal()
        return Found(name, None, destination, alive, age, size, tally(segment))
    except SegmentError as error:
        return str(error)
    except OSError as error:
        return f"not readable: {error.strerror}"
    finally:
        os.close(descriptor)


def _is_held(descriptor: int) -> bool:
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    # at once: whoever wants to adopt it in the meantime would take us for its owner
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
