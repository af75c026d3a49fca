"""Values beside the name of a secret, in text: `password=…`, `X-Api-Key: …`, `--token …`.

Prose and source code speak of secrets all the time, `the password: it must be long`,
`login(password=password)`, so a value counts only if it looks like one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tracer.keynames import NO, SECRET, judge, takes_numbers
from tracer.rules import has_digits, looks_made

__all__ = ["UNSURE_LENGTH", "looks_secret", "named_value", "names_something"]

UNSURE_LENGTH = 16  # characters a value under a name such as `token` has if it is a secret
LEFT = 64  # bytes of a name before the needle
Verdict = Callable[[str], int]

_REST = rb"[\w.-]{0,40}(?![\w.-])"  # of a name, behind the needle, all of it
# Of a command line's flag too, if the name begins with `--`.
_BLANK = rb"(?P<blank>[ ]{1,3}(?=[^\s-]))"
_SEPARATED = re.compile(
    rb"(?P<rest>%b)(?:\\*[\"'`]?\]?(?P<sep>[ \t]{0,4}(?::=|=>|[:=])[ \t]{0,4})|%b)"
    % (_REST, _BLANK)
)
# In JSON a name may also be the first of a pair, or the value of `name`: `"authorization",`.
_IN_JSON = re.compile(
    rb"(?P<rest>%b)(?:\\*[\"'`]?\]?[ \t]{0,4}(?::=|=>|[:=,}\]])|%b)" % (_REST, _BLANK)
)
# Up to the quote it began with, however deep that is escaped; else up to what ends a word.
_VALUE = re.compile(
    rb"""(?:(?i:bearer|basic|token|digest|apikey)[ ]+)?
    (?: \\*"(?P<double>(?:[^"\\\n]|\\+[^"\\\n])+)(?:\\*"|\Z)
      | \\*'(?P<single>(?:[^'\\\n]|\\+[^'\\\n])+)(?:\\*'|\Z)
      | `(?P<tick>[^`\n]+)`
      | (?P<bare>[^\s"'`\\,;&<>(){}\[\]|:=]+(?:[:=][^\s"'`\\,;&<>(){}\[\]|:=]+)?={0,2}) )""",
    re.VERBOSE,
)
_COOKIES = re.compile(
    rb"""\\*["']?(?P<cookies>[\w.!%-]{1,100}=[^\r\n"'\\]+)""",
)
_WORDS = re.compile(rb"[A-Za-z_.-]+")  # an identifier, an attribute, a word of prose
_PLACEHOLDER = re.compile(rb"\$\{|\$[A-Z_]+$|%[(s]|[{<]|\[redacted")
_TEMPLATE = re.compile(rb"%[(s]|\{\w*\}")
_BETWEEN = (b" ", b",", b")", b"]", b"}", b";", b"+")
_NOTHING = frozenset((b"none", b"null", b"true", b"false", b"undefined", b"nil", b"string", b"str"))


def names_something(encoded: bytes, folded: bytes, start: int, end: int, verdict: Verdict) -> bool:
    """Tell whether the needle at `start:end` of a JSON is part of a secret's name with a value."""
    after = _IN_JSON.match(encoded, end)
    if after is None:
        return False
    first, name = _name(encoded, folded, start, after.end("rest"))
    return verdict(name) != NO and (after["blank"] is None or encoded.startswith(b"--", first))


def named_value(
    raw: bytes, folded: bytes, start: int, end: int, verdict: Verdict
) -> tuple[int, int, str] | None:
    """Return where the value is whose name holds the needle at `start:end` of a text; None: none."""
    after = _SEPARATED.match(raw, end)
    if after is None:
        return None
    first, name = _name(raw, folded, start, after.end("rest"))
    certain = verdict(name)
    if certain == NO or (after["blank"] is not None and not raw.startswith(b"--", first)):
        return None
    found = name.lower().endswith(("cookie", "cookies")) and _COOKIES.match(raw, after.end())
    found = found or _VALUE.match(raw, after.end())
    if not found or found.lastgroup is None:
        return None
    group = found.lastgroup
    value = found[group]
    if certain != SECRET:
        plausible = looks_secret(value)
    elif group == "cookies":
        plausible = True
    elif group == "bare":
        following = raw[found.end() : found.end() + 1]
        plausible = _plausible(name, after["sep"], value, following)
    else:
        plausible = _plausible_quoted(value)
    return (*found.span(group), "") if plausible else None


def looks_secret(value: bytes) -> bool:
    """Tell whether a value under a name that says little looks like a secret."""
    return len(value) >= UNSURE_LENGTH and len(value.split(None, 1)) == 1 and looks_made(value)


def _name(raw: bytes, folded: bytes, start: int, end: int) -> tuple[int, str]:
    first = max(folded.rfind(b" ", max(start - LEFT, 0), start + 1) + 1, start - LEFT, 0)
    if raw[first - 1 : first] == b"\\" and first < start:  # the n of an escaped line break
        first += 1
    return first, raw[first:end].decode("ascii", "ignore")


def _plausible(name: str, sep: bytes | None, value: bytes, following: bytes) -> bool:
    least = 3 if takes_numbers(name) else 4
    if len(value) < least or _PLACEHOLDER.match(value) or value.upper() == value.lower() == value:
        return len(value) >= least and has_digits(value)
    if not _WORDS.fullmatch(value):
        return following not in (b"(", b"[")
    # words alone: `PASSWORD=hunter` is one, `password: hunter` may be prose
    return (
        sep == b"="
        and following not in (b"(", b"[", b".", b",", b")")
        and b"." not in value
        and value.lower() not in _NOTHING
        and judge(value.decode()) == NO
    )


def _plausible_quoted(value: bytes) -> bool:
    if _PLACEHOLDER.match(value) or _TEMPLATE.search(value):
        return False
    if value.lower() == value.upper() and not has_digits(value):
        return not value.isascii()
    if value[:1] in _BETWEEN:  # from the end of one string to the beginning of the next
        return False
    if value.count(b" ") >= 2 and not has_digits(value):
        return False  # a sentence about it
    return not (value.isascii() and _WORDS.fullmatch(value) and judge(value.decode()) != NO)
