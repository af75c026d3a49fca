"""Spans that are open for long: written once, taken back, bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from journal import local_tracer

from tracer import open_spans
from tracer.frame import OPEN
from tracer.open_spans import OpenSpans
from tracer.segment import Frame
from tracer.tracer import Tracer


@pytest.fixture
def tracer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracer]:
    monkeypatch.setattr(open_spans, "LONG", 0)
    with local_tracer(tmp_path) as made:
        yield made


def open_frames(tracer: Tracer) -> list[str]:
    """Return the names in the frames of open spans that wait."""
    (segment,) = tracer._buffer.writer.segments
    found = [f for f in segment.walk() if isinstance(f, Frame) and f.kind == OPEN]
    return [str(f.payload).partition('"event_name":"')[2].partition('"')[0] for f in found]


def tend(tracer: Tracer) -> OpenSpans:
    found = OpenSpans(tracer._recorder, tracer._buffer)
    found.tend()
    return found


def test_each_is_written_once(tracer: Tracer) -> None:
    with tracer.chain("outer"), tracer.chain("inner"):
        spans = tend(tracer)
        spans.tend()
        assert open_frames(tracer) == ["outer", "inner"]


def test_only_what_is_open_for_long_is_written(
    tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_spans, "LONG", 10**9)
    with tracer.chain("short"):
        tend(tracer)
        assert open_frames(tracer) == []


def test_its_end_takes_it_back_at_once(tracer: Tracer) -> None:
    with tracer.chain("span") as span:
        spans = tend(tracer)
        tracer._buffer.read(9, 1 << 20)
        spans.tend()
        assert span.journaled is not None
    assert open_frames(tracer) == []


def test_one_that_ended_before_it_was_found_in_the_journal_is_taken_back(tracer: Tracer) -> None:
    with tracer.chain("span"):
        spans = tend(tracer)
    assert open_frames(tracer) == ["span"]
    tracer._buffer.read(9, 1 << 20)
    spans.tend()
    assert open_frames(tracer) == []
    assert not tracer._buffer.open_frames


def test_who_ends_nothing_fills_no_memory(tracer: Tracer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_spans, "MAX_OPEN", 3)
    spans = [tracer.start_span(str(n)) for n in range(9)]
    tend(tracer)
    assert open_frames(tracer) == ["6", "7", "8"]
    for span in spans:
        span.end()


def test_in_memory_nothing_is_written_for_a_death_it_does_not_survive() -> None:
    tracer = Tracer(local=True, durable=False)
    with tracer.chain("span"):
        tend(tracer)
        assert open_frames(tracer) == []
    tracer.shutdown()
