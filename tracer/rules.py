"""What secrets look like: for each kind the texts that announce it, and the pattern it must match.

A **needle** is looked for in folded bytes (`FOLD`): lower case, every digit `0`, `_` as `-`, and
all but letters, digits and `-./@` as a blank. One search finds them all; a pattern is tried only
where a needle stands, so that no text, however made, is read more than a few times.

Needles have at least 4 bytes and are at most 64: beyond, the search of `ahocorasick_rs` falls back
from vectors to an automaton and takes three times as long. Those of two rules overlap by one byte at
most, since the search reports only the first of two that do; so much is no matter, for a secret does
not begin with the last letter of a word.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = [
    "FOLD",
    "KEY_NEEDLES",
    "MASK",
    "MASKED",
    "RULES",
    "Rule",
    "has_digits",
    "looks_made",
    "mask_of",
    "matched",
    "url_passwords",
]

MASK = "[redacted]"  # for a value under a secret name; a pattern's match is told with its kind
_DIGIT = re.compile(rb"[0-9]")
MASKED = re.compile(rb"\[redacted(?::\w+)?\]")


def _folded(byte: int) -> int:
    text = chr(byte)
    if not text.isascii():
        return ord(" ")
    if text.isdigit():
        return ord("0")
    if text.isalpha():
        return ord(text.lower())
    return {"_": ord("-"), "-": ord("-")}.get(text, byte if text in "./@" else ord(" "))


FOLD = bytes(_folded(byte) for byte in range(256))

# Where the name of a secret may stand; `keynames.judge` has the last word about the whole name.
KEY_NEEDLES = (
    *("pass", "secret", "credential", "authorization", "token", "cookie", "bearer"),
    *("-key", "apikey", "api key", "privatekey", "private key", "accesskey", "accountkey"),
    *(" pwd", "-pwd", "npwd", " ssn", "-ssn", " cvv", "-cvv", " cvc", "-cvc"),
    *("cardnumber", "card-number", "card number"),
)


class Rule(NamedTuple):
    """A kind of secret: the pattern's last named group is what is masked, its name the kind."""

    needles: tuple[str, ...]
    pattern: re.Pattern[bytes]  # matched where a needle begins, a byte early if that is a blank
    check: Callable[[bytes], bool] | None = None


def mask_of(kind: str) -> str:
    """Return what is put in the place of a match of the rule `kind`."""
    return f"[redacted:{kind}]"


def looks_made(value: bytes) -> bool:
    """Tell whether a text looks made by a machine: letters and digits, or letters of both cases."""
    if has_digits(value):
        return value.lower() != value.upper()
    return value.lower() != value and value.upper() != value and not value.istitle()


def has_digits(value: bytes) -> bool:
    """Tell whether there is a digit; at once also in a megabyte."""
    return _DIGIT.search(value) is not None


def _is_basic(value: bytes) -> bool:
    try:
        return b":" in b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except ValueError:
        return False


def _is_card(value: bytes) -> bool:
    digits = [c - 48 for c in value if c >= 48]
    doubled = (d * 2 - 9 if d > 4 else d * 2 for d in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1


def _holds_base64(value: bytes) -> bool:
    return re.search(rb"[A-Za-z0-9+/]{16}", value) is not None


# Where a match may fail at the end of a long run, it has to begin where the run does: else a run of
# such beginnings would be read to its end from each of them.
# Not in the middle of a word, but behind an escaped line break: these are bytes of JSON at first.
_START = rb"(?s:.)?(?:(?<![A-Za-z0-9_-])|(?<=\\[nrtbf]))"
_END = rb"(?![A-Za-z0-9])"
# By length and first digits (ISO/IEC 7812): Visa, Mastercard, Discover, JCB, UnionPay, Amex, Diners
_CARD = rb"""
    (?: (?: 4[0-9]{15}(?:[0-9]{3})? | (?:5[1-5]|2[2-7])[0-9]{14}
          | (?:6011|64[4-9][0-9]|65[0-9]{2}|35[2-8][0-9])[0-9]{12} | 62[0-9]{14,17}
          | 3[47][0-9]{13} | 3(?:0[0-5]|[68][0-9])[0-9]{11} )
      | (?:4[0-9]{3}|5[1-5][0-9]{2}|2[2-7][0-9]{2}|6[0-9]{3}|35[0-9]{2})
            ([ -])[0-9]{4}\2[0-9]{4}\2[0-9]{4}(?:\2[0-9]{3})?
      | 3[47][0-9]{2}([ -])[0-9]{6}\3[0-9]{5}
    ) (?![A-Za-z0-9]|[.-][0-9])"""


def _rule(
    pattern: bytes, *needles: str, check: Callable[[bytes], bool] | None = None, flags: int = 0
) -> Rule:
    return Rule(needles, re.compile(pattern, flags), check)


RULES = (
    _rule(
        _START
        + rb"(?:(?P<anthropic>sk-ant-[\w-]{16,})|(?P<stripe>sk_(?:live|test)_[A-Za-z0-9]{10,})"
        rb"|(?P<openai>sk-[\w-]{20,}))",
        *(" sk-", "nsk-"),
        check=looks_made,
    ),
    _rule(rb"(?P<stripe>(?:rk_live_|rk_test_|whsec_)[A-Za-z0-9]{10,})", "rk-live", "whsec-"),
    _rule(rb"(?P<google>AIza[\w-]{30,})", "aiza"),
    _rule(rb"(?P<aws>A[KS]IA[A-Z0-9]{16})" + _END, "akia", "asia"),
    _rule(rb"(?P<github>gh[opusr]_[A-Za-z0-9]{20,})", "ghp-", "gho-", "ghu-", "ghs-", "ghr-"),
    _rule(rb"(?P<github>github_pat_\w{20,})", "github-pat"),
    _rule(rb"(?P<gitlab>glpat-[\w-]{15,})", "glpat"),
    _rule(_START + rb"(?P<slack>xox[abeoprs]-[\w-]{10,})", " xox", "nxox"),
    _rule(_START + rb"(?P<slack>xapp-[\w-]{10,})", "xapp-", check=looks_made),
    _rule(_START + rb"(?P<huggingface>hf_[A-Za-z0-9]{30,})", " hf-", "nhf-"),
    _rule(_START + rb"(?P<sendgrid>SG\.[\w-]{16,}\.[\w-]{16,})", " sg.", "nsg."),
    _rule(rb"(?P<npm>npm_[A-Za-z0-9]{30,})", "npm-"),
    _rule(rb"(?P<pypi>pypi-AgE[\w-]{30,})", "pypi-age"),
    _rule(_START + rb"(?P<honeyhive>hh_[\w-]{16,})", " hh-", "nhh-", check=looks_made),
    _rule(rb"(?P<langsmith>lsv2_[a-z]{2}_\w{20,})", "lsv0-"),
    _rule(
        _START + rb"(?P<jwt>eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*(?:\.[\w-]+){0,2})",
        *("eyjh", "eyj0", "eyjr"),
    ),
    _rule(
        rb"PRIVATE[ ]KEY(?:[ ]BLOCK)?-----"
        rb"(?P<private_key>(?:[A-Za-z0-9+/=:,.\s]|\\+[nr]|-(?!----))+)",
        "private key",
        check=_holds_base64,
    ),
    _rule(rb"(?i:bearer)(?:\s|%20){1,4}(?P<bearer>[\w.~+/=-]{16,})", "bearer", check=looks_made),
    _rule(rb"(?i:basic)\s{1,4}(?P<basic>[A-Za-z0-9+/]{8,}={0,2})", "basic", check=_is_basic),
    _rule(
        rb"[ ?&]?(?i:signature|sig)=(?P<signature>[\w%+/-]{16,}={0,2})",
        *("signature", " sig "),
        check=has_digits,
    ),
    _rule(
        rb"(?s:.)(?P<card>" + _CARD + rb")",
        *(" 00000000000000", "n00000000000000"),
        check=_is_card,
        flags=re.VERBOSE,
    ),
    _rule(  # groups of digits overlap: the card may begin in a later one
        rb"(?s:.{0,40}?)(?:(?<![A-Za-z0-9.])|(?<=\\[nrt]))(?P<card>" + _CARD + rb")",
        *("0000 0000 0000", "0000-0000-0000", "0000 000000 0000", "0000-000000-0000"),
        check=_is_card,
        flags=re.VERBOSE,
    ),
)

_URL_PASSWORD = re.compile(
    rb"://[^\s/?#\"'\\@:<>]{0,200}:(?P<url_password>[^\s/?#\"'\\<>]{1,200})@(?=[\w\[])"
)


def url_passwords(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield where passwords in URLs are; they may hold an `@` themselves.

    No rule: a needle as short as `://` makes the search for all of them several times as dear.
    `find` takes a tenth of what `finditer` does (3.13).
    """
    if raw.find(b"@") < 0:
        return
    at = raw.find(b"://")
    while at >= 0:
        match = _URL_PASSWORD.match(raw, at)
        if match is not None and not MASKED.fullmatch(match[1]):
            yield match.span(1)
        at = raw.find(b"://", at + 3)


def matched(rule: Rule, raw: bytes, start: int) -> tuple[int, int, str] | None:
    """Return where a rule matches at a needle, and the kind of secret; None: it does not."""
    match = rule.pattern.match(raw, start)
    if match is None or match.lastgroup is None:
        return None
    if rule.check is not None and not rule.check(match[match.lastgroup]):
        return None
    return (*match.span(match.lastgroup), match.lastgroup)
