"""Identifiers: version 4 in form, ordered in time, unique without a call to the random source."""

from __future__ import annotations

import os
import time
from itertools import count
from threading import Thread
from uuid import RFC_4122, UUID

import pytest
from programs import run

from tracer.clock import Clock, IdSource, wall_ms

FORK = """
import os
from tracer.clock import IdSource
source = IdSource()
inherited = source.new()
read, write = os.pipe()
if os.fork() == 0:
    source.renew()  # what the after-fork hook does
    os.write(write, source.new().encode())
    os._exit(0)
os.wait()
print(inherited, source.new(), os.read(read, 36).decode())
"""


def test_ids_are_version_4_in_form() -> None:
    source = IdSource()
    for text in (source.new() for _ in range(1000)):
        parsed = UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (4, RFC_4122)


def test_ids_are_unique_over_threads() -> None:
    source = IdSource()
    made: list[list[str]] = [[] for _ in range(8)]

    def draw(into: list[str]) -> None:
        for _ in range(10_000):
            into.append(source.new())

    threads = [Thread(target=draw, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({text for each in made for text in each}) == 80_000


def test_ids_of_one_source_are_ordered_as_they_were_made() -> None:
    source = IdSource()
    made = [source.new() for _ in range(10_000)]
    assert made == sorted(made)


def test_ids_of_a_later_source_sort_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = IdSource().new()
    later = time.time() + 2
    monkeypatch.setattr(time, "time", lambda: later)
    assert earlier < IdSource().new()


def test_the_last_8_bytes_alone_tell_sources_apart() -> None:
    assert len({IdSource().new()[19:] for _ in range(10_000)}) == 10_000


def test_no_id_calls_the_random_source(monkeypatch: pytest.MonkeyPatch) -> None:
    source = IdSource()

    def refuse(_: int) -> bytes:
        raise AssertionError("called")

    monkeypatch.setattr(os, "urandom", refuse)
    assert len({source.new() for _ in range(100)}) == 100


def test_a_used_up_counter_means_a_new_prefix() -> None:
    source = IdSource()
    source._counter = count((1 << 48) - 2)
    made = [source.new() for _ in range(4)]
    assert made[0][:23] == made[1][:23]
    assert made[1].endswith("-ffffffffffff")
    assert made[2][:23] != made[1][:23]
    assert made[2][:23] == made[3][:23]
    assert len({len(text) for text in made}) == 1


def test_the_counter_starts_where_it_lasts() -> None:
    for _ in range(1000):
        assert int(IdSource().new()[24:], 16) < 1 << 47


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_prefix_of_its_own() -> None:
    inherited, parent, child = run(FORK).out.split()
    assert inherited[:23] == parent[:23]
    assert child[:23] != parent[:23]
    assert child[19:] != parent[19:]


def test_the_wall_clock_is_in_unix_milliseconds() -> None:
    before = time.time() * 1000
    found = wall_ms()
    assert before - 1 <= found <= time.time() * 1000
    assert abs(Clock().wall_ns() / 1e6 - found) < 60_000


def test_the_monotonic_clock_never_goes_back() -> None:
    seen = [Clock.monotonic_ns() for _ in range(1000)]
    assert seen == sorted(seen)
