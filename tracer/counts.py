"""Counters without a lock."""

from __future__ import annotations

from itertools import count

__all__ = ["Counts", "value_of"]


class Counts:
    """Counters that any thread may raise without a lock: `next` of a count is one step."""

    def __init__(self) -> None:
        self._counts: dict[int | str, count[int]] = {}

    def add(self, name: int | str) -> None:
        """Count one more of `name`."""
        found = self._counts.get(name)
        next(self._counts.setdefault(name, count()) if found is None else found)

    def items(self) -> list[tuple[int | str, int]]:
        """Return every name counted with its number."""
        return [(name, value_of(found)) for name, found in list(self._counts.items())]

    def total(self) -> int:
        """Return the sum over all names."""
        return sum(number for _, number in self.items())


def value_of(counter: count[int]) -> int:
    """Return how often `next` was called on a count, without calling it."""
    # `repr` is the one way to look at a count without drawing from it on every version
    return int(repr(counter)[len("count(") : -1])
