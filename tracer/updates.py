"""Several changes to one event that wait together become one.

The background alone comes here, and only where more than one waits: nothing is decoded otherwise.
"""

from __future__ import annotations

from typing import Any, cast

import orjson

__all__ = ["merged"]


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
