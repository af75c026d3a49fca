"""Several changes to one event that wait together become one.

The background alone comes here, and only where more than one waits: nothing is decoded otherwise.
"""

from __future__ import annotations

from typing import Any, cast

import orjson

__all__ = ["merged", "with_losses"]


def merged(bodies: list[bytes]) -> bytes | None:
    """Return what one `PUT /v1/events/{id}` must say to do what these do, one after another.

    Returns: None when one of them is not a JSON object.
    """
    found: dict[str, Any] = {}
    try:
        for body in bodies:
            for name, value in cast("dict[str, Any]", orjson.loads(body)).items():
                old = found.get(name)
                if isinstance(old, dict) and isinstance(value, dict):
                    found[name] = {**old, **value}
                else:
                    found[name] = value
    except (orjson.JSONDecodeError, AttributeError):
        return None
    return orjson.dumps(found)


def with_losses(body: bytes, lost: dict[str, int]) -> bytes:
    """Return the update that ends a session, saying how many of its events were lost, and why."""
    try:
        found = cast("dict[str, Any]", orjson.loads(body))
        found["metadata"]["tracer"]["telemetry"]["dropped"] = lost
    except (orjson.JSONDecodeError, KeyError, TypeError):  # cut, or of another version
        return body
    return orjson.dumps(found)
