"""What can go wrong, and the guard that keeps it away from the user's program.

TracerError
├── ConfigError (also a ValueError)        a setting is wrong
├── SegmentError                           a segment cannot be read
├── SpoolError                             the spool directory cannot be used
│   └── SpoolFullError                     no room for another segment
└── TransportError                         a request did not succeed
    ├── TransientError                     no answer, 408, 425, 429, 5xx except 501 and 505
    ├── ConflictError                      409: already stored, counts as delivered
    ├── SessionNotFoundError               404
    ├── PayloadTooLargeError               413
    ├── AuthError                          401, 403, 407
    └── RejectedError                      400, 422, any other 4xx, 501, 505
"""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Protocol

__all__ = [
    "AuthError",
    "ConfigError",
    "ConflictError",
    "Guard",
    "PayloadTooLargeError",
    "RejectedError",
    "SegmentError",
    "SessionNotFoundError",
    "SpoolError",
    "SpoolFullError",
    "TracerError",
    "TransientError",
    "TransportError",
    "describe",
    "disk_error",
]

MAX_CAUSES = 100  # causes that are remembered and logged: classes made at run time have no end
LINE_LENGTH = 200  # characters of our own exception's message in a log line
TEXT_LENGTH = 8192  # characters of a user's exception's message in an event


class TracerError(Exception):
    """The root of every exception this package raises."""


class ConfigError(TracerError, ValueError):
    """A setting is wrong; the message names it, its source and what is allowed, never a key."""


class SegmentError(TracerError):
    """A file is no segment, or one this version cannot read."""


class SpoolError(TracerError):
    """The spool directory cannot be used."""


class SpoolFullError(SpoolError):
    """The disk, or the cap on the spool directory, has no room for another segment."""


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_error(error: OSError, where: object) -> SpoolError:
    """Return the error that stands for one of the operating system's."""
    kind = SpoolFullError if error.errno in _NO_ROOM else SpoolError
    return kind(f"{where}: {error.strerror or error}")


class TransportError(TracerError):
    """A request did not succeed.

    Attributes:
        status: the HTTP status, or None when there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class TransientError(TransportError):
    """Worth another try.

    Attributes:
        retry_after: the server's wish in seconds, None without one.
        unknown: something was sent and no answer says what became of it.
        stale: a connection that was idle before was closed before any answer came.
        stored: ids of events that the answer names as stored nevertheless.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        retry_after: float | None = None,
        *,
        unknown: bool = False,
        stale: bool = False,
        stored: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(message, status)
        self.retry_after = retry_after
        self.unknown = unknown
        self.stale = stale
        self.stored = stored


class ConflictError(TransportError):
    """409: what was sent is stored already."""


class SessionNotFoundError(TransportError):
    """404: the session, or the event, is not there."""


class PayloadTooLargeError(TransportError):
    """413: send less at once."""


class AuthError(TransportError):
    """401, 403, 407: the key is missing, unknown or not allowed to do this."""


class RejectedError(TransportError):
    """The server understood the request and refuses it; unchanged it stays refused."""


class Speaker(Protocol):
    """What a guard says through: a logger, or what stands before one."""

    def warning(self, message: str, /, *args: object) -> None: ...


class Guard:
    """Keep our failures out of the user's call: log each cause once, count all of them.

    Use as `with guard.during("tool.begin"):` around code of ours, or call `caught` from an
    `except Exception` where the cost of a context manager counts. Never catches
    KeyboardInterrupt or SystemExit.
    """

    def __init__(self, logger: Speaker) -> None:
        self._logger = logger
        self._seen: set[tuple[str, type[BaseException]]] = set()
        self.count = 0

    def caught(self, where: str, error: Exception) -> None:
        """Count `error`; log it the first time its type appears at `where`; never raise."""
        self.count += 1
        cause = (where, type(error))
        if cause in self._seen or len(self._seen) >= MAX_CAUSES:
            return
        self._seen.add(cause)
        try:
            self._logger.warning(
                "recording failed in %s (%s); the program goes on, further ones are counted",
                where,
                " ".join(describe(error).split())[:LINE_LENGTH],
            )
        except Exception:  # noqa: BLE001 - a user's logging handler may raise anything
            return

    def during(self, where: str) -> _Guarded:
        """Return a context manager that hands every Exception raised inside to `caught`."""
        return _Guarded(self, where)


class _Guarded:
    __slots__ = ("_guard", "_where")

    def __init__(self, guard: Guard, where: str) -> None:
        self._guard = guard
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if isinstance(error, Exception):
            self._guard.caught(self._where, error)
            return True
        return False


def describe(error: BaseException) -> str:
    """Return an exception as `TypeName: message`, bounded, also when its `__str__` raises."""
    name = type(error).__name__
    try:
        message = str(error)[:TEXT_LENGTH]
    except Exception as failure:  # noqa: BLE001 - a user's __str__ may raise anything
        message = f"<str raised {type(failure).__name__}>"
    return f"{name}: {message}" if message else name
