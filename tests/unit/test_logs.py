"""Every log line can say to which session and event it belongs."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from journal import local_tracer

from tracer.logs import logging_filter
from tracer.recorder import Recorder
from tracer.tracer import Source, Tracer


class Line(logging.Logger):
    """A logger whose lines are the two ids."""

    def __init__(self, source: Source) -> None:
        super().__init__("lines")
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.addFilter(logging_filter(source))
        handler.setFormatter(logging.Formatter("%(hh_session_id)s|%(hh_event_id)s|%(message)s"))
        self.addHandler(handler)

    def last(self) -> tuple[str, str]:
        self.warning("said")
        session_id, event_id, message = self.stream.getvalue().splitlines()[-1].split("|")
        assert message == "said"
        return session_id, event_id


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    with local_tracer(tmp_path) as running:
        yield running


@pytest.fixture
def source(tracer: Tracer) -> Source:
    found = Source()
    found.recorder = tracer._recorder
    return found


def test_a_line_says_what_is_current(tracer: Tracer, source: Source) -> None:
    line = Line(source)
    assert line.last() == ("", "")
    with tracer.session("chat") as session:
        assert line.last() == (session.id, "")
        with tracer.chain("root") as root:
            assert line.last() == (session.id, root.id)
            with tracer.suppress():
                assert line.last() == ("", "")
    assert line.last() == ("", "")


def test_without_a_tracer_the_ids_are_empty() -> None:
    source = Source()
    source.pending = True
    assert Line(source).last() == ("", "")


def test_a_failure_of_ours_costs_no_line(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Recorder) -> None:
        raise ValueError("ours")

    monkeypatch.setattr("tracer.logs.nearest", fail)
    assert Line(source).last() == ("", "")
