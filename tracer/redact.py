"""Masking of secrets in what is recorded, on the caller's thread, before the queue and the disk.

Nearly every payload holds none, and leaves as the object it came as after one search over its bytes.
Where something that announces a secret stands, the rules look at these places alone; only when one
of them agrees is the JSON decoded, walked, and encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, cast

import orjson

from tracer.context import CURRENT, OwnWork, restore
from tracer.counts import value_of
from tracer.mask import Finding, Walk
from tracer.rules import FOLD
from tracer.scan import Scan

__all__ = ["Redactor"]


class Redactor:
    """Mask the secrets in one field of an event; any thread may call it, without a lock."""

    def __init__(
        self,
        keys: Iterable[str] = (),
        patterns: Iterable[str | re.Pattern[str]] = (),
        hook: Callable[[Any], Any] | None = None,
    ) -> None:
        """Prepare the search.

        Args:
            keys: more secret names, in any spelling: `customer_id` means `customerId` and
                `X-Customer-Id` too. From 3 names on the search may take three times as long.
            patterns: regular expressions of what else is to be masked in strings. Each field is
                then decoded and walked, and how long that takes is up to them.
            hook: gets each decoded field after our masks, returns what is recorded instead, of the
                same JSON type. It runs on the caller's thread and cannot be interrupted there: as
                long as it takes, so long the call waits.
        Raises: ConfigError: names the key or pattern that is none.
        """
        self._scan = Scan(keys, patterns)
        self._find = self._scan.find
        self._hook = hook
        self._always = bool(self._scan.patterns) or hook is not None
        self._failures = count()

    @property
    def failed(self) -> int:
        """Return how many fields were replaced because masking them failed."""
        return value_of(self._failures)

    def suspects(self, encoded: bytes) -> bool:
        """Tell whether anything in these bytes has to be looked at, for one field or many.

        JSON, or pieces of it. Never raises; KeyboardInterrupt and SystemExit pass through.
        """
        try:
            if self._always:
                return True
            folded = encoded.translate(FOLD)
            hits = self._find(folded)
            # `find`: `in` first tries to read its left side as a number, for 0.3 µs (3.13)
            if not hits and encoded.find(b"@") < 0:
                return False
            return self._scan.suspects(encoded, folded, hits)
        except Exception:  # noqa: BLE001 - whatever it is, the raw value must not leave
            return True

    def __call__(self, encoded: bytes) -> bytes:
        """Return the JSON `encoded` with its secrets masked, itself if it holds none.

        Never raises: what cannot be masked is replaced by a marker of the same JSON type and
        counted. KeyboardInterrupt passes through, and SystemExit but from the hook.
        """
        try:
            if not self.suspects(encoded):
                return encoded
            value = orjson.loads(encoded)
            walk = Walk(self._scan)
            masked = walk.value(value)
            if self._hook is None:
                return orjson.dumps(masked) if walk.found else encoded
            return self._hooked(masked)
        except Exception as error:  # noqa: BLE001 - whatever it is, the raw value must not leave
            # no function of ours from here on: after a RecursionError there is no room for a call
            next(self._failures)
            said = f"redaction failed ({type(error).__name__:.80})".encode("ascii", "replace")
            if encoded.startswith(b"{"):
                return b'{"__redacted__":"%b"}' % said
            return (
                b'[{"__redacted__":"%b"}]' % said if encoded.startswith(b"[") else b'"[%b]"' % said
            )

    def look(self, encoded: bytes) -> tuple[bytes, list[Finding]]:
        """Return the masked JSON and what was masked in it; the hook is not called.

        Raises: ValueError: `encoded` is no JSON.
        """
        walk = Walk(self._scan)
        masked = walk.value(orjson.loads(encoded))
        return (orjson.dumps(masked) if walk.found else encoded), walk.found

    def _hooked(self, value: Any) -> bytes:
        kind = cast(Any, type(value))
        quiet = OwnWork(CURRENT.get())  # what the hook calls is no event
        CURRENT.set(quiet)
        try:
            changed = cast("Callable[[Any], Any]", self._hook)(value)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit: the hook may not end the program either
            raise _HookExitError from error
        finally:
            quiet.ended = True
            restore(quiet)
        if not isinstance(changed, kind):
            raise TypeError
        return orjson.dumps(changed)


class _HookExitError(Exception):
    """The hook raised what is no Exception."""
