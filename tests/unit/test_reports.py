"""Hooks of the program: each loss is told once, and nothing they do changes anything."""

from __future__ import annotations

import logging

import pytest

from tracer.buffer import Buffer
from tracer.errors import Guard, TransientError
from tracer.frame import DROPPED, EVENT
from tracer.memory import PrivateMemory
from tracer.reports import Reports

ID = bytes(16)


@pytest.fixture
def buffer() -> Buffer:
    return Buffer(PrivateMemory(1 << 30), 5, 1 << 30)


def test_each_loss_is_told_once_by_reason(buffer: Buffer) -> None:
    told: list[tuple[str, int]] = []
    reports = Reports(buffer, Guard(logging.getLogger()), lambda *lost: told.append(lost), None)
    reports.tend()
    assert told == []
    for _ in range(7):
        buffer.write(EVENT, ID, b"{}")
    reports.tend()
    reports.tend()
    assert told == [("queue_full", 2)]
    buffer.settle(buffer.read(1, 1 << 20), DROPPED, "rejected")
    buffer.write(EVENT, ID, b"{}")
    buffer.write(EVENT, ID, b"{}")
    reports.tend()
    assert sorted(told) == [("queue_full", 1), ("queue_full", 2), ("rejected", 1)]


def test_f71_a_hook_that_raises_is_logged_once(
    buffer: Buffer, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    reports = Reports(buffer, Guard(logging.getLogger()), broken, broken)
    for _ in range(3):
        for _ in range(6):
            buffer.write(EVENT, ID, b"{}")
        reports.tend()
        reports.error(TransientError("away"))
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 2
    assert "on_drop (ZeroDivisionError" in said[0]
    assert "on_error (ZeroDivisionError" in said[1]


def test_without_a_hook_nobody_is_told(buffer: Buffer) -> None:
    reports = Reports(buffer, Guard(logging.getLogger()), None, None)
    buffer.write(EVENT, ID, b"{}")
    reports.tend()
    reports.error(TransientError("away"))
