"""The default tracer: made by `init` or by the first event, and never in the way."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from journal import events, only, sessions
from programs import environment, run

import tracer
from tracer import default
from tracer.context import CURRENT
from tracer.errors import ConfigError
from tracer.testing import capture
from tracer.tracer import Tracer


@pytest.fixture(autouse=True)
def _fresh_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every test a default tracer that nobody has asked for yet."""
    CURRENT.set(None)
    state = default._default
    for name, value in {"tracer": None, "recorder": None, "pending": True}.items():
        monkeypatch.setattr(state, name, value)
    yield
    if state.tracer is not None:
        state.tracer.shutdown(0.5)


@tracer.tool
def work(x: int) -> int:
    return x + 1


def options(directory: Path, **more: Any) -> Any:
    return {"local": True, "spool_dir": directory, **more}


# -- init --------------------------------------------------------------------------------------


def test_init_with_the_same_configuration_is_the_same_tracer(tmp_path: Path) -> None:
    first = tracer.init(**options(tmp_path))
    assert tracer.init(**options(tmp_path)) is first
    assert work(1) == 2
    assert len(events(first)) == 1


def test_init_with_another_configuration_is_another_tracer(tmp_path: Path) -> None:
    first = tracer.init(**options(tmp_path, session_name="a"))
    work(1)
    second = tracer.init(**options(tmp_path, session_name="b"))
    assert second is not first
    work(2)
    assert only(first)["inputs"] == {"x": 1}
    assert only(second)["inputs"] == {"x": 2}
    first.shutdown()


def test_the_old_tracer_keeps_what_was_open_and_what_it_holds(tmp_path: Path) -> None:
    with tracer.chain("open over the change"):
        pass  # switched off: initialises nothing without a key
    tracer.init(**options(tmp_path / "a"))
    with tracer.chain("open over the change"):
        tracer.init(**options(tmp_path / "b"))
    gc.collect()
    written = b"".join(f.read_bytes() for f in (tmp_path / "a").glob("**/*.segment"))
    assert written.count(b"open over the change") == 1


def test_the_methods_of_a_tracer_lead_to_it_after_another_init(tmp_path: Path) -> None:
    first = tracer.init(**options(tmp_path / "a"))
    second = tracer.init(**options(tmp_path / "b"))
    with first.chain("mine"):
        pass
    assert only(first)["event_name"] == "mine"
    assert events(second) == []
    first.shutdown()


def test_init_after_shutdown_is_a_new_tracer(tmp_path: Path) -> None:
    first = tracer.init(**options(tmp_path))
    tracer.shutdown()
    second = tracer.init(**options(tmp_path))
    assert second is not first
    work(1)
    assert len(events(second)) == 1


def test_init_raises_for_a_wrong_option_and_changes_nothing(tmp_path: Path) -> None:
    running = tracer.init(**options(tmp_path))
    with pytest.raises(ConfigError, match="argument batch_size: must be from 1 to 5,000, not 0"):
        tracer.init(batch_size=0)
    assert default._default.tracer is running
    work(1)
    assert len(events(running)) == 1


def test_arguments_come_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HH_SESSION_NAME", "environment")
    monkeypatch.setenv("HH_SOURCE", "environment")
    running = tracer.init(**options(tmp_path, session_name="argument"))
    work(1)
    assert sessions(running)[0]["session_name"] == "argument"
    assert only(running)["source"] == "environment"


# -- the functions of the package --------------------------------------------------------------


TREE = """\
session test
session s → {"status": "ok"}
├─ tool logged
└─ model t
   └─ tool work {"x": 1} → {"result": 2}
"""


def test_the_functions_use_the_default_tracer() -> None:
    with capture() as captured:
        with tracer.session("s", user_properties={"id": "u"}) as session:
            assert tracer.current_session() is session
            with tracer.trace("t", event_type="model") as span:
                assert tracer.current_span() is span
                tracer.enrich_span(metadata={"a": 1})
                tracer.bind(work)(1)
            tracer.enrich_session(outputs={"status": "ok"})
            with tracer.suppress():
                work(2)
            logged = tracer.log_event("tool", "logged", start_time=1e12, end_time=1e12 + 2)
        tracer.enrich_span(event_id=span.id, feedback={"ok": True})
        assert tracer.stats().recorded == 3
        assert tracer.flush().ok
        assert tracer.shutdown().delivered == 3
    assert captured.only("logged")["event_id"] == logged
    assert captured.only("t")["feedback"] == {"ok": True}
    assert captured.only("t")["metadata"] == {"a": 1}
    assert captured.tree() == TREE


# -- without init ------------------------------------------------------------------------------


def test_without_key_nothing_is_recorded_and_everything_works(tmp_path: Path) -> None:
    assert work(1) == 2
    with tracer.session("s") as session, tracer.chain("c") as span:
        span.set(outputs=1)
    assert (session.id, span.id) == ("", "")
    assert tracer.current_span() is None
    assert tracer.log_event("tool", "t") is None
    tracer.enrich_span(outputs=1)
    found = tracer.flush()
    assert (found.ok, found.delivered, found.dropped) == (True, 0, {})
    assert tracer.stats().recorded == 0
    assert tracer.shutdown().ok
    assert not (tmp_path / "state").exists()


def test_flush_before_init_does_not_keep_init_from_working(tmp_path: Path) -> None:
    assert tracer.flush().ok
    assert tracer.current_span() is None
    running = tracer.init(**options(tmp_path))
    work(1)
    assert len(events(running)) == 1


def test_the_first_event_initialises_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "HH_API_KEY": "hh_key",
        "HH_LOCAL": "1",
        "HH_SPOOL_DIR": str(tmp_path / "spool"),
        "HH_SESSION_NAME": "from the environment",
    }.items():
        monkeypatch.setenv(name, value)
    assert default._default.tracer is None
    assert work(1) == 2
    running = default._default.tracer
    assert running is not None
    assert len(events(running)) == 1
    assert sessions(running)[0]["session_name"] == "from the environment"
    assert tracer.init() is running


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HH_TIMEOUT", "soon"), ("HH_API_URL", "http://example.com"), ("HH_SESSION_ID", "\udcff")],
)
def test_a_bad_environment_is_logged_once_and_switches_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, value: str
) -> None:
    monkeypatch.setenv("HH_API_KEY", "hh_secret_key")
    monkeypatch.setenv("HH_DURABLE", "0")
    monkeypatch.setenv(variable, value)
    for _ in range(3):
        assert work(1) == 2
        with tracer.chain("c") as span:
            assert span.id == ""
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("tracing is off: ")
    assert "secret" not in record.getMessage()
    assert tracer.flush().ok


def test_a_logging_handler_that_raises_is_no_failure_of_the_first_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    monkeypatch.setenv("HH_API_KEY", "hh_key")
    monkeypatch.setenv("HH_TIMEOUT", "soon")
    handler = Full()
    logging.getLogger("tracer").addHandler(handler)
    try:
        assert work(1) == 2
    finally:
        logging.getLogger("tracer").removeHandler(handler)


def test_threads_whose_first_calls_come_together_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HH_API_KEY", "hh_key")
    monkeypatch.setenv("HH_LOCAL", "1")
    monkeypatch.setenv("HH_SPOOL_DIR", str(tmp_path))
    together = Barrier(16)

    def first() -> None:
        together.wait(10)
        work(1)

    threads = [Thread(target=first) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running = default._default.tracer
    assert running is not None
    assert len(events(running)) == 16
    assert len({event["session_id"] for event in events(running)}) == 1


def test_recording_while_the_tracer_is_being_made_is_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler or an import hook may record while the first event imports httpx."""
    monkeypatch.setenv("HH_API_KEY", "hh_key")
    monkeypatch.setenv("HH_LOCAL", "1")
    monkeypatch.setenv("HH_SPOOL_DIR", str(tmp_path))
    build = Tracer.of
    seen = []

    def of(*arguments: Any) -> Tracer:
        seen.append(work(1))
        return build(*arguments)

    monkeypatch.setattr(Tracer, "of", of)
    assert work(2) == 3
    assert seen == [2]
    running = default._default.tracer
    assert running is not None
    assert only(running)["inputs"] == {"x": 2}


# -- processes ---------------------------------------------------------------------------------

FIRST = """
import sys, threading, tracer

@tracer.tool
def work(x):
    return x + 1

assert work(1) == 2
print(tracer.stats().recorded, tracer.stats().mode[0], "httpx" in sys.modules)
print(tracer.shutdown(0.1).ok)
"""


def test_a_key_in_the_environment_is_enough(tmp_path: Path) -> None:
    env = environment(
        HH_API_KEY="hh_key", HH_API_URL="http://127.0.0.1:9", HH_SPOOL_DIR=tmp_path / "spool"
    )
    done = run(FIRST, env=env)
    assert done.out.splitlines() == ["1 D True", "False"], done.err
    (segment,) = (tmp_path / "spool").glob("**/*.segment")
    assert b'"event_name":"work"' in segment.read_bytes()


def test_no_key_in_the_environment_loads_and_writes_nothing(tmp_path: Path) -> None:
    done = run(FIRST, env=environment(XDG_STATE_HOME=tmp_path / "state"))
    assert done.out.splitlines() == ["0 M False", "True"], done.err
    assert done.err == ""
    assert not (tmp_path / "state").exists()
