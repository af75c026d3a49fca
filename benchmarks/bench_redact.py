"""What does redaction cost, by size of the payload?

Clean text is the Python language reference in chat messages, which speaks of passwords and tokens
here and there; code is the standard library. Beside it the same with one secret, which must be
masked; records as a database returns them; and nothing but places that look like a secret, the
worst there is. `one re` is a single regular expression of the same needles, ignoring case, as a
search in place of the automaton. Figures in µs a call with the call itself, and by KB.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from inspect import getsource
from pydoc_data.topics import topics
from typing import Any

import measure
import orjson

SECRET = "sk-proj-abcDEF1234567890abcdefgh"  # noqa: S105 - made up
KB = 1024


def messages(text: str, size: int) -> bytes:
    """Return chat messages of about `size` bytes of JSON."""
    found = [
        {"role": "user", "content": text[at : at + min(size, 2000)]} for at in range(0, size, 2000)
    ]
    return orjson.dumps({"messages": found})


def payloads() -> dict[str, bytes]:
    """Return what is masked, by name."""
    import argparse
    import typing

    prose = "\n".join(topics.values())
    code = getsource(argparse) + getsource(typing)
    order = {"id": "A7-113", "amount": 12.5, "at": 1732500000000, "mail": "ann@example.com"}
    small = {"question": "What is the weather in Paris on a Monday?", "k": 5}
    answer = {"answer": "It will be sunny, with a light breeze in the afternoon, clouds at night"}
    secret = messages(prose, 100 * KB)
    middle = secret.index(b" ", len(secret) // 2)
    return {
        "small": orjson.dumps({**small, **answer}),
        "1 KB": messages(prose, KB),
        "10 KB": messages(prose, 10 * KB),
        "100 KB": messages(prose, 100 * KB),
        "100 KB of code": messages(code, 100 * KB),
        "100 KB of records": orjson.dumps({"rows": [order] * 1300}),
        "100 KB with a secret": b"%b %b%b" % (secret[:middle], SECRET.encode(), secret[middle:]),
        "100 KB of `token: `": orjson.dumps("token: " * (100 * KB // 7)),
        "100 KB of `password=a1b2 `": orjson.dumps("password=a1b2 " * (100 * KB // 14)),
    }


def run() -> dict[str, dict[str, float]]:
    """Measure each payload in this process."""
    from tracer.redact import Redactor  # an import of its own: the parent may have no tracer
    from tracer.rules import KEY_NEEDLES, RULES

    redact = Redactor()
    needles = {*KEY_NEEDLES, *(needle for rule in RULES for needle in rule.needles)}
    one_re = re.compile(b"|".join(re.escape(n.encode()) for n in needles), re.IGNORECASE)
    found: dict[str, dict[str, float]] = {}
    for name, payload in payloads().items():
        masked = redact(payload)
        if "secret" in name and (SECRET.encode() in masked or b"[redacted:openai]" not in masked):
            raise RuntimeError("the secret was not masked")

        def calls(function: Callable[[bytes], Any], payload: bytes = payload) -> Any:
            def block(times: int) -> None:
                for _ in range(times):
                    function(payload)

            return block

        def nothing(encoded: bytes) -> bytes:
            return encoded

        size = max(1, 200_000 // len(payload))
        variants = {"redact": calls(redact), "nothing": calls(nothing)}
        if len(payload) <= 11 * KB:
            variants["one re"] = calls(one_re.search)
        taken = measure.blocks(variants, 31, size)
        cost = taken["redact"][0] - taken["nothing"][0]
        found[name] = {"µs": cost, "µs/KB": cost / len(payload) * KB}
        if "one re" in taken:
            found[name]["one re, µs"] = taken["one re"][0] - taken["nothing"][0]
    return found


def main() -> None:
    """Run in fresh processes, or be one of them."""
    options = measure.arguments(str(__doc__), rounds=9).parse_args()
    if options.child:
        sys.stdout.write(json.dumps(run()))
        return
    number = options.rounds or (3 if options.quick else 9)
    turns = measure.rounds(
        ["redact"], number, lambda name: measure.child(options.tree, __file__, "--child", name)
    )["redact"]
    rows = {
        row: {
            column: measure.summary([turn[row][column] for turn in turns])
            for column in turns[0][row]
        }
        for row in turns[0]
    }
    measure.table("redaction, defaults", rows)
    measure.publish(options, str(__doc__).partition("\n")[0], rows)


if __name__ == "__main__":
    main()
