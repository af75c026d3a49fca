"""Spans that are open for long are written to the journal: a killed process shows what it was in."""

from __future__ import annotations

from contextlib import suppress

from tracer.buffer import Buffer
from tracer.frame import SUPERSEDED
from tracer.recorder import Recorder

__all__ = ["OpenSpans"]

LONG = 1_000_000_000  # ns after which an open span is written; most end before and cost nothing
MAX_OPEN = 10_000  # spans that are looked at; who begins more and ends none must not fill memory


class OpenSpans:
    """What the flusher does about the open spans of one recorder, each time before it sleeps."""

    def __init__(self, recorder: Recorder, buffer: Buffer) -> None:
        self._recorder = recorder
        self._buffer = buffer
        self._written: set[str] = set()
        self._sought: set[str] = set()  # written, and not found in the journal yet

    def tend(self) -> None:
        """Write the spans that are open for a second, take back those that have ended since."""
        spans, written = self._recorder.open, self._written
        if self._sought:  # only then: it walks whatever waits
            self._buffer.note_open()
            self._sought.difference_update(self._buffer.open_frames)
        for event_id, frame in list(self._buffer.open_frames.items()):
            span = spans.get(event_id)
            if span is not None:
                span.journaled = frame
            else:
                with suppress(ValueError):  # its segment is gone
                    self._buffer.settle([frame], SUPERSEDED)
                del self._buffer.open_frames[event_id]
        written.intersection_update(list(spans))
        while len(spans) > MAX_OPEN:
            spans.pop(next(iter(spans)), None)
        if not self._buffer.writer.durable:
            return
        until = self._recorder.clock.monotonic_ns() - LONG
        for event_id, span in list(spans.items()):
            if span.started > until:
                return  # in the order they began
            if event_id not in written:
                written.add(event_id)
                if self._recorder.journal_open(span):
                    self._sought.add(event_id)
