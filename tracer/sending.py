"""The flusher as a tracer's configuration wants it: for a server, or for the collector near by."""

from __future__ import annotations

from dataclasses import replace

from tracer.buffer import Buffer
from tracer.config import Config, collector_file
from tracer.errors import Guard
from tracer.flusher import Flusher
from tracer.key import Key
from tracer.nearby import LocalCollector
from tracer.open_spans import OpenSpans
from tracer.recorder import Recorder
from tracer.reports import Reports
from tracer.transport import HttpTransport
from tracer.voice import log

__all__ = ["flusher_of"]


def flusher_of(
    config: Config, key: Key, buffer: Buffer, recorder: Recorder, guard: Guard
) -> Flusher:
    """Return what sends the events in `buffer`; in local mode nobody asked for, say where they are."""
    tend = OpenSpans(recorder, buffer).tend
    reports = Reports(buffer, guard, config.on_drop, config.on_error)
    if config.is_local:
        if not config.local:
            where = config.spool_path if buffer.writer.durable else "memory"
            log.warning(
                "no HH_API_KEY and no HH_API_URL: events stay in %s; `tracer serve` starts a "
                "collector for them",
                where,
            )
        near = LocalCollector(collector_file())
        return Flusher(buffer, near.transport, config, key, tend, reports, near.look)

    def connect(timeout: float) -> HttpTransport:
        return HttpTransport(replace(config.connection_with(key.value), timeout=timeout))

    return Flusher(buffer, connect, config, key, tend, reports)
