"""Tracers that send to a server of the test, and something for them to record."""

from __future__ import annotations

from pathlib import Path

from tracer import Tracer
from tracer.writer import NEVER

__all__ = ["tracer_for", "work"]


def tracer_for(url: str, mode: str, directory: Path, **options: object) -> Tracer:
    """Return a tracer that sends to `url` when it is flushed; mode D keeps a journal, M does not."""
    t = Tracer(
        server_url=url,
        durable=mode == "D",
        spool_dir=directory / "spool",
        **{"flush_interval": 3600, "propagate_threads": False, **options},  # type: ignore[arg-type]
    )
    t._buffer.wake_after(NEVER)  # in M the very first events would else go out by themselves
    return t


def work(t: Tracer, number: int = 1, text: str = "x") -> list[str]:
    """Record so many tools that hold `text`; return their ids."""
    ids = []
    for _ in range(number):
        with t.tool("work", inputs={"text": text}) as span:
            pass
        ids.append(span.id)
    return ids
