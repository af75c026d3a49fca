"""What becomes of many events recorded at once, then flushed: lost, CPU, rate, bytes, memory?

Into sink.py, which parses and counts distinct ids, and into the real collector. The limit appends
while the caller runs and posts the same batches by hand afterwards; it also runs in every process
just before the variant, for the ratio. The unwrapped function is subtracted from the caller's time
and the CPU; `acknowledged events/s` runs from the first call to the last answer. Bytes in the
journal come from a tracer in local mode.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import measure
import variants

EVENTS = 50_000
JOURNALED = 5_000  # events whose bytes on disk are counted
SEGMENT_HEADER = 64
COLLECTED = " collector"
VARIANTS = ("limit", "D", "M", "opentelemetry-sdk")
RATIOS = ("caller µs/event", "process CPU µs/event", "acknowledged events/s")
WARMING = 10  # events sent before, so that session, connection and first segment are there

_words = "what is the answer of Austria mountain see river tall long city and".split()  # noqa: SIM905
_random = Random(1)  # noqa: S311 - made-up text; payloads that differ, or gzip flatters the wire


def _text(length: int) -> str:
    return " ".join(_random.choices(_words, k=length))[:length]


ANSWERS = {_text(40): {"answer": _text(80)} for _ in range(1000)}
QUESTIONS = list(ANSWERS)


def answer(question: str, k: int) -> dict[str, str]:
    """Return at once."""
    return ANSWERS[question]


def call(func: Any, number: int) -> None:
    """Call with the small payload."""
    for question in islice(cycle(QUESTIONS), number):
        func(question, k=5)


def run_child(name: str, url: str, number: int) -> dict[str, float]:
    """Record `number` events as fast as the caller can, then get rid of them; the limit first."""
    began, used = time.perf_counter(), time.process_time()
    call(answer, number)
    plain = time.perf_counter() - began, time.process_time() - used
    limit = run(variants.make("limit", url), number, plain)
    if name == "limit":
        return limit
    variant = variants.make(name, url)
    asked("DELETE", url)  # what the limit sent; the collector knows no such path
    found = run(variant, number, plain)
    return {**found, **{f"{row}, times limit": found[row] / limit[row] for row in RATIOS}}


def run(variant: variants.Variant, number: int, plain: tuple[float, float]) -> dict[str, float]:
    """Measure one variant in this process."""
    traced = variant.traced(answer)
    call(traced, WARMING)
    variant.settle()
    memory = measure.anonymous_kib()
    began, used = time.perf_counter(), time.process_time()
    call(traced, number)
    called, held = time.perf_counter() - began, measure.anonymous_kib()
    variant.settle()
    done, cpu = time.perf_counter() - began, time.process_time() - used
    return {
        "caller µs/event": (called - plain[0]) / number * 1e6,
        "process CPU µs/event": (cpu - plain[1]) / number * 1e6,
        "acknowledged events/s": number / done,
        "RSS MB while waiting": (held - memory) / 1024,
        "RSS MB at the end": (measure.anonymous_kib() - memory) / 1024,
    }


def run_journal() -> dict[str, float]:
    """Return the bytes an event takes in the journal, header of the segment left out."""
    import tracer  # an import of its own: no other child pays for it

    with tempfile.TemporaryDirectory() as directory:
        tracer.init(local=True, spool_dir=directory, source="dev")
        traced = tracer.tool(answer)
        call(traced, JOURNALED)
        used = sum(
            len(path.read_bytes().rstrip(b"\0")) - SEGMENT_HEADER
            for path in Path(directory).glob("*.segment")
        )
        tracer.shutdown()
    return {"disk bytes/event": used / JOURNALED}


def asked(method: str, url: str) -> dict[str, Any]:
    """Ask the sink what came, or to forget it."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request(method, "/counts")
    answered = connection.getresponse()
    said = answered.read()
    found: dict[str, Any] = json.loads(said) if answered.status == HTTPStatus.OK else {}
    connection.close()
    return found


def stored(database: Path) -> int:
    """Count the events in the collector's database, sessions left out."""
    with closing(sqlite3.connect(database)) as connection:
        (number,) = connection.execute(
            "SELECT count(*) FROM events WHERE event_type != 'session'"
        ).fetchone()
    return int(number)


def main() -> None:
    """Run all variants alternately, or be one of them."""
    parser = measure.arguments(str(__doc__), rounds=5)
    parser.add_argument("--events", type=int, default=EVENTS, help=f"how many ({EVENTS:,})")
    options = parser.parse_args()
    if options.child:
        figures = (
            run_journal()
            if options.child == "journal"
            else run_child(options.child, options.url, options.events)
        )
        sys.stdout.write(json.dumps(figures))
        return
    number = options.rounds or (2 if options.quick else 5)
    events = options.events

    def child(name: str, url: str) -> dict[str, Any]:
        where = ("--url", url, "--events", str(events))
        return measure.child(options.tree, __file__, "--child", name, *where)

    with measure.sink() as cheap, measure.collector(options.tree) as (real, database):

        def turn(name: str) -> dict[str, Any]:
            if name.endswith(COLLECTED):
                before = stored(database)
                found = child(name.removesuffix(COLLECTED), real)
                sent = events + WARMING
                came = stored(database) - before - (0 if name.startswith("limit") else sent)
                return {**found, "lost %": 100 - came / sent * 100}
            asked("DELETE", cheap)
            found = child(name, cheap)
            counts = asked("GET", cheap)
            return {
                **found,
                "lost %": 100 - counts["distinct"] / (events + WARMING) * 100,
                "sent twice": counts["events"] - counts["distinct"],
                "wire bytes/event": counts["wire_bytes"] / counts["events"],
                "body bytes/event": counts["body_bytes"] / counts["events"],
                "gzip bytes/event": counts["gzip_bytes_per_event"],
            }

        names = [*VARIANTS, *(name + COLLECTED for name in VARIANTS[:2])]
        found = measure.rounds(names, number, turn)
    rows = {
        row: {
            name: measure.summary([turn[row] for turn in turns])
            for name, turns in found.items()
            if row in turns[0]
        }
        for row in dict.fromkeys(row for turns in found.values() for row in turns[0])
    }
    journal = measure.child(options.tree, __file__, "--child", "journal")
    rows["disk bytes/event"] = {"D": measure.summary([journal["disk bytes/event"]])}
    measure.table(f"{events:,} events at once, then flush", rows)
    measure.publish(options, str(__doc__).partition("\n")[0], rows)


if __name__ == "__main__":
    main()
