"""A buffered background telemetry tracer for LLM agents. PYTEST_DONT_REWRITE: no asserts here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# its hooks must be registered now; everything else waits until it is used
import tracer.fork  # noqa: F401  # pyright: ignore[reportUnusedImport]  # see above
from tracer.version import __version__

if TYPE_CHECKING:
    from tracer.books import FlushResult, Stats
    from tracer.client import AsyncClient, Client
    from tracer.default import *
    from tracer.errors import ConfigError, TracerError, TransportError
    from tracer.spans import Session, Span
    from tracer.tracer import Tracer

_HOME = {
    "tracer.client": ("AsyncClient", "Client"),
    "tracer.errors": ("ConfigError", "TracerError", "TransportError"),
    "tracer.spans": ("Session", "Span"),
    "tracer.books": ("FlushResult", "Stats"),
    "tracer.tracer": ("Tracer",),
}  # everything else in __all__ lives in tracer.default

__all__ = ["AsyncClient", "Client", "ConfigError", "FlushResult", "Session", "Span", "Stats"]
__all__ += ["Tracer", "TracerError", "TransportError", "__version__", "bind", "chain"]
__all__ += ["current_session", "current_span", "enrich_session", "enrich_span", "extract"]
__all__ += ["flush", "init", "inject", "log_event", "logging_filter", "model", "session"]
__all__ += ["shutdown", "start_span", "stats", "suppress", "tool", "trace"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "testing":
        return import_module("tracer.testing")
    if name not in __all__:
        raise AttributeError(f"module 'tracer' has no attribute {name!r}")
    home = next((module for module, names in _HOME.items() if name in names), "tracer.default")
    found = globals()[name] = getattr(import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
