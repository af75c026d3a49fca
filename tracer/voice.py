"""What the tracer says in the log: what a handler of the program does with it goes no further."""

from __future__ import annotations

import logging

from tracer.context import quietly

__all__ = ["log"]


class _Voice:
    """Warn through a logger: handlers record nothing meanwhile, and what they raise is theirs."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def warning(self, message: str, /, *args: object) -> None:
        """Log a warning; only what ends a program, as KeyboardInterrupt does, gets out."""
        try:
            quietly(self._warn, (message, *args))
        except Exception:  # noqa: BLE001 - a user's logging handler may raise anything
            return

    def _warn(self, line: tuple[object, ...]) -> None:
        self._logger.warning(*line)


log = _Voice(logging.getLogger("tracer"))
