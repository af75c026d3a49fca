"""What a store takes and gives: rows, searches, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tracer.errors import TracerError

__all__ = [
    "COLUMNS",
    "IDS",
    "NUMBERS",
    "OBJECTS",
    "UNAVAILABLE",
    "Addition",
    "Condition",
    "RefusedError",
    "Row",
    "Search",
    "id_key",
    "id_text",
]

IDS = ("event_id", "session_id", "parent_id")
NUMBERS = ("start_time", "end_time", "duration")
OBJECTS = ("config", "inputs", "outputs", "metadata", "feedback", "metrics", "user_properties")
# A row holds these in this order: ids as 16 bytes (a parent_id that is no UUID as text), times and
# durations as numbers, objects and children_ids as JSON text; None is what was not given.
COLUMNS = (
    *IDS,
    "event_type",
    "event_name",
    "source",
    "project_id",
    *NUMBERS,
    "error",
    "children_ids",
    *OBJECTS,
)
Row = tuple[Any, ...]


class RefusedError(TracerError):
    """A request that is not done: the status to answer, and why.

    Attributes:
        retry_after: seconds after which the same request may succeed, None if it will not.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Addition:
    """Events to store together, and the rows of their sessions, stored where there is none yet.

    With `merge` a session that is there takes over the metadata and user_properties of its row.
    """

    events: list[Row]
    sessions: list[Row]
    merge: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a search: a column, the path inside its JSON, and what to compare with."""

    column: str
    path: tuple[str, ...]
    operator: str
    value: Any
    type: str


@dataclass(frozen=True, slots=True)
class Search:
    """Which events to read, newest first; `since_ms` and `until_ms` are both included."""

    conditions: tuple[Condition, ...]
    since_ms: float | None
    until_ms: float | None
    limit: int
    page: int


def id_key(text: str) -> bytes | None:
    """Return the 16 bytes of a UUID in its 8-4-4-4-12 form, None for anything else."""
    if len(text) != 36 or not text[8] == text[13] == text[18] == text[23] == "-":
        return None
    try:
        key = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        return None
    return key if len(key) == 16 else None  # fromhex skips blanks, so they shorten it


def id_text(key: bytes | str | None) -> str | None:
    """Return an id as it is written on the wire."""
    return str(UUID(bytes=key)) if isinstance(key, bytes) else key
