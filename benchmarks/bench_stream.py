"""What does a streamed item cost? Per item of a generator, in ns above the undecorated one.

Streams are long, so that opening and closing one is spread over many items; both variants run in
one process, stream by stream.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import measure
import variants

ITEMS = 2000  # of one stream
KINDS: dict[str, Any] = {
    "text of 20 characters": "twenty characters...",
    "object of two members": {"index": 0, "delta": "some words"},
}


def _streams(item: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def stream() -> Iterator[Any]:
        for _ in range(ITEMS):
            yield item

    async def stream_async() -> AsyncIterator[Any]:
        for _ in range(ITEMS):
            yield item

    return stream, stream_async


def _consume(stream: Callable[[], Iterator[Any]], size: int) -> None:
    for _ in range(size):
        for _ in stream():
            pass


def _consume_async(stream: Callable[[], AsyncIterator[Any]], size: int) -> None:
    async def consume() -> None:
        async for _ in stream():
            pass

    for _ in range(size):
        try:
            consume().send(None)  # nothing in it ever waits: no event loop in the figure
        except StopIteration:
            continue


def run_child(url: str, *, quick: bool) -> dict[str, float]:
    """Measure both kinds of generators for each kind of item."""
    variant = variants.make("D", url)
    found = {}
    for kind, item in KINDS.items():
        stream, stream_async = _streams(item)
        forms = {
            "generator": (_consume, stream, variant.traced(stream)),
            "async generator": (_consume_async, stream_async, variant.traced(stream_async)),
        }
        for form, (consume, plain, traced) in forms.items():

            def run(size: int, consume: Any = consume, traced: Any = traced) -> None:
                consume(traced, size)

            def run_plain(size: int, consume: Any = consume, plain: Any = plain) -> None:
                consume(plain, size)

            runs = {"traced": run, "plain": run_plain}
            costs = measure.blocks(runs, 40 if quick else 150, 1)
            variant.settle()
            above = costs["traced"][0] - costs["plain"][0]
            found[f"{form}, {kind}"] = above / ITEMS * 1e3
    return found


def main() -> None:
    """Run fresh processes, or be one of them."""
    options = measure.arguments(str(__doc__), rounds=5).parse_args()
    if options.child:
        sys.stdout.write(json.dumps(run_child(options.url, quick=options.quick)))
        return
    number = options.rounds or (3 if options.quick else 5)
    quick = ["--quick"] if options.quick else []
    with measure.sink() as url:

        def run(name: str) -> dict[str, Any]:
            return measure.child(options.tree, __file__, "--child", name, "--url", url, *quick)

        found = measure.rounds(("D",), number, run)["D"]
    rows = {row: {"": measure.summary([turn[row] for turn in found])} for row in found[0]}
    measure.table("ns an item above the plain generator", rows, 0)
    measure.publish(options, str(__doc__).partition("\n")[0], rows)


if __name__ == "__main__":
    main()
