"""The two W3C headers as text: made and merged on the way out, parsed on the way in.

Our members of `baggage` are what joins a session; `traceparent` is for whoever else reads it.
Inbound, `hh-session-id`, `hh-session-name` and `hh-parent-id` are all that is looked at, and a
header over the limits is not read at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from tracer.clock import UUID_FORM

__all__ = ["Origin", "Traceparent", "origin_of", "parse_traceparent", "write"]

# https://www.w3.org/TR/baggage/#limits: what every hop must pass on; more may be cut anywhere
MAX_BAGGAGE = 8192  # bytes
MAX_MEMBERS = 64
MAX_NAME = 512  # bytes of a session's name as UTF-8, three times that when encoded

SESSION_ID, SESSION_NAME, PARENT_ID = "hh-session-id", "hh-session-name", "hh-parent-id"
OURS = (SESSION_ID, SESSION_NAME, PARENT_ID)

OWS = " \t"  # what may stand around a member (RFC 9110 §5.6.3), a line break never

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = re.compile(r"[\x20-\x7e]+")


class Origin(NamedTuple):
    """Where the caller stands, in another process; `write` takes the same.

    Attributes:
        session_name: None when it was lost on the way.
        parent_id: None when no span was current there.
        sampled: what was decided there about the session; None when nobody said.
    """

    session_id: str
    session_name: str | None
    parent_id: str | None
    sampled: bool | None


class Traceparent(NamedTuple):
    """The parts of a valid `traceparent`, in hex."""

    trace_id: str
    span_id: str
    sampled: bool


def parse_traceparent(value: str) -> Traceparent | None:
    """Return the parts, or None for what https://www.w3.org/TR/trace-context/ tells to ignore."""
    found = _TRACEPARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    # a higher version may go on behind a dash; ff is none, and version 00 ends with its flags
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Traceparent(trace_id, span_id, bool(int(flags, 16) & 1))


# -- out ---------------------------------------------------------------------------------------


def write(carrier: MutableMapping[str, str], origin: Origin) -> None:
    """Put both headers into `carrier`, under the names it has for them.

    Members of others stay in `baggage`, and ours give way when there is no room. The `traceparent`
    of another trace stays as it is: `tracestate`, which we never touch, belongs to it.
    """
    names = {name.lower(): name for name in carrier}
    baggage, traceparent = names.get("baggage"), names.get("traceparent")
    before = "" if baggage is None else _text(carrier[baggage])
    known = None if traceparent is None else parse_traceparent(_text(carrier[traceparent]))
    merged = _merged(before, origin)

    trace_id = _hex(origin.session_id)
    last_bytes = _hex(origin.parent_id or origin.session_id)[16:]
    ours = f"00-{trace_id}-{last_bytes}-{'00' if origin.sampled is False else '01'}"
    is_ours = known is None or known.trace_id in (trace_id, _hex(_session_in(before)))
    if is_ours and parse_traceparent(ours):  # not for a session whose id is all zeros
        carrier[traceparent or "traceparent"] = ours
    carrier[baggage or "baggage"] = merged


def _merged(before: str, origin: Origin) -> str:
    members = [member.strip(OWS) for member in before.split(",")]
    # what is not printable could end the header: we do not pass it on under our name
    members = [m for m in members if _MEMBER.fullmatch(m) and _name(m) not in OURS]
    ids = [f"{SESSION_ID}={origin.session_id}"]
    if origin.parent_id is not None:
        ids.append(f"{PARENT_ID}={origin.parent_id}")
    for added in (ids, [f"{SESSION_NAME}={_encoded(origin.session_name or '')}"]):
        more = members + added
        if len(more) > MAX_MEMBERS or len(",".join(more)) > MAX_BAGGAGE:
            break
        members = more
    return ",".join(members)


def _encoded(name: str) -> str:
    # all but letters, digits and `_.-~` become %xx: no name can end a member or a header
    cut = name.encode("utf-8", "replace")[:MAX_NAME].decode("utf-8", "ignore")
    return quote(cut, safe="")


def _hex(found: str) -> str:
    return found.replace("-", "").lower()


# -- in ----------------------------------------------------------------------------------------


def origin_of(carrier: Any) -> Origin | None:
    """Return what the headers in `carrier` say; None when they name no session of ours.

    Args:
        carrier: a mapping, or pairs, of header names in any case and values; text or bytes.
    Raises: anything, for a carrier that is neither.
    """
    headers: dict[str, list[str]] = {"baggage": [], "traceparent": []}
    pairs: Iterable[Any] = carrier.items() if hasattr(carrier, "items") else carrier
    for name, value in pairs:
        found = headers.get(_text(name).lower())
        if found is not None:
            found.append(_text(value))
    members = _members(",".join(headers["baggage"]))
    session_id = members.get(SESSION_ID, "").lower()
    if not UUID_FORM.fullmatch(session_id):
        return None
    parent_id: str | None = members.get(PARENT_ID, "").lower()
    if not UUID_FORM.fullmatch(parent_id or ""):
        parent_id = None
    name = _decoded(members.get(SESSION_NAME, ""))
    sampled = None
    if len(headers["traceparent"]) == 1:
        trace = parse_traceparent(headers["traceparent"][0])
        if trace is not None and trace.trace_id == _hex(session_id):
            sampled = trace.sampled  # another trace's flag says nothing about our session
    return Origin(session_id, name, parent_id, sampled)


def _members(baggage: str) -> Mapping[str, str]:
    """Return our members; their properties, behind a semicolon, mean nothing to us."""
    if len(baggage) > MAX_BAGGAGE or baggage.count(",") >= MAX_MEMBERS:
        return {}
    found = (member.partition(";")[0].partition("=") for member in baggage.split(","))
    return {
        name.strip(OWS): value.strip(OWS) for name, _, value in found if name.strip(OWS) in OURS
    }


def _session_in(baggage: str) -> str:
    return _members(baggage).get(SESSION_ID, "")


def _name(member: str) -> str:
    return member.partition("=")[0].strip(OWS)


def _decoded(name: str) -> str | None:
    try:
        return unquote(name, errors="strict") or None
    except UnicodeDecodeError:
        return None


def _text(value: Any) -> str:
    """Return a header's value; bytes as HTTP has them. Raises: TypeError: it is neither."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise TypeError(f"a header is text or bytes, not {type(value).__name__}")
