"""Mask what a scan finds in a decoded field: values under secret names, secrets inside texts."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import orjson

from tracer.keynames import NO, SECRET, UNSURE, takes_numbers
from tracer.namedvalues import looks_secret
from tracer.rules import MASK, MASKED, mask_of
from tracer.scan import NAME_LENGTH, Scan

__all__ = ["Finding", "Walk"]

# The words of a JSON Schema: `{"password": {"type": "string"}}` in the parameters of a tool.
_SCHEMA = frozenset(
    ("type", "description", "title", "format", "minLength", "maxLength", "pattern", "writeOnly")
)
SHORTEST = len("cvv=123")  # characters of a text a rule may find something in
_LABELS = ("name", "key", "header", "Name", "Key")
_VALUES = ("value", "Value")


class Finding(NamedTuple):
    """One masked value: where it was, by which rule, what stands there now; never what it was."""

    path: str
    line: int  # of a text of several lines, from 1
    rule: str
    shown: str


class Walk:
    """One walk over a decoded field."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._path: list[str] = []
        self.found: list[Finding] = []

    def value(self, value: Any) -> Any:
        """Return `value` masked."""
        kind = cast(Any, type(value))
        if kind is str:
            return self._text(value)
        if kind is dict:
            return self._object(value)
        if kind is list:
            return self._array(value)
        if kind is int and 10**13 <= value < 10**19 and self._scan.spans(b" %d" % value):
            return self._mask("card", mask_of("card"))
        return value

    def _object(self, members: dict[str, Any]) -> dict[str, Any]:
        masked: dict[str, Any] = {}
        label = next((members[k] for k in _LABELS if type(members.get(k)) is str), None)
        verdict = self._scan.verdict
        pair = NO if label is None else verdict(label)
        for key, value in members.items():
            certain = max(verdict(key), pair if key in _VALUES else NO)
            name = self._name(key, masked)
            self._path.append(f".{name}" if self._path else name)
            masked[name] = (
                self._conceal(value, key if verdict(key) else cast(str, label), certain)
                if certain
                else self.value(value)
            )
            self._path.pop()
        return masked

    def _array(self, items: list[Any]) -> list[Any]:
        # a list of headers: [["authorization", "…"], …]
        pairs = all(type(i) is list and len(i) == 2 and type(i[0]) is str for i in items)
        masked: list[Any] = []
        for at, item in enumerate(items):
            self._path.append(f"[{at}]")
            certain = self._scan.verdict(item[0]) if pairs else NO
            if certain:
                masked.append([item[0], self._conceal(item[1], item[0], certain)])
            else:
                masked.append(self.value(item))
            self._path.pop()
        return masked

    def _conceal(self, value: Any, name: str, certain: int) -> Any:
        """Mask every text below a secret name; the shape stays."""
        kind = cast(Any, type(value))
        if kind is str:
            sure = certain == SECRET or looks_secret(value.encode())
            if not sure or not value or MASKED.fullmatch(value.encode()):
                return self._text(value)
            return self._mask("name", MASK)
        if certain == UNSURE:
            return self.value(value)
        if kind is int or kind is float:
            own = self._scan.owns(name)
            return self._mask("name", MASK) if own or takes_numbers(name[-NAME_LENGTH:]) else value
        if kind is list:
            return [self._at(f"[{i}]", v, name) for i, v in enumerate(value)]
        if kind is dict:
            schema = "type" in value and isinstance(value["type"], str | list)
            below: dict[str, Any] = {}
            for k, v in value.items():
                shown = self._name(k, below)
                plain = schema and k in _SCHEMA
                below[shown] = self.value(v) if plain else self._at(f".{shown}", v, name)
            return below
        return value

    def _name(self, key: str, taken: dict[str, Any]) -> str:
        """Mask what is secret in a key; where two become one, neither may hide the other."""
        name = found = self._text(key)
        while found in taken:
            found = f"{name} ({len(taken)})"
        return found

    def _at(self, step: str, value: Any, name: str) -> Any:
        self._path.append(step)
        masked = self._conceal(value, name, SECRET)
        self._path.pop()
        return masked

    def _text(self, text: str) -> str:
        if len(text) < SHORTEST and not self._scan.patterns:
            return text
        if text[:1] in ("{", "[") and len(text) > 2:
            embedded = self._embedded(text)
            if embedded is not None:
                text = embedded
        raw = b" " + text.encode()
        found = self._scan.spans(raw)
        if found:
            pieces: list[bytes] = []
            done = line = 1
            for start, end, shown in found:
                pieces += raw[done:start], shown.encode()
                line += raw.count(b"\n", done, start)
                self._mask(shown[10:-1] or "name", shown, line)
                line += raw.count(b"\n", start, end)
                done = end
            text = b"".join((*pieces, raw[done:])).decode()
        for pattern in self._scan.patterns:
            text, times = pattern.subn(mask_of("pattern"), text)
            if times:
                self._mask("pattern", mask_of("pattern"))
        return text

    def _embedded(self, text: str) -> str | None:
        """Return JSON inside a string masked: a tool call's arguments, a body; None: no need."""
        raw = text.encode()
        if not self._scan.suspicious(raw):
            return None
        try:
            value = orjson.loads(raw)
        except ValueError:
            return None
        before = len(self.found)
        masked = self.value(value)
        return orjson.dumps(masked).decode() if len(self.found) > before else None

    def _mask(self, rule: str, shown: str, line: int = 1) -> str:
        self.found.append(Finding("".join(self._path), line, rule, shown))
        return shown
