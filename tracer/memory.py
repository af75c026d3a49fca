"""Where segments come from: what a source of them does, and the one in private memory."""

from __future__ import annotations

from typing import Protocol

from tracer.errors import SpoolFullError
from tracer.segment import Segment, private_memory

__all__ = ["PrivateMemory", "SegmentSource"]


class SegmentSource(Protocol):
    """Where segments come from and go: the spool directory, or private memory."""

    def create(self, size: int) -> Segment: ...
    def discard(self, segment: Segment) -> None: ...
    def adopt(self, *, any_destination: bool = False) -> Segment | None: ...
    def excess(self, size: int) -> int: ...
    def renew(self) -> None: ...


class PrivateMemory:
    """Segments in memory that dies with the process, bounded by bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[Segment, int] = {}

    def create(self, size: int) -> Segment:
        """Allocate `size` bytes. Raises: SpoolFullError: the bound on bytes is reached."""
        if sum(list(self._held.values())) + size > self._max_bytes:
            raise SpoolFullError(f"more than {self._max_bytes:,} bytes wait in memory")
        segment = private_memory(size)
        self._held[segment] = size
        return segment

    def discard(self, segment: Segment) -> None:
        """Free a settled segment."""
        self._held.pop(segment, None)
        segment.close()

    def adopt(self, *, any_destination: bool = False) -> None:
        """Return nothing: memory leaves no orphans."""

    def excess(self, size: int) -> int:
        """Return 0: what does not fit is refused, nothing that waits is dropped for it."""
        return 0

    def renew(self) -> None:
        """Forget the parent's segments in a forked child."""
        self._held = {}
