"""What the tracer says in the log: what a handler of the program does with it goes no further."""

from __future__ import annotations

import logging
from typing import Any

from tracer.context import quietly

__all__ = ["log"]


class _Voice:
    """Warn through a logger: handlers record nothing meanwhile, and what they raise is theirs."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def warning(self, message: str, /, *args: object) -> None:
        """Log a warning; only what ends a program, as KeyboardInterrupt does, gets out."""
        self._say(logging.WARNING, message, *args)

    def error(self, message: str, /, *args: object) -> None:
        """Log an error, in the same way."""
        self._say(logging.ERROR, message, *args)

    def _say(self, *line: Any) -> None:
        try:
            quietly(self._log, line)
        except Exception:  # noqa: BLE001 - a user's logging handler may raise anything
            return

    def _log(self, line: tuple[Any, ...]) -> None:
        self._logger.log(*line)


log = _Voice(logging.getLogger("tracer"))
