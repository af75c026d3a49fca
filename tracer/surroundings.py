"""What a tracer may be given instead of the world: where its frames go, its clock, its ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tracer.buffer import Buffer
from tracer.clock import Clock, IdSource

__all__ = ["Outlet", "Surroundings"]


class Outlet(Protocol):
    """What empties a buffer: the flusher, or what takes its place; the methods are described there.

    `flush` and `stop` return None, or why not everything was settled.
    """

    def flush(self, timeout: float) -> str | None: ...
    def stop(self, timeout: float) -> str | None: ...
    def after_fork_in_child(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A buffer with what empties it, instead of files, thread and connection; a clock, ids."""

    buffer: Buffer
    outlet: Outlet
    clock: Clock | None = None
    ids: IdSource | None = None
