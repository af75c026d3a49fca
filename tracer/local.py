"""Where the local collector of this user is: a file that it holds locked as long as it runs.

The lock is what counts. A file that nobody holds is left of a collector that was killed, and what
listens on its port by now may be anybody.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

try:
    import fcntl
except ImportError:  # Windows has no flock: nobody could tell whether a collector runs
    fcntl = None  # type: ignore[assignment]  # a module or nothing

__all__ = ["Announcement", "LocalAddress", "announce", "find"]

MAX_BYTES = 4096
_LOOK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # neither links nor FIFOs
_VISIBLE = re.compile(r"[\x21-\x7e]+")  # what a header can carry


class LocalAddress(NamedTuple):
    """Where to send to, and the bearer token that is asked for there, if any."""

    url: str
    token: str | None


class Announcement:
    """Says where this process listens, until `end` or until the process is gone."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor

    def end(self) -> None:
        """Take the file away, then let the lock go; again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            with suppress(OSError), _alone(self._path.parent):  # the directory may be gone
                if self._path.lstat().st_ino == os.fstat(descriptor).st_ino:
                    self._path.unlink()
        finally:
            os.close(descriptor)


def announce(path: Path, address: LocalAddress) -> Announcement | None:
    """Say in the file `path` that this process listens at `address`, on loopback.

    The file appears whole and locked, for this user alone; its directory must be there.

    Returns: None when another collector says so already.
    Raises: OSError: the file cannot be made or locked.
    """
    if fcntl is None:
        raise OSError("this platform has no flock")
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    with _alone(path.parent):
        if _is_held(path):
            return None
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | _LOOK
        descriptor = os.open(unfinished, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, json.dumps(address._asdict()).encode() + b"\n")
            unfinished.replace(path)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                unfinished.unlink()
            raise
    return Announcement(path, descriptor)


def find(path: Path) -> LocalAddress | None:
    """Return where the local collector listens; None while there is none.

    Looks at the file and touches nothing: some microseconds, no connection. Never raises.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _LOOK)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        # Who else could write it could have our events sent elsewhere.
        private = stat.S_ISREG(found.st_mode) and not found.st_mode & 0o077
        if not private or found.st_uid != os.geteuid() or not _is_locked(descriptor):
            return None
        return _address(os.read(descriptor, MAX_BYTES))
    except (OSError, AttributeError):  # the latter: Windows knows no owner
        return None
    finally:
        os.close(descriptor)


def _address(content: bytes) -> LocalAddress | None:
    try:
        said: Any = json.loads(content)
        url, token = said["url"], said["token"]
        if not isinstance(url, str):
            return None
        parts = urlsplit(url)
        if parts.scheme != "http" or not ip_address(parts.hostname or "").is_loopback:
            return None
        if url != f"http://{parts.netloc}" or parts.port is None or parts.username is not None:
            return None
        if token is not None and not _VISIBLE.fullmatch(token):
            return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return LocalAddress(url, token)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | _LOOK)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and _is_locked(descriptor)
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Tell whether its collector lives: it holds the file alone, who looks shares it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


@contextmanager
def _alone(directory: Path) -> Generator[None, None, None]:
    """Keep other collectors from changing the file meanwhile; who looks for one is not kept."""
    descriptor = os.open(directory, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
