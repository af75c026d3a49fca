"""What is around a tracer: made as its configuration says, or given instead of the world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tracer.buffer import Buffer
from tracer.clock import Clock, IdSource
from tracer.config import Config
from tracer.errors import SpoolError
from tracer.key import Key
from tracer.memory import PrivateMemory, SegmentSource
from tracer.spool import Spool
from tracer.voice import log

if TYPE_CHECKING:
    from tracer.redact import Redactor

__all__ = ["Outlet", "Surroundings", "redactor_of", "segment_source"]


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


def redactor_of(config: Config) -> Redactor | None:
    """Return what masks secrets. Raises: ConfigError: a pattern or a name is none."""
    if config.disable_tracing or config.redact is False:
        return None
    from tracer.redact import Redactor  # compiles its rules for 20 ms: paid here, not by the import

    hook = config.redact if callable(config.redact) else None
    return Redactor(config.redact_keys, config.redact_patterns, hook)


def segment_source(config: Config, key: Key) -> tuple[SegmentSource, str]:
    """Return where segments come from, and the mode with its reason.

    A journal goes on under the fingerprint of another key when `key` changes.
    """
    if config.disable_tracing:
        return PrivateMemory(config.max_queue_bytes), "M: tracing is off"
    if config.durable:
        try:
            spool = Spool(
                config.spool_path, config.destination_with(key.value), config.spool_max_bytes
            )
            key.on_change = lambda value: spool.write_for(config.destination_with(value))
        except SpoolError as error:
            log.warning("%s: events wait in memory and die with the process", error)
            return PrivateMemory(config.max_queue_bytes), f"M: {error}"
        written = (
            "" if spool.mapped else ", written to instead of mapped: not safe on its file system"
        )
        return spool, f"D: journal in {config.spool_path}{written}"
    return PrivateMemory(config.max_queue_bytes), "M: durable is off"
