"""One search over bytes for everything that announces a secret, and a closer look where one does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import ahocorasick_rs

from tracer.errors import ConfigError
from tracer.keynames import SECRET, judge, words_of
from tracer.namedvalues import named_value, names_something
from tracer.rules import (
    FOLD,
    KEY_NEEDLES,
    MASK,
    RULES,
    Rule,
    mask_of,
    matched,
    url_passwords,
)

__all__ = ["Hits", "Scan", "Span"]

BUCKETS = 8
NAME_LENGTH = 100  # characters of a name that are judged: its end decides

Span = tuple[int, int, str]  # where a secret begins and ends, and the text put there
Hits = list[tuple[int, int, int]]  # number of a needle, where it begins and ends


class Scan:
    """The rules, the user's names and patterns, and the search for where they may apply."""

    def __init__(self, keys: Iterable[str], patterns: Iterable[str | re.Pattern[str]]) -> None:
        """Prepare the search.

        Raises: ConfigError: names the key or pattern that is none.
        """
        self._own = frozenset(_checked_keys(keys))
        self.patterns = tuple(_checked_patterns(patterns))
        rules: dict[str, list[Rule | None]] = {}  # by needle; None: the name of a secret
        for rule in RULES:
            for needle in rule.needles:
                rules.setdefault(needle, []).append(rule)
        for needle in (*KEY_NEEDLES, *_needles(self._own)):
            rules.setdefault(needle, []).append(None)
        needles = _dealt(rules)
        self._rules = [rules[needle] for needle in needles]
        # a user's names may overlap anything, and then all matches are needed
        kind = ahocorasick_rs.MatchKind
        found = ahocorasick_rs.BytesAhoCorasick(
            [needle.encode() for needle in needles],
            matchkind=kind.Standard if self._own else kind.LeftmostFirst,
        ).find_matches_as_indexes
        self.find: Callable[[bytes], Hits] = (
            (lambda folded: found(folded, overlapping=True)) if self._own else found
        )

    def verdict(self, name: str) -> int:
        """Tell whether `name` is one of a secret: NO, UNSURE or SECRET."""
        return SECRET if self._own and self.owns(name) else judge(name[-NAME_LENGTH:])

    def owns(self, name: str) -> bool:
        """Tell whether `name` ends in one of the user's."""
        words = tuple(words_of(name[-NAME_LENGTH:]))
        return any(words[-len(own) :] == own for own in self._own)

    def spans(self, raw: bytes) -> list[Span]:
        """Return the secrets in a text, in order and apart from each other.

        Args:
            raw: the text's UTF-8 with a blank in front, for the needles that begin with one.
        """
        found: list[Span] = []
        folded = raw.translate(FOLD)
        done = 0
        for number, start, end in self.find(folded):
            if start < done:
                continue
            for rule in self._rules[number]:
                if rule is None:
                    span = named_value(raw, folded, start, end, self.verdict)
                else:
                    span = matched(rule, raw, start)
                if span is not None:
                    found.append((*span[:2], mask_of(span[2]) if span[2] else MASK))
                    done = span[1]
                    break
        found += [(*span, mask_of("url_password")) for span in url_passwords(raw)]
        return _apart(found) if found else found

    def suspicious(self, raw: bytes) -> bool:
        """Tell whether JSON is worth decoding."""
        folded = raw.translate(FOLD)
        return self.suspects(raw, folded, self.find(folded))

    def suspects(self, encoded: bytes, folded: bytes, hits: Hits) -> bool:
        """Tell whether the JSON is worth decoding: no rule may find there what this does not."""
        for number, start, end in hits:
            for rule in self._rules[number]:
                if rule is None:
                    if names_something(encoded, folded, start, end, self.verdict):
                        return True
                elif matched(rule, encoded, start) is not None:
                    return True
        return any(url_passwords(encoded))


def _dealt(needles: Iterable[str]) -> list[str]:
    """Order needles so that those alike share a bucket.

    The vector search puts number i into bucket i modulo 8 (aho-corasick 1.1), and looks closer
    wherever 4 bytes may begin one of a bucket: on prose this order takes half the time of others.
    """
    alike = sorted(needles, key=lambda needle: needle[1:4] + needle[0])
    each = -(-len(alike) // BUCKETS)
    return [needle for at in range(each) for needle in alike[at::each]]


def _apart(found: list[Span]) -> list[Span]:
    """Sort spans, and join those that overlap: the mask of the first stands for both."""
    joined: list[Span] = []
    for start, end, shown in sorted(found):
        if joined and start < joined[-1][1]:
            first, last, kept = joined[-1]
            joined[-1] = (first, max(last, end), kept)
        else:
            joined.append((start, end, shown))
    return joined


def _checked_keys(keys: Iterable[str]) -> list[tuple[str, ...]]:
    if isinstance(keys, str):
        raise ConfigError("redact_keys: must be a list of names, not text")
    found: list[tuple[str, ...]] = []
    for at, key in enumerate(keys):
        words = tuple(words_of(key)) if isinstance(cast(Any, key), str) else ()
        if len("".join(words)) < 3:
            raise ConfigError(
                f"redact_keys[{at}]: must be a name with at least 3 ASCII letters or digits, "
                f"not {key!r}"
            )
        found.append(words)
    return found


def _needles(own: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield the folded spellings of the user's names."""
    for words in own:
        for between in ("-", " ", "", "."):
            yield between.join(words).encode().translate(FOLD).decode()


def _checked_patterns(patterns: Iterable[str | re.Pattern[str]]) -> list[re.Pattern[str]]:
    if isinstance(patterns, str | re.Pattern):
        raise ConfigError("redact_patterns: must be a list of regular expressions, not one alone")
    found: list[re.Pattern[str]] = []
    for at, pattern in enumerate(patterns):
        where = f"redact_patterns[{at}]"
        try:
            compiled = re.compile(pattern)
        except (re.error, TypeError, OverflowError, RecursionError) as error:
            raise ConfigError(f"{where}: is no regular expression: {error}") from None
        if not isinstance(cast(Any, compiled.pattern), str):
            raise ConfigError(f"{where}: must be a pattern of text, not of bytes")
        if compiled.search("") is not None:
            raise ConfigError(f"{where}: matches the empty text, so it would match everywhere")
        found.append(compiled)
    return found
