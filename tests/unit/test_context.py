"""The chain of links: what is found, what is restored, what is let go."""

from __future__ import annotations

import asyncio
import gc
import random
from contextvars import copy_context
from threading import Thread

import pytest

from tracer.context import CURRENT, Link, Suppression, innermost_open, nearest, restore
from tracer.spans import Span
from tracer.testing import capture
from tracer.tracer import Tracer

MINE, THEIRS = object(), object()


def chain(*owners: object) -> list[Link]:
    """Open one link below the other, the last one current."""
    links: list[Link] = []
    for owner in owners:
        links.append(Link(owner, links[-1] if links else None))
    CURRENT.set(links[-1])
    return links


@pytest.fixture(autouse=True)
def _nothing_current() -> None:
    CURRENT.set(None)


def test_nothing_is_current_at_first() -> None:
    assert nearest(MINE) is None


def test_the_innermost_open_link_of_an_owner_is_found() -> None:
    outer, _, inner = chain(MINE, THEIRS, MINE)
    assert nearest(MINE) is inner
    inner.ended = True
    assert nearest(MINE) is outer


def test_a_suppression_hides_what_it_was_opened_in() -> None:
    (outer,) = chain(MINE)
    CURRENT.set(inner := Suppression(outer))
    assert nearest(MINE) is inner
    assert nearest(THEIRS) is inner
    inner.ended = True
    assert nearest(MINE) is outer


def test_a_span_inside_a_suppression_counts_for_its_owner_alone() -> None:
    CURRENT.set(hidden := Suppression(None))
    CURRENT.set(inner := Link(MINE, hidden))
    assert nearest(MINE) is inner
    assert nearest(THEIRS) is hidden


def test_an_ended_link_is_never_found() -> None:
    links = chain(MINE, MINE, MINE)
    for link in links:
        link.ended = True
    assert nearest(MINE) is None


def test_what_is_carried_elsewhere_is_open_whoever_owns_it() -> None:
    assert innermost_open() is None
    first, second, third = chain(THEIRS, MINE, THEIRS)
    assert innermost_open() is third
    third.ended = second.ended = True
    assert innermost_open() is first
    first.ended = True
    assert innermost_open() is None


def test_restore_goes_back_to_the_open_link_above() -> None:
    first, second, third = chain(MINE, MINE, MINE)
    third.ended = True
    second.ended = True
    restore(third)
    assert CURRENT.get() is first


def test_restore_leaves_what_somebody_else_made_current() -> None:
    first, second = chain(MINE, MINE)
    first.ended = True
    restore(first)
    assert CURRENT.get() is second


def test_restore_in_another_context_changes_nothing_there() -> None:
    (link,) = chain(MINE)
    elsewhere = copy_context()
    link.ended = True
    restore(link)
    assert CURRENT.get() is None
    assert elsewhere.run(CURRENT.get) is link
    assert elsewhere.run(nearest, MINE) is None


def test_ended_links_are_cut_out_of_the_chain() -> None:
    links = chain(*[MINE] * 100)
    for link in links[1:]:
        link.ended = True
    assert nearest(MINE) is links[0]
    assert links[-1].up is links[0]


def test_threads_that_cut_one_chain_find_the_same_link() -> None:
    links = chain(*[MINE] * 200)
    wrong: list[Link | None] = []

    def look(seed: int) -> None:
        CURRENT.set(links[-1])
        chosen = random.Random(seed)  # noqa: S311 - no secret is made of it
        for _ in range(2000):
            chosen.choice(links[1:]).ended = True
            found = nearest(MINE)
            if found is None or found.up is found:
                wrong.append(found)

    threads = [Thread(target=look, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def spans_alive() -> int:
    gc.collect()
    return sum(type(found) is Span for found in gc.get_objects())


@pytest.mark.parametrize("ends_first", ["before the next begins", "after the next began"])
def test_a_long_chain_of_tasks_keeps_no_span_alive(ends_first: str) -> None:
    async def link(tracer: Tracer, left: int, done: asyncio.Event) -> None:
        with tracer.chain("link"):
            if ends_first == "after the next began":
                following(tracer, left, done)
                await asyncio.sleep(0)  # the next one opens its span below this one
                return
        following(tracer, left, done)

    tasks: set[asyncio.Task[None]] = set()

    def following(tracer: Tracer, left: int, done: asyncio.Event) -> None:
        if left:
            task = asyncio.get_running_loop().create_task(link(tracer, left - 1, done))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            seen.append(spans_alive())
            done.set()

    async def main(tracer: Tracer) -> None:
        done = asyncio.Event()
        following(tracer, 1000, done)
        await asyncio.wait_for(done.wait(), 30)

    before = spans_alive()
    seen: list[int] = []
    with capture() as captured:
        asyncio.run(main(captured.tracer))
    assert len(captured.events) >= 999
    assert seen[0] - before < 10
