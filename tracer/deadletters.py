"""Copies of what the server refused for good: one JSON object a line, in the spool directory.

    {"time": Unix ms, "reason": ..., "status": ..., "message": ..., "session_id": ..., "event": {}}

Every process with that directory appends to the one file, under a lock. Whoever takes lines out
puts another file in its place; a writer that waited for the lock notices and opens that one.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tracer.voice import log

if sys.platform != "win32":
    import fcntl

__all__ = ["FILE_NAME", "DeadLetters", "Letter", "read", "take_out"]

FILE_NAME = "dead.jsonl"
# A sixteenth of what a journal may hold. Letters beyond it are not kept: the first ones of a fault
# say what it is, and the disk belongs to the program.
MAX_BYTES = 32 << 20
MAX_MESSAGE = 500  # characters; it is repeated in every line of a batch
PATIENCE = 1.0  # seconds for whoever holds the file: rewriting all of it takes 0.1
STEP = 0.02

_EVENT = b',"event":'  # never inside a text, where quotes have a backslash before them


@dataclass(frozen=True, slots=True)
class Letter:
    """One event that the server refused, and what it said.

    Attributes:
        time: Unix ms. session_id: as the server knows the session. event: its JSON, unchanged.
        line: the letter as it lies in the file.
    """

    time: int
    reason: str
    status: int | None
    message: str
    session_id: str
    event: bytes
    line: bytes = field(repr=False)


class DeadLetters:
    """Append letters to the file of one directory; a failure costs the copy and nothing else."""

    def __init__(self, directory: Path) -> None:
        self._path = str(directory / FILE_NAME)
        self._said: set[str] = set()

    def add(
        self, reason: str, status: int | None, message: str, session_id: str, events: list[bytes]
    ) -> int:
        """Keep a copy of refused events; return how many, from the first, there was room for.

        Never raises because of the disk, and waits a second at most; what is not kept is said
        once for each cause.
        """
        head = orjson.dumps(
            {
                "time": int(time.time() * 1000),
                "reason": reason,
                "status": status,
                "message": message[:MAX_MESSAGE],
                "session_id": session_id,
            }
        )
        lines = [b"%b%b%b}\n" % (head[:-1], _EVENT, event.replace(b"\n", b" ")) for event in events]
        try:
            with _locked(self._path, os.O_RDWR | os.O_CREAT) as fd:
                kept = _append(fd, lines)
        except OSError as error:
            kept, why = 0, error.strerror or type(error).__name__
        else:
            why = f"it holds {MAX_BYTES:,} bytes already"
        if kept < len(lines) and why not in self._said:
            self._said.add(why)
            log.warning(
                "%s: what the server refuses is dropped without a copy: %s", self._path, why
            )
        return kept


def _append(fd: int, lines: list[bytes]) -> int:
    size = os.fstat(fd).st_size
    torn = size and os.pread(fd, 1, size - 1) != b"\n"  # its writer died in the middle
    text, room = b"\n" if torn else b"", MAX_BYTES - size
    kept = 0
    for line in lines:
        room -= len(line)
        if room < 0:
            break
        kept += 1
    data = memoryview(text + b"".join(lines[:kept]))
    os.lseek(fd, size, os.SEEK_SET)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:  # the disk is full: half a line is of no use
        os.ftruncate(fd, size)
        raise
    return kept


def read(directory: Path) -> Iterator[Letter]:
    """Yield the letters of a spool directory, oldest first; what is no letter is passed over."""
    try:
        fd = os.open(str(directory / FILE_NAME), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    if not _is_ours(fd):
        os.close(fd)
        return
    with open(fd, "rb") as file:
        for line in file:
            letter = _letter(line)
            if letter is not None:
                yield letter


def take_out(directory: Path, letters: Iterable[Letter]) -> int:
    """Remove letters, such as those that were sent again; return how many were there.

    The file is replaced in one step: who is killed meanwhile leaves it as it was.

    Raises: OSError: it cannot be rewritten, or somebody holds it.
    """
    gone = {letter.line for letter in letters}
    path = str(directory / FILE_NAME)
    if not os.path.lexists(path):
        return 0
    with _locked(path, os.O_RDONLY) as fd:
        with open(fd, "rb", closefd=False) as file:
            lines = file.readlines()
        kept = [line for line in lines if line.strip() and line not in gone]
        if not kept:
            os.unlink(path)
        elif len(kept) < len(lines):
            unfinished = f"{path}.{secrets.token_hex(4)}.tmp"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(unfinished, flags, 0o600), "wb") as file:
                file.writelines(kept)
                file.flush()
                os.fsync(file.fileno())
            os.rename(unfinished, path)
    return sum(line in gone for line in lines)


def _letter(line: bytes) -> Letter | None:
    head, found, event = line.rstrip(b"\n").partition(_EVENT)
    event = event[:-1]  # the brace that closes the line
    try:
        values: Any = orjson.loads(head + b"}")
        whole: Any = orjson.loads(event)
        if not (found and isinstance(whole, dict) and line.endswith(b"}\n")):
            return None
        return Letter(
            int(values["time"]),
            str(values["reason"]),
            None if values["status"] is None else int(values["status"]),
            str(values["message"]),
            str(values["session_id"]),
            event,
            line,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


@contextmanager
def _locked(path: str, flags: int) -> Generator[int, None, None]:
    """Open the file of that name and hold its lock. Raises: OSError: also when that takes long."""
    until = time.monotonic() + PATIENCE
    while True:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            if not _is_ours(fd):
                raise PermissionError(1, "is no plain file of this user's")
            if _lock(fd) and _is_still(fd, path):
                try:
                    yield fd
                finally:
                    _unlock(fd)
                return
        finally:
            os.close(fd)
        if time.monotonic() >= until:
            raise BlockingIOError(11, "another process holds it")
        time.sleep(STEP)


def _is_ours(fd: int) -> bool:
    found = os.fstat(fd)
    ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
    if ours and found.st_mode & 0o077:  # made by other means: prompts are nobody else's business
        os.fchmod(fd, 0o600)
    return ours


def _is_still(fd: int, path: str) -> bool:
    """Tell whether the name still leads to what was opened: it may have been replaced."""
    try:
        return os.stat(path, follow_symlinks=False).st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def _lock(fd: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(fd: int) -> None:
    # in words, since a child forked just now holds the descriptor, too
    if sys.platform != "win32":
        fcntl.flock(fd, fcntl.LOCK_UN)
