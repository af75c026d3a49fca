"""Shorten JSON that is already written, so that it stays JSON and says what it was.

What stays readable is worth more than an even cut: an object keeps all its members while they
fit, the largest are shortened first; a list keeps its beginning; a text keeps its head.
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from hashlib import sha256
from typing import Any

import orjson

__all__ = ["CUT", "compact", "cut", "without_data_uris"]

CUT = "__cut__"  # the member that says what was left out, and of how much
SMALLEST = 200  # bytes: a marker with size and SHA-256 takes up to 160
LEVELS = 8  # of nesting that are cut each by itself; each hashes what it cuts
LARGEST = 16 << 20  # bytes that are decoded to be cut; of more the beginning is kept as text
DATA_URI_LENGTH = 1024  # characters of base64 that stay

_DATA_URI = re.compile(
    rb"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[\w.+-]+)*;base64,([A-Za-z0-9+/]{%d,}={0,2})"
    % DATA_URI_LENGTH
)


def compact(value: Any) -> bytes:
    """Write a value at its exact size: what orjson returns keeps 4 KB alive, however short."""
    return bytes(memoryview(orjson.dumps(value)))


def cut(encoded: bytes, max_bytes: int) -> bytes:
    """Return one JSON value in at most `max_bytes`; an object stays an object.

    What was left out is named beside what is kept: its size in bytes of JSON and its SHA-256.
    Below 200 bytes there is no room for that, and nothing but an empty value comes back.
    """
    return _cut(encoded, max_bytes, LEVELS)


def _cut(encoded: bytes, max_bytes: int, levels: int) -> bytes:
    if len(encoded) <= max_bytes:
        return encoded
    first = encoded[:1]
    if max_bytes < SMALLEST:
        return b"{}" if first == b"{" else b"[]" if first == b"[" else b'""'
    note: dict[str, Any] = {"bytes": len(encoded), "sha256": sha256(encoded).hexdigest()}
    if first == b'"':
        return _text(encoded, note, max_bytes)
    if first not in (b"{", b"[") or levels == 0 or len(encoded) > LARGEST:
        return _beginning(encoded, note, max_bytes)
    value: Any = orjson.loads(encoded)
    if first == b"{":
        if CUT in value:  # cut before, or a member of the program's: no key may come twice
            value[f"{CUT} (earlier)"] = value.pop(CUT)
        keys = [compact(key) + b":" for key in value]
        kept, left_out = _fit(keys, list(value.values()), max_bytes - SMALLEST, levels)
        marker = b'"%b":%b' % (CUT.encode(), _marker(note, left_out))
        return b"{%b}" % b",".join([*kept, marker])
    kept, left_out = _fit([b""] * len(value), value, max_bytes - SMALLEST, levels)
    return b"[%b]" % b",".join([*kept, b'{"%b":%b}' % (CUT.encode(), _marker(note, left_out))])


def _marker(note: dict[str, Any], left_out: int) -> bytes:
    return orjson.dumps({**note, "left_out": left_out} if left_out else note)


def _fit(heads: list[bytes], values: list[Any], room: int, levels: int) -> tuple[list[bytes], int]:
    """Return the members that fit into `room` bytes, the largest shortened; and how many do not."""
    parts = [compact(value) for value in values]
    # the share every part may have: what small ones do not need goes to the large ones
    share, free = 0, room - sum(len(head) + 1 for head in heads)
    for done, size in enumerate(sorted(map(len, parts))):
        share = free // (len(parts) - done)
        if size > share:
            break
        free -= size
    share = max(share, SMALLEST)
    kept: list[bytes] = []
    for head, part in zip(heads, parts, strict=True):
        member = head + (part if len(part) <= share else _cut(part, share, levels - 1))
        if len(member) + 1 > room:
            break
        room -= len(member) + 1
        kept.append(member)
    return kept, len(parts) - len(kept)


def _text(encoded: bytes, note: dict[str, Any], max_bytes: int) -> bytes:
    head = encoded[: max_bytes - SMALLEST + 1]
    # an escape or a character in several bytes may have been cut through: at most 12 bytes of them
    for back in range(13):
        piece = head[: len(head) - back] + b'"'
        try:
            orjson.loads(piece)
        except orjson.JSONDecodeError:
            continue
        marker = orjson.dumps(note)
        return b'{"__type__":"builtins.str","%b":%b,"head":%b}' % (CUT.encode(), marker, piece)
    return b'""'


def _beginning(encoded: bytes, note: dict[str, Any], max_bytes: int) -> bytes:
    kind = {b"{": b"", b"[": b'"__type__":"builtins.list",'}.get(
        encoded[:1], b'"__type__":"builtins.float",'
    )
    # written as text every byte may become two
    head = encoded[: (max_bytes - SMALLEST) // 2].decode("utf-8", "ignore")
    marker = orjson.dumps(note)
    return b'{%b"%b":%b,"head":%b}' % (kind, CUT.encode(), marker, orjson.dumps(head))


def without_data_uris(encoded: bytes) -> bytes:
    """Return JSON with each long data URI in it replaced by media type, size and SHA-256."""
    return _DATA_URI.sub(_named, encoded)


def _named(found: re.Match[bytes]) -> bytes:
    media_type, text = found.groups()
    try:
        content = a2b_base64(text)
    except Error:  # no base64 after all
        content = text
    digest = sha256(content).hexdigest().encode()
    return b"<data:%b bytes=%d sha256=%b>" % (media_type, len(content), digest)
