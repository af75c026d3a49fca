"""What users may see, and the guard that keeps the rest away from them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tracer import errors
from tracer.errors import (
    LINE_LENGTH,
    MAX_CAUSES,
    TEXT_LENGTH,
    ConfigError,
    Guard,
    SpoolError,
    SpoolFullError,
    TracerError,
    TransientError,
    TransportError,
    describe,
)


class Lines(logging.Handler):
    """Keep what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.Logger("guarded")  # noqa: LOG001 - one of its own for each test
    yield found
    found.handlers.clear()


@pytest.fixture
def lines(logger: logging.Logger) -> list[str]:
    handler = Lines()
    logger.addHandler(handler)
    return handler.lines


def test_every_exception_of_ours_has_one_root() -> None:
    classes = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert len(classes) == 12
    assert all(issubclass(found, TracerError) for found in classes)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(SpoolFullError, SpoolError)
    assert {found.__name__ for found in classes if issubclass(found, TransportError)} == {
        "TransportError",
        "TransientError",
        "ConflictError",
        "SessionNotFoundError",
        "PayloadTooLargeError",
        "AuthError",
        "RejectedError",
    }


def test_a_transport_error_keeps_its_status_and_the_servers_wish() -> None:
    error = TransientError("busy", 503, 2.5)
    assert (str(error), error.message, error.status, error.retry_after) == (
        "busy",
        "busy",
        503,
        2.5,
    )
    assert TransportError("gone").status is None


def test_a_failure_inside_the_guard_goes_no_further(
    logger: logging.Logger, lines: list[str]
) -> None:
    guard = Guard(logger)
    with guard.during("here"):
        raise KeyError("missing")
    assert guard.count == 1
    (line,) = lines
    assert line.startswith("recording failed in here (KeyError: 'missing'); the program goes on")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_program_passes_the_guard(
    logger: logging.Logger, lines: list[str], error: type[BaseException]
) -> None:
    guard = Guard(logger)
    with pytest.raises(error), guard.during("here"):
        raise error
    assert (guard.count, lines) == (0, [])


def test_each_cause_is_logged_once_and_every_failure_counted(
    logger: logging.Logger, lines: list[str]
) -> None:
    guard = Guard(logger)
    for _ in range(10):
        guard.caught("here", KeyError("a"))
        guard.caught("here", ValueError("a"))
        guard.caught("there", KeyError("a"))
    assert guard.count == 30
    assert len(lines) == 3


def test_classes_made_at_run_time_do_not_fill_log_or_memory(
    logger: logging.Logger, lines: list[str]
) -> None:
    guard = Guard(logger)
    for n in range(MAX_CAUSES * 3):
        guard.caught("here", type(f"Error{n}", (Exception,), {})())
    assert guard.count == MAX_CAUSES * 3
    assert len(lines) == MAX_CAUSES


def test_a_log_line_is_one_bounded_line(logger: logging.Logger, lines: list[str]) -> None:
    Guard(logger).caught("here", ValueError("first\nsecond\r\x1b third " + "x" * 10_000))
    assert len(lines[0].splitlines()) == 1
    assert len(lines[0]) < LINE_LENGTH + 200


def test_a_logging_handler_that_raises_is_no_failure_of_the_call(logger: logging.Logger) -> None:
    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    logger.addHandler(Full())
    guard = Guard(logger)
    with guard.during("here"):
        raise KeyError
    assert guard.count == 1


def test_a_message_that_cannot_be_made_is_no_failure_of_the_call(
    logger: logging.Logger, lines: list[str]
) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    Guard(logger).caught("here", MuteError())
    assert "MuteError: <str raised RuntimeError>" in lines[0]


def test_a_failure_met_while_logging_does_not_log_for_ever(logger: logging.Logger) -> None:
    class Recording(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            guard.caught("here", KeyError())

    logger.addHandler(Recording())
    guard = Guard(logger)
    guard.caught("here", KeyError())
    assert guard.count == 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (OSError(2, "gone"), "FileNotFoundError: [Errno 2] gone"),
    ],
)
def test_an_exception_is_described_by_type_and_message(error: BaseException, expected: str) -> None:
    assert describe(error) == expected


def test_a_described_message_is_bounded() -> None:
    assert len(describe(ValueError("x" * 10**6))) == len("ValueError: ") + TEXT_LENGTH
