"""The files beside the database: made private, held by one process."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from tracer.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows has no flock; there two collectors on one file go unnoticed
    fcntl = None  # type: ignore[assignment]  # a module or nothing

__all__ = ["FileLock", "make_directories", "prepare_file"]

PRIVATE_DIRECTORY, PRIVATE_FILE = 0o700, 0o600


def prepare_file(path: Path) -> None:
    """Make the file, and directories that are missing, for this user alone.

    SQLite gives its -wal and -shm files the mode of the database, so they are private too.

    Raises: ConfigError: the file cannot be made, or is no regular file.
    """
    try:
        make_directories(path.absolute().parent)
        with suppress(FileExistsError):
            _make_file(path)
        # A link whose target is missing would have SQLite make the target readable to others.
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise ConfigError(f"cannot open the database {path}: {error.strerror}") from error
    if not regular:
        raise ConfigError(f"cannot open the database {path}: it is no regular file")


def make_directories(directory: Path) -> None:
    """Make a directory and what is missing above it, for this user alone. Raises: OSError."""
    missing = [d for d in (directory, *directory.parents) if not d.exists()]
    for made in reversed(missing):
        made.mkdir(PRIVATE_DIRECTORY, exist_ok=True)
        made.chmod(PRIVATE_DIRECTORY)  # whatever the umask took away


def _make_file(path: Path) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, PRIVATE_FILE)
    try:
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, PRIVATE_FILE)
    finally:
        os.close(descriptor)


class FileLock:
    """Says that this process has the database; gone with the process, however it ends.

    A file of its own: closing any descriptor of the database would drop SQLite's locks.
    """

    def __init__(self, database: Path) -> None:
        """Take the lock. Raises: ConfigError: another collector has it."""
        path = database.with_name(database.name + ".lock")
        try:
            flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
            self._descriptor = os.open(path, flags, PRIVATE_FILE)
        except OSError as error:
            raise ConfigError(f"cannot open {path}: {error.strerror}") from error
        try:
            if fcntl is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigError(f"another collector uses the database {database}") from error

    def release(self) -> None:
        """Let the lock go; the file stays, since removing it would race with the next one."""
        os.close(self._descriptor)
