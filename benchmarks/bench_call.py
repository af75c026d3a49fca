"""What does a traced call cost its caller? Per form, payload and state, in µs above the plain one.

A figure is the median block of calls, the unwrapped function subtracted. The limit runs in every
process beside the variant, block by block, besides having processes of its own. `D collector`
sends to the real collector, everything else to sink.py.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

import measure
import variants

QUESTION = "What is the tallest mountain of Austria?"
ANSWER = {
    "answer": "The Grossglockner is the tallest mountain of Austria, 3,798 metres above the sea"
}
MESSAGES = [
    {"role": "user", "content": f"{n}: " + "tell me more, please.\n" * 46} for n in range(97)
]
BURST, PAUSE = 100, 0.001  # single calls come in bursts, so that the background gets its turn
FORMS = ("sync", "async", "context manager", "nested, per span", "100 KB")
START = 5.0  # seconds whose tail is reported apart

assert (len(QUESTION), len(ANSWER["answer"])) == (40, 80)
Figures = dict[str, float]


def answer(question: str, k: int) -> dict[str, str]:
    """Return at once: what is left of a call is what the wrapper costs."""
    return ANSWER


async def answer_async(question: str, k: int) -> dict[str, str]:
    """Do the same as a coroutine function."""
    return ANSWER


def answer_long(messages: list[dict[str, str]], k: int) -> dict[str, str]:
    """Take the 100 KB payload."""
    return ANSWER


def _sync(call: Callable[..., Any], size: int) -> None:
    for _ in range(size):
        call(QUESTION, k=5)


def _long(call: Callable[..., Any], size: int) -> None:
    for _ in range(size):
        call(MESSAGES, k=5)


def _async(call: Callable[..., Any], size: int) -> None:
    coroutine = _repeat(call, size)
    try:
        coroutine.send(None)  # nothing in it ever waits: no event loop in the figure
    except StopIteration:
        return


async def _repeat(call: Callable[..., Any], size: int) -> None:
    for _ in range(size):
        await call(QUESTION, k=5)


def _blocks(variant: variants.Variant, size: int) -> None:
    block = variant.block
    for _ in range(size):
        with block("answer", {"question": QUESTION, "k": 5}) as span:
            span.set(outputs=ANSWER)


def _nested(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[int], None]:
    """Return what makes five calls a round: one that calls two, one of which calls two."""

    def leaf(question: str, k: int) -> dict[str, str]:
        return ANSWER

    leaf = wrap(leaf)

    def branch(question: str, k: int) -> dict[str, str]:
        leaf(question, k=k)
        return leaf(question, k=k)

    branch = wrap(branch)

    def root(question: str, k: int) -> dict[str, str]:
        leaf(question, k=k)
        return branch(question, k=k)

    root = wrap(root)

    def run(size: int) -> None:
        for _ in range(size // 5):
            root(QUESTION, k=5)

    return run


def forms(variant: variants.Variant, beside: variants.Limit, scale: int) -> dict[str, Figures]:
    """Measure each form of a call, the unwrapped one and the limit, block by block."""
    found = {}
    for form, number, size in (*((form, 100, 100) for form in FORMS[:4]), (FORMS[4], 20, 5)):
        runs = {"variant": _run(form, variant), "limit": _run(form, beside)}
        if form != "context manager":
            runs["plain"] = _run(form, variants.Plain())
        for run in runs.values():
            run(size)
        variant.settle()
        costs = measure.blocks(runs, number * scale, size)
        variant.settle()
        beside.forget()
        plain = costs.get("plain", (0.0, 0.0))
        own, limit = costs["variant"], costs["limit"]
        found[form] = {
            "median": own[0] - plain[0],
            "sustained": own[1] - plain[1],
            "times limit": (own[0] - plain[0]) / (limit[0] - plain[0]),
        }
    return found


def _run(form: str, variant: variants.Variant) -> Callable[[int], None]:
    if form == "sync":
        return partial(_sync, variant.traced(answer))
    if form == "async":
        return partial(_async, variant.traced_async(answer_async))
    if form == "context manager":
        return partial(_blocks, variant)
    if form == "100 KB":
        return partial(_long, variant.traced(answer_long))
    return _nested(variant.traced)


def singles(variant: variants.Variant, seconds: float) -> dict[str, Any]:
    """Time single calls while the background works through a backlog."""
    call, clock = variant.traced(answer), time.perf_counter_ns
    _sync(call, 5000)
    early, late = array("q"), array("q")
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        taken = early if passed < START else late
        for _ in range(BURST):
            before = clock()
            call(QUESTION, k=5)
            taken.append(clock() - before)
        time.sleep(PAUSE)
    variant.settle()
    found = {"first 5 s": measure.percentiles(early)}
    return {**found, "after": measure.percentiles(late)} if late else found


def sessions(variant: variants.Variant) -> Figures:
    """Measure entering and leaving a session in which nothing is recorded."""

    def run(size: int) -> None:
        for _ in range(size):
            with variant.session():
                pass

    median, mean = measure.blocks({"": run}, 20, 10)[""]
    variant.settle()
    return {"median": median, "sustained": mean}


def run_child(name: str, url: str, *, quick: bool) -> dict[str, Any]:
    """Measure everything about one variant in this process."""
    variant = variants.make(name.removesuffix(" collector"), url)
    found: dict[str, Any] = {"forms": forms(variant, variants.Limit(url), 1 if quick else 4)}
    if name != "off":
        found["singles"] = singles(variant, 1.0 if quick else START + 2)
        found["forms"]["session"] = sessions(variant)
    return found


def show(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Write the tables; return the same as data."""
    figures: dict[str, Any] = {}
    titles = {
        "median": "µs a call above the plain one",
        "times limit": "times the limit, measured in the same process block by block",
        "sustained": "µs a call above the plain one, with what the background takes",
    }
    for kind, title in titles.items():
        figures[title] = {
            form: {
                name: measure.summary([turn["forms"][form][kind] for turn in turns])
                for name, turns in found.items()
                if kind in turns[0]["forms"].get(form, {})
            }
            for form in (*FORMS, "session")
            if form in found["D"][0]["forms"] and kind in found["D"][0]["forms"][form]
        }
        measure.table(title, figures[title])
    for part in ("first 5 s", "after"):
        rows = {
            name: {
                place: measure.summary([turn["singles"][part][place] for turn in turns])
                for place in turns[0]["singles"][part]
            }
            for name, turns in found.items()
            if part in turns[0].get("singles", {})
        }
        if rows:
            figures[f"single calls, µs, {part}"] = rows
            measure.table(f"single calls beside a busy background, µs, {part}", rows, 1)
    return figures


def main() -> None:
    """Run all variants alternately, or be one of them."""
    parser = measure.arguments(str(__doc__), rounds=5)
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(json.dumps(run_child(options.child, options.url, quick=options.quick)))
        return
    number = options.rounds or (3 if options.quick else 5)
    quick = ["--quick"] if options.quick else []
    with measure.sink() as cheap, measure.collector(options.tree) as (real, _):

        def run(name: str) -> dict[str, Any]:
            url = real if name.endswith("collector") else cheap
            return measure.child(options.tree, __file__, "--child", name, "--url", url, *quick)

        found = measure.rounds((*variants.NAMES, "D collector"), number, run)
    measure.publish(options, str(__doc__).partition("\n")[0], show(found))


if __name__ == "__main__":
    main()
