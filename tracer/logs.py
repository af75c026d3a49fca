"""A logging filter that says to which session and event a line belongs."""

from __future__ import annotations

import logging
from contextlib import suppress as no_more

from tracer.context import nearest
from tracer.recorder import RecorderSource
from tracer.spans import Session, Span

__all__ = ["logging_filter"]


class _CurrentIds(logging.Filter):
    def __init__(self, source: RecorderSource) -> None:
        super().__init__()
        self._source = source

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, with `hh_session_id` and `hh_event_id`."""
        record.hh_session_id = record.hh_event_id = ""
        with no_more(Exception):
            recorder = self._source.recorder
            link = None if recorder is None else nearest(recorder)
            if isinstance(link, Span):
                record.hh_session_id, record.hh_event_id = link.session.id, link.id
            elif isinstance(link, Session):
                record.hh_session_id = link.id
        return True


def logging_filter(source: RecorderSource) -> logging.Filter:
    """Return a filter that sets `hh_session_id` and `hh_event_id` on every log record.

    They are empty where no session or span is current. Add it to a handler, which sees the records
    of all loggers, and use the names in its format.
    """
    return _CurrentIds(source)
