"""A value as it is at this moment, in the form it is kept in: JSON within bounds, secrets masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracer.encode import Encoder

__all__ = ["AS_IT_IS", "Encoded", "Mask", "Snapshot"]

Mask = Callable[[bytes], bytes]  # the JSON of one field, its secrets masked


class Encoded(bytes):
    """A JSON object that was put together from values encoded one by one."""

    __slots__ = ()


class Snapshot:
    """What one tracer makes of a value before it is queued or written anywhere.

    `value` returns JSON of any kind, `object` a JSON object, `mask` masks what is JSON already and
    `cut` shortens it. None of them raises because of a value. Any thread may call them.
    """

    __slots__ = ("cut", "mask", "object", "value")

    def __init__(self, encoder: Encoder, mask: Mask | None = None) -> None:
        self.cut = encoder.cut
        self.mask: Mask = _unchanged if mask is None else mask
        self.value: Callable[[Any], bytes] = encoder.value
        self.object: Callable[[Any], bytes] = encoder.object
        if mask is not None:
            self.value = _then(encoder.value, mask)
            self.object = _then(encoder.object, mask)


def _then(encode: Callable[[Any], bytes], mask: Mask) -> Callable[[Any], bytes]:
    return lambda value: mask(encode(value))


def _unchanged(encoded: bytes) -> bytes:
    return encoded


AS_IT_IS = Snapshot(Encoder())  # for values of our own
