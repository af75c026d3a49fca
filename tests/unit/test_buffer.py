"""The queue: nothing lost between threads, bounds exact to one, books that balance."""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from hypothesis.strategies import booleans, integers

from tracer.buffer import Buffer
from tracer.errors import SpoolError, SpoolFullError
from tracer.frame import DELIVERED, DROPPED, EVENT, MAX_PAYLOAD, OPEN, SESSION, UPDATE, build_frame
from tracer.memory import PrivateMemory, SegmentSource
from tracer.segment import Frame, Segment
from tracer.spool import Spool
from tracer.writer import FIRST_SIZE, FULL_SIZE, NEVER

ID = bytes(16)
MANY = 1 << 30


def memory(max_events: int = MANY, max_bytes: int = MANY) -> Buffer:
    return Buffer(PrivateMemory(max_bytes), max_events, max_bytes)


def files(directory: Path, *, max_bytes: int = MANY, mapped: bool = True) -> Buffer:
    spool = Spool(directory, "here", max_bytes)
    spool.mapped = mapped
    return Buffer(spool, MANY, 64 << 20)


def assert_books(buffer: Buffer) -> None:
    b = buffer.books()
    assert b.recorded + b.adopted_in == (
        b.delivered + b.in_flight + b.waiting + sum(b.dropped.values())
    ), b


def placed(buffer: Buffer) -> tuple[int, int, int, int, int, dict[str, int]]:
    """Return recorded, adopted, delivered, in flight, waiting wherever, dropped by reason."""
    b = buffer.books()
    return b.recorded, b.adopted_in, b.delivered, b.in_flight, b.waiting, b.dropped


def drain(buffer: Buffer) -> list[Frame]:
    found = []
    while frames := buffer.read(500, 4 << 20):
        buffer.settle(frames, DELIVERED)
        found += frames
    return found


@pytest.fixture(params=["D", "D unmapped", "M"])
def buffer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Buffer]:
    made = memory()
    if request.param != "M":
        made = files(tmp_path / "spool", mapped=request.param == "D")
    yield made
    made.close()


def test_what_is_written_is_read_settled_and_freed(buffer: Buffer) -> None:
    for n in range(10):
        assert buffer.write(EVENT, ID, b"%d" % n)
    assert_books(buffer)
    assert buffer.books().waiting == 10
    frames = buffer.read(4, MANY)
    assert [f.payload for f in frames] == [b"0", b"1", b"2", b"3"]
    assert [f.payload for f in buffer.read(4, MANY)] == [f.payload for f in frames], "not settled"
    buffer.settle(frames[:3], DELIVERED)
    buffer.settle(frames[3:], DROPPED, "rejected")
    assert [f.payload for f in buffer.read(100, MANY)] == [b"%d" % n for n in range(4, 10)]
    assert placed(buffer) == (10, 0, 3, 0, 6, {"rejected": 1})
    assert_books(buffer)


def test_a_batch_is_bounded_by_bytes_but_never_empty(buffer: Buffer) -> None:
    for size in (100, 100, 1000, 100):
        buffer.write(EVENT, ID, b"x" * size)
    sizes = []
    while frames := buffer.read(500, 250):
        sizes.append([len(f.payload) for f in frames])
        buffer.settle(frames, DELIVERED)
    assert sizes == [[100, 100], [1000], [100]]


def test_rotation_with_8_threads_loses_nothing(buffer: Buffer) -> None:
    """40 MB through segments of 2 and 8 MiB, while the flusher reads and frees beside it."""
    each, done, found = 2500, threading.Event(), []

    def write(writer: int) -> None:
        for n in range(each):
            payload = b"%d.%d " % (writer, n) + b"x" * (n * 37 % 4000)
            assert buffer.write(EVENT, bytes([writer]) * 16, payload)

    def flush() -> None:
        while not done.is_set():
            buffer.tend(0.0)
            found.extend(drain(buffer))
            b = buffer.books()
            placed = b.delivered + b.in_flight + b.waiting + sum(b.dropped.values())
            if abs(b.recorded - placed) > 8:
                wrong.append(b)

    wrong: list[object] = []
    flusher = threading.Thread(target=flush)
    flusher.start()
    writers = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    flusher.join()
    found += drain(buffer)
    assert wrong == []
    names = [f.payload.split(b" ")[0] for f in found]
    assert len(names) == 8 * each
    assert set(names) == {b"%d.%d" % (w, n) for w in range(8) for n in range(each)}
    for writer in range(8):  # a thread's own events stay in their order, also across segments
        mine = [int(n.split(b".")[1]) for n in names if n.startswith(b"%d." % writer)]
        assert mine == sorted(mine)
    assert len({f.sequence for f in found}) == 8 * each
    assert_books(buffer)
    assert buffer.books().dropped == {}


def test_f67_a_signal_handler_writes_while_the_same_thread_does(buffer: Buffer) -> None:
    inside = refused = 0

    def handle(*_: object) -> None:
        nonlocal inside, refused
        if buffer.write(EVENT, ID, b"from the handler " + b"y" * 300):
            inside += 1
        else:  # nested too deep while a segment was being made
            refused += 1

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(30_000):
            assert buffer.write(EVENT, ID, b"x" * 300)
        buffer.books()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert inside > 0
    assert len(drain(buffer)) == 30_000 + inside
    assert_books(buffer)
    assert sum(buffer.books().dropped.values()) == refused


def test_f67_signals_faster_than_a_segment_is_made_do_not_fill_the_disk(tmp_path: Path) -> None:
    made = 0

    class Interrupted(Spool):
        def create(self, size: int) -> Segment:
            nonlocal made
            made += 1
            assert made < 100, "without end"
            queue.write(EVENT, ID, b"a handler, while the segment is made")
            return super().create(size)

    queue = Buffer(Interrupted(tmp_path / "spool", "here"), MANY, MANY)
    assert queue.write(EVENT, ID, b"x")
    books = queue.books()
    assert books.recorded == books.waiting + books.dropped["spool_io"]
    assert books.waiting >= 1
    drain(queue)
    queue.close()
    assert not list((tmp_path / "spool").iterdir())


def test_f68_a_finalizer_writes_in_the_middle_of_a_write(buffer: Buffer) -> None:
    class Noisy:
        def __del__(self) -> None:
            buffer.write(EVENT, ID, b"last words")

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(300):
            cycle: list[object] = [Noisy()]
            cycle.append(cycle)
            del cycle
            buffer.write(EVENT, ID, b"x")
        gc.collect()
    finally:
        gc.set_threshold(*threshold)
    assert len(drain(buffer)) == 600
    assert_books(buffer)


def test_too_large_is_refused_before_anything_is_written(buffer: Buffer) -> None:
    for _ in range(2):  # in the small first segment, and in a full one
        assert not buffer.write(EVENT, ID, b"x" * (MAX_PAYLOAD + 1))
        assert buffer.write(EVENT, ID, b"x" * MAX_PAYLOAD)
    assert buffer.books().dropped == {"too_large": 2}
    assert [len(f.payload) for f in buffer.read(10, 1 << 30)] == [MAX_PAYLOAD] * 2
    assert_books(buffer)


@pytest.mark.parametrize("bound", [1, 2, 10, 2000])
def test_queue_full_is_exact_to_one_event(bound: int) -> None:
    buffer = memory(max_events=bound)
    assert buffer.write(SESSION, ID, b"{}"), "sessions and updates are no events"
    assert [buffer.write(EVENT, ID, b"x") for _ in range(bound + 5)] == [True] * bound + [False] * 5
    assert buffer.write(UPDATE, ID, b"{}")
    assert buffer.books().dropped == {"queue_full": 5}
    assert_books(buffer)
    frames = [f for f in buffer.read(MANY, MANY) if f.kind == EVENT]
    freed = max(bound // 2, 1)
    buffer.settle(frames[:freed], DELIVERED)
    wanted = [True] * freed + [False] * 3
    assert [buffer.write(EVENT, ID, b"x") for _ in range(freed + 3)] == wanted
    assert buffer.books().waiting == bound
    drain(buffer)
    assert [buffer.write(EVENT, ID, b"x") for _ in range(bound + 1)] == [True] * bound + [False]
    assert_books(buffer)


def test_queue_full_is_exact_among_8_threads() -> None:
    buffer = memory(max_events=5000)
    accepted = []

    def write() -> None:
        accepted.append(sum(buffer.write(EVENT, ID, b"x") for _ in range(2000)))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    books = buffer.books()
    assert sum(accepted) == books.waiting == len(buffer.read(MANY, MANY))
    assert books.dropped == {"queue_full": 16_000 - sum(accepted)}
    # the bound is looked at without a lock: each thread may be one off
    assert 5000 - 8 <= sum(accepted) <= 5000 + 8
    assert_books(buffer)


def test_bytes_full_is_exact_and_passes() -> None:
    buffer = memory(max_bytes=FIRST_SIZE + FULL_SIZE)
    frame = 40 + 1000
    room = FIRST_SIZE // frame + FULL_SIZE // frame
    accepted = [buffer.write(EVENT, ID, b"x" * 1000) for _ in range(room + 100)]
    assert accepted == [True] * room + [False] * 100
    assert buffer.books().dropped == {"bytes_full": 100}
    assert_books(buffer)
    assert len(drain(buffer)) == room
    assert buffer.write(EVENT, ID, b"x" * 1000)
    assert buffer.books().waiting == 1
    assert_books(buffer)


def test_writes_after_the_end_are_counted(buffer: Buffer) -> None:
    assert buffer.write(EVENT, ID, b"x")
    buffer.refuse_writes()
    assert not buffer.write(EVENT, ID, b"x")
    assert not buffer.write(UPDATE, ID, b"{}"), "not among events"
    buffer.close()
    assert not buffer.write(EVENT, ID, b"x")
    books = buffer.books()
    kept = 1 if buffer.writer.durable else 0
    assert (books.waiting, books.dropped) == (kept, {"shutdown": 3 - kept})
    assert_books(buffer)


def test_a_thread_that_rotates_during_the_end_loses_nothing(tmp_path: Path) -> None:
    """The end comes while a writer makes the next segment."""

    class Slow(Spool):
        def create(self, size: int) -> Segment:
            made = super().create(size)
            queue.refuse_writes()
            return made

    queue = Buffer(Slow(tmp_path / "spool", "here"), MANY, MANY)
    assert not queue.write(EVENT, ID, b"x")
    assert queue.books().dropped == {"shutdown": 1}
    queue.close()
    assert_books(queue)
    assert not list((tmp_path / "spool").iterdir())


def test_what_waits_survives_the_end_and_is_adopted(tmp_path: Path) -> None:
    first = files(tmp_path / "spool")
    for n in range(5):
        first.write(EVENT, ID, b"%d" % n)
    first.write(SESSION, ID, b"{}")
    first.settle(first.read(2, MANY), DELIVERED)
    first.close()
    assert placed(first) == (5, 0, 2, 0, 3, {})
    second = files(tmp_path / "spool")
    second.write(EVENT, ID, b"own")
    second.adopt()
    assert placed(second) == (1, 3, 0, 0, 4, {})
    assert [f.payload for f in drain(second)] == [b"own", b"2", b"3", b"4", b"{}"]
    assert placed(second) == (1, 3, 4, 0, 0, {})
    second.close()
    assert not list((tmp_path / "spool").iterdir())


@pytest.mark.parametrize("damage", ["payload", "magic", "length", "two", "tail"])
def test_f34_damage_in_an_adopted_file_is_counted_once(damage: str, tmp_path: Path) -> None:
    first = files(tmp_path / "spool")
    for n in range(10):
        first.write(EVENT, ID, b"%d" % n * 216)  # 256 bytes a frame
    first.close()
    (path,) = (tmp_path / "spool").iterdir()
    with path.open("r+b") as file:
        for frame in [4, 5] if damage == "two" else [9 if damage == "tail" else 4]:
            file.seek(64 + 256 * frame + {"magic": 0, "length": 9}.get(damage, 100))
            file.write(b"\1")
    second = files(tmp_path / "spool")
    second.adopt()
    assert_books(second)
    assert second.is_drained_to(10**9), "nothing of its own waits"
    assert_books(second)
    lost = 2 if damage == "two" else 1
    found = drain(second)
    assert len(found) == 10 - lost
    assert placed(second) == (0, 10, 10 - lost, 0, 0, {"spool_corrupt": lost})
    second.close()
    assert not list((tmp_path / "spool").iterdir()), "a damaged file does not stay for ever"


def test_is_drained_to_looks_at_every_segment(buffer: Buffer) -> None:
    assert buffer.is_drained_to(0)
    for _ in range(3):
        buffer.write(EVENT, ID, b"x" * (3 << 20))
    (first,) = buffer.read(1, MANY)
    assert not buffer.is_drained_to(1)
    buffer.settle([first], DELIVERED)
    assert buffer.is_drained_to(1)
    assert not buffer.is_drained_to(2)
    drain(buffer)
    assert buffer.is_drained_to(3)


def test_of_two_segments_side_by_side_the_older_may_hold_the_later_frames() -> None:
    buffer = memory()
    buffer.write(EVENT, ID, b"x" * (1 << 20))
    current = next(iter(buffer.writer.segments))
    buffer.write(EVENT, ID, b"x" * (3 << 20))  # rotates: 2 lies in the second segment
    assert len(buffer.writer.segments) == 2
    buffer.settle([f for f in buffer.read(9, MANY) if f.sequence == 1], DELIVERED)
    late = private_frame(buffer, current)
    assert late.sequence == 10
    assert not buffer.is_drained_to(2)


def private_frame(buffer: Buffer, segment: Segment) -> Frame:
    """Put a late frame into the older segment, as a writer that was suspended would have."""
    frame = build_frame(EVENT, 10, ID, b"late")
    offset = segment.head
    for at, value in enumerate(frame, offset):
        segment.memory[at] = value
    found = next(f for f in segment.walk() if isinstance(f, Frame))
    assert buffer.books().waiting >= 1
    return found


class Broken:
    """A disk that fails after some segments."""

    def __init__(self, spool: Spool, good: int) -> None:
        self.spool, self.good = spool, good

    def create(self, size: int) -> Segment:
        if not self.good:
            raise SpoolError("no more")
        self.good -= 1
        return self.spool.create(size)

    def discard(self, segment: Segment) -> None:
        self.spool.discard(segment)

    def adopt(self, *, any_destination: bool = False) -> Segment | None:
        return self.spool.adopt(any_destination=any_destination)

    def excess(self, size: int) -> int:
        return self.spool.excess(size)

    def renew(self) -> None:
        self.spool.renew()


@pytest.mark.parametrize("good", [0, 1])
def test_f35_a_failed_spool_falls_to_memory_with_one_warning(
    good: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source: SegmentSource = Broken(Spool(tmp_path / "spool", "here"), good)
    buffer = Buffer(source, 1000, 64 << 20)
    on_disk = 0
    if good:
        while buffer.writer.durable:
            assert buffer.write(EVENT, ID, b"x" * 1000)
            on_disk += 1
        on_disk -= 1  # the last one found the disk failed

    def write() -> None:
        for _ in range(200):
            buffer.write(EVENT, ID, b"x")

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not buffer.writer.durable
    assert [r.getMessage() for r in caplog.records] == [
        "no more: events wait in memory now and die with the process"
    ]
    books = buffer.books()
    assert_books(buffer)
    # what lies in files does not count against the bound of the memory
    assert on_disk + 1000 - 8 <= books.waiting <= on_disk + 1000
    assert len(drain(buffer)) == books.waiting
    assert not list((tmp_path / "spool").glob("*")), "settled files are deleted nevertheless"
    buffer.close()
    assert_books(buffer)


def test_a_log_handler_that_records_does_not_recurse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = Buffer(Broken(Spool(tmp_path / "spool", "here"), 0), 1000, 64 << 20)

    class Recording(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            buffer.write(EVENT, ID, record.getMessage().encode())

    handler = Recording()
    logger = logging.getLogger("tracer")
    logger.addHandler(handler)
    monkeypatch.setattr(logger, "propagate", False)
    try:
        assert buffer.write(EVENT, ID, b"x")
    finally:
        logger.removeHandler(handler)
    assert len(drain(buffer)) == 2
    assert_books(buffer)


def test_spares_are_made_after_the_first_rotation_only(tmp_path: Path) -> None:
    buffer = files(tmp_path / "spool")
    buffer.write(EVENT, ID, b"x")
    buffer.tend(0.0)
    assert len(list((tmp_path / "spool").iterdir())) == 1, "idle workers must not fill the disk"
    buffer.write(EVENT, ID, b"x" * (3 << 20))
    buffer.tend(0.0)
    assert len(list((tmp_path / "spool").iterdir())) == 3
    drain(buffer)
    buffer.close()
    assert not list((tmp_path / "spool").iterdir())


def test_the_flusher_is_woken_after_so_many_writes(buffer: Buffer) -> None:
    woken = []
    buffer.writer.on_rotate = lambda: woken.append(buffer.writer.drawn)
    buffer.write(EVENT, ID, b"x")
    assert set(woken) == {1}, "the first segment"
    woken.clear()
    buffer.wake_after(5)
    for _ in range(20):
        buffer.write(EVENT, ID, b"x")
    assert woken == [5], "what was there before counts"
    woken.clear()
    buffer.read(MANY, MANY)
    buffer.wake_after(5)
    for _ in range(20):
        buffer.write(EVENT, ID, b"x")
    assert woken == [26], "what was read does not"


def test_how_much_is_unread_is_known_once_a_read_took_all(buffer: Buffer) -> None:
    for _ in range(10):
        buffer.write(EVENT, ID, b"x")
    assert buffer.unread == 10
    buffer.read(9, MANY)
    assert buffer.unread == NEVER
    buffer.settle(buffer.read(10, MANY), DELIVERED)
    assert buffer.unread == 0
    buffer.write(EVENT, ID, b"x")
    assert buffer.unread == 1


# -- space -------------------------------------------------------------------------------------

LARGE = b"x" * (1 << 20)  # seven fit into a segment, one into the first


def disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.segment"))


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "unmapped"])
def test_f42_at_the_cap_the_oldest_go_and_are_counted(
    mapped: bool,  # noqa: FBT001 - drawn by pytest
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cap = 32 << 20
    buffer = files(tmp_path / "spool", max_bytes=cap, mapped=mapped)
    for n in range(100):
        assert buffer.write(EVENT, ID, b"%d " % n + LARGE)
        buffer.tend(0.0)
        assert disk(tmp_path / "spool") <= cap + FULL_SIZE
        assert_books(buffer)
    books = buffer.books()
    assert books.dropped == {"spool_full": 100 - books.spooled}
    assert 14 <= books.spooled <= 32
    kept = [int(f.payload.split()[0]) for f in drain(buffer)]
    assert kept == list(range(100 - books.spooled, 100)), "the newest"
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == ["the journal is full"]
    buffer.close()


def test_f42_what_the_dead_left_goes_before_what_the_living_wrote(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    for _ in range(2):
        dead = files(directory)
        for _ in range(8):
            dead.write(EVENT, ID, LARGE)
        dead.close()
    foreign = Buffer(Spool(directory, "elsewhere"), MANY, MANY)
    foreign.write(EVENT, ID, LARGE)
    foreign.close()
    before = disk(directory)
    buffer = files(directory, max_bytes=before + FULL_SIZE)
    for _ in range(8):
        buffer.write(EVENT, ID, LARGE)
        buffer.tend(0.0)
    assert disk(directory) <= before + FULL_SIZE
    books = buffer.books()
    assert_books(buffer)
    assert (books.recorded, books.spooled) == (8, 8)
    assert books.dropped == {"spool_full": books.adopted_in}
    assert books.adopted_in > 0
    buffer.close()


def test_beyond_the_cap_memory_takes_over_until_room_is_made(tmp_path: Path) -> None:
    buffer = files(tmp_path / "spool", max_bytes=16 << 20)
    while buffer.writer.durable:
        assert buffer.write(EVENT, ID, LARGE)
    assert disk(tmp_path / "spool") <= (16 << 20) + FULL_SIZE
    in_memory = buffer.books()
    assert in_memory.queued == 1
    buffer.tend(0.0)
    assert buffer.writer.durable
    assert buffer.write(EVENT, ID, b"on disk again")
    books = buffer.books()
    assert (books.queued, books.recorded) == (1, in_memory.recorded + 1)
    assert books.dropped["spool_full"] > 0
    assert_books(buffer)
    assert drain(buffer)[-1].payload == b"on disk again"
    buffer.close()


class Failing:
    """A disk that fails and recovers as told."""

    def __init__(self, spool: Spool) -> None:
        self.spool, self.error = spool, None

    error: SpoolError | None

    def create(self, size: int) -> Segment:
        if self.error is not None:
            raise self.error
        return self.spool.create(size)

    def __getattr__(self, name: str) -> object:
        return getattr(self.spool, name)


@pytest.mark.parametrize("error", [SpoolFullError("full"), SpoolError("broken")])
def test_f35_a_disk_that_works_again_is_used_again(error: SpoolError, tmp_path: Path) -> None:
    source = Failing(Spool(tmp_path / "spool", "here"))
    buffer = Buffer(source, 10, 64 << 20)  # type: ignore[arg-type]  # the rest is the spool's
    for turn in range(3):
        source.error = error
        while buffer.writer.durable:
            buffer.write(EVENT, ID, LARGE)
        while buffer.write(EVENT, ID, b"in memory"):
            pass
        assert buffer.books().queued == 10, "the bound of the memory, not of the disk"
        assert list(buffer.books().dropped.values()) == [turn + 1]
        assert list(buffer.books().dropped) == [
            "spool_full" if isinstance(error, SpoolFullError) else "spool_io"
        ]
        buffer.tend(turn * 100.0)
        assert not buffer.writer.durable, "it fails still"
        source.error = None
        buffer.tend(turn * 100.0 + 4.9)
        assert not buffer.writer.durable, "not asked all the time"
        buffer.tend(turn * 100.0 + 5.1)
        assert buffer.writer.durable
        assert buffer.write(EVENT, ID, b"on disk")
        assert_books(buffer)
        drain(buffer)
        assert buffer.books().waiting == 0
    buffer.close()


def test_what_is_delivered_leaves_the_disk_after_a_quiet_minute(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    buffer = files(directory)
    buffer.write(EVENT, ID, b"a prompt")
    buffer.tend(0.0)
    drain(buffer)
    (before,) = directory.iterdir()
    buffer.tend(59.9)
    assert b"a prompt" in before.read_bytes()
    buffer.tend(60.1)
    drain(buffer)
    (after,) = directory.iterdir()
    assert after != before
    assert after.read_bytes().strip(b"\0").startswith(b"TRACESEG")
    assert b"a prompt" not in after.read_bytes()
    buffer.tend(500.0)
    assert list(directory.iterdir()) == [after], "an empty one stays"
    buffer.write(EVENT, ID, b"goes on")
    assert [f.payload for f in drain(buffer)] == [b"goes on"]
    buffer.close()


def test_what_waits_does_not_leave_the_disk_however_quiet_it_is(tmp_path: Path) -> None:
    buffer = files(tmp_path / "spool")
    buffer.write(EVENT, ID, b"waits")
    for now in (0.0, 100.0, 200.0):
        buffer.tend(now)
        assert [f.payload for f in buffer.read(9, MANY)] == [b"waits"]
    buffer.close()
    assert buffer.books().spooled == 1


def test_t8_however_much_waits_three_segments_are_mapped(tmp_path: Path) -> None:
    buffer = files(tmp_path / "spool")
    for n in range(60):
        buffer.write(EVENT, ID, b"%d " % n + LARGE)
        buffer.tend(0.0)
    assert len(list((tmp_path / "spool").iterdir())) > 6
    maps = Path("/proc/self/maps").read_text()
    assert 1 <= len({p for p in (tmp_path / "spool").iterdir() if str(p) in maps}) <= 3
    assert buffer.books().spooled == 60
    assert [int(f.payload.split()[0]) for f in drain(buffer)] == list(range(60))
    assert_books(buffer)
    buffer.close()
    assert not list((tmp_path / "spool").iterdir())


def test_f41_what_was_left_is_taken_over_piece_by_piece_and_starves_nobody(tmp_path: Path) -> None:
    for _ in range(3):
        dead = files(tmp_path / "spool")
        for _ in range(200):
            dead.write(EVENT, ID, b"left")
        dead.close()
    buffer = files(tmp_path / "spool")
    taken: list[bytes] = []
    for _ in range(100):
        for _ in range(20):
            buffer.write(EVENT, ID, b"live")
        buffer.adopt()
        assert buffer.books().adopted_in <= 200 * (1 + len(taken) // 200)
        frames = buffer.read(20, MANY)
        buffer.settle(frames, DELIVERED)
        assert_books(buffer)
        taken += [f.payload for f in frames]
        if taken.count(b"left") == 600:
            break
    assert taken.count(b"left") == 600
    assert taken.count(b"live") >= 0.2 * len(taken), "a fifth of the batches at least"
    drain(buffer)
    buffer.close()


def test_spans_that_are_open_are_known_and_left_alone(buffer: Buffer) -> None:
    span = b"6b06a832-e100-4000-8000-00000f503d67"
    buffer.write(OPEN, ID, span + b"{}")
    buffer.write(EVENT, ID, b"{}")
    assert [f.kind for f in drain(buffer)] == [EVENT]
    assert list(buffer.open_frames) == [span.decode()]
    assert buffer.is_drained_to(NEVER)
    assert buffer.books().waiting == 0


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "unmapped"])
def test_open_spans_do_not_keep_what_is_delivered_on_the_disk(
    mapped: bool,  # noqa: FBT001 - drawn by pytest
    tmp_path: Path,
) -> None:
    directory = tmp_path / "spool"
    buffer = files(directory, mapped=mapped)
    span = b"6b06a832-e100-4000-8000-00000f503d67"
    buffer.write(OPEN, ID, span + b'{"open":1}')
    for _ in range(40):
        buffer.write(EVENT, ID, LARGE)
        drain(buffer)
        buffer.tend(0.0)
    assert len(list(directory.glob("*.segment"))) <= 3
    drain(buffer)
    frame = buffer.open_frames[span.decode()]
    assert (frame.sequence, frame.payload) == (1, span + b'{"open":1}')
    buffer.close()
    adopter = files(directory)
    adopter.adopt()
    assert [(f.kind, f.payload) for f in adopter.read(9, MANY)] == [(OPEN, frame.payload)]
    adopter.close()


class Journal(RuleBasedStateMachine):
    """Random writes, sends, crashes and adoptions; the books balance after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = memory()
        self.expected: list[int] = []
        self.number = 0

    @initialize(bound=integers(1, 50))
    def start(self, bound: int) -> None:
        self.buffer = memory(max_events=bound)
        self.bound = bound

    @rule(size=integers(0, 3000), kind=booleans())
    def write(self, size: int, kind: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        self.number += 1
        room = self.buffer.books().waiting < self.bound
        payload = b"%d " % self.number + b"x" * size
        if self.buffer.write(EVENT if kind else UPDATE, ID, payload):
            assert room or not kind
            self.expected.append(self.number)
        else:
            assert kind
            assert not room

    @precondition(lambda self: self.expected)
    @rule(number=integers(1, 20), outcome=integers(0, 2))
    def send(self, number: int, outcome: int) -> None:
        frames = self.buffer.read(number, MANY)
        assert [int(f.payload.split()[0]) for f in frames] == self.expected[: len(frames)]
        if outcome == 0:
            return
        if outcome == 1:
            self.buffer.settle(frames, DELIVERED)
        else:
            self.buffer.settle(frames, DROPPED, "rejected")
        del self.expected[: len(frames)]

    @invariant()
    def books_balance(self) -> None:
        assert_books(self.buffer)

    def teardown(self) -> None:
        self.buffer.close()
        assert_books(self.buffer)
        assert self.buffer.books().waiting == 0


TestJournal = Journal.TestCase
TestJournal.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
