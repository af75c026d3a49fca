"""A file used like a mapping: the same bytes, whole frames, and nothing after the seal."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import run

from tracer.buffer import Buffer
from tracer.filememory import CHUNK, FileMemory
from tracer.frame import DELIVERED, EVENT, build_frame
from tracer.segment import Frame, Segment
from tracer.spool import Spool

ID = bytes(16)
SIZE = 1 << 20


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    yield opened
    os.close(opened)


def payloads(segment: Segment) -> list[bytes]:
    return [found.payload for found in segment.walk() if isinstance(found, Frame)]


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(min_size=1, max_size=3000),
    places=st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 200)), max_size=20),
    change=st.tuples(st.integers(0, 2999), st.integers(0, 255)),
)
def test_it_reads_as_a_mapping_does(
    content: bytes, places: list[tuple[int, int]], change: tuple[int, int]
) -> None:
    fd = os.memfd_create("content")
    try:
        os.write(fd, content)
        mapped, file = mmap.mmap(fd, len(content)), FileMemory(fd, len(content))
        for at, length in places:
            start = at % len(content)
            stop = min(start + length, len(content))
            assert file[start:stop] == mapped[start:stop]
            where = change[0] % len(content)
            file[where] = change[1]
            assert file[where] == mapped[where] == change[1]
            assert file.find(b"\xf7", start) == mapped.find(b"\xf7", start)
        assert len(file) == len(mapped)
        mapped.close()
    finally:
        os.close(fd)


def test_what_is_looked_for_is_found_across_pieces(fd: int) -> None:
    os.pwrite(fd, b"TF", CHUNK - 1)
    os.pwrite(fd, b"TF", 3 * CHUNK)
    file = FileMemory(fd, 4 * CHUNK)
    assert file.find(b"TF", 0) == CHUNK - 1
    assert file.find(b"TF", CHUNK) == 3 * CHUNK
    assert file.find(b"TF", 3 * CHUNK + 1) == -1


def test_behind_the_end_of_the_file_are_zeros(fd: int) -> None:
    os.write(fd, b"abc")
    assert FileMemory(fd, SIZE)[0:8] == FileMemory(fd, SIZE, live=True)[0:8] == b"abc" + bytes(5)


def test_threads_write_whole_frames_until_the_seal(fd: int) -> None:
    segment = Segment(FileMemory(fd, SIZE, live=True), 64, "named", None)
    kept: list[list[bytes]] = [[] for _ in range(4)]

    def write(number: int) -> None:
        for n in range(100_000):
            payload = b"%d.%d" % (number, n) + b"x" * (n % 300)
            try:
                segment.append(build_frame(EVENT, n + 1, ID, payload))
            except ValueError:
                return
            kept[number].append(payload)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while os.fstat(fd).st_size < SIZE // 2:
        pass
    segment.seal()
    found = payloads(segment)  # at once: who was in the midst of a write has ended it
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(payload for one in kept for payload in one)
    assert os.fstat(fd).st_size < SIZE


@pytest.mark.parametrize("live", [True, False])
def test_a_file_that_was_closed_is_not_written_to(
    live: bool,  # noqa: FBT001 - drawn by pytest
    tmp_path: Path,
) -> None:
    """The program may own a file of the same number by then."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    segment = Segment(FileMemory(fd, SIZE, live=True), 64, "named", fd)
    segment.append(build_frame(EVENT, 1, ID, b"x"))
    if not live:
        segment.memory.close()
        segment.memory = FileMemory(fd, SIZE)
    (frame,) = [found for found in segment.walk() if isinstance(found, Frame)]
    segment.close()
    theirs = os.open(tmp_path / "theirs", os.O_RDWR | os.O_CREAT, 0o600)
    assert theirs == fd
    os.write(theirs, bytes(200))
    try:
        with pytest.raises(ValueError, match="closed"):
            segment.settle(frame, DELIVERED)
        with pytest.raises(ValueError, match="sealed"):
            segment.append(build_frame(EVENT, 2, ID, b"x"))
    finally:
        os.close(theirs)
    assert (tmp_path / "theirs").read_bytes() == bytes(200)


def test_a_forked_child_closes_a_file_that_a_thread_of_its_parent_writes_to(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = Segment(FileMemory(fd, SIZE, live=True), 64, "named", None)
    writing, go, write = threading.Event(), threading.Event(), os.pwrite

    def slow(*args: Any) -> int:
        writing.set()
        go.wait(20)
        return write(*args)

    monkeypatch.setattr(os, "pwrite", slow)
    thread = threading.Thread(target=lambda: segment.append(build_frame(EVENT, 1, ID, b"x")))
    thread.start()
    writing.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # a child that hangs is seen by its status
        try:
            segment.close(forked=True)
        except BaseException:  # noqa: BLE001 - the child must not go on as the test run
            os._exit(1)
        os._exit(0)
    go.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_what_another_thread_settles_is_seen_by_the_reader(fd: int) -> None:
    """The end of a long span settles its frame from the caller's thread."""
    segment = Segment(FileMemory(fd, SIZE, live=True), 64, "named", None)
    for n in range(1, 4):
        segment.append(build_frame(EVENT, n, ID, b"%d" % n))
    segment.seal()
    _, second, _ = [found for found in segment.walk() if isinstance(found, Frame)]
    thread = threading.Thread(target=lambda: segment.settle(second, DELIVERED))
    thread.start()
    thread.join()
    assert payloads(segment) == [b"1", b"3"]


def test_what_does_not_fit_is_refused_and_seals_nothing(fd: int) -> None:
    file = FileMemory(fd, 4096, live=True)
    file.seek(64)
    with pytest.raises(ValueError, match="full"):
        file.write(b"x" * 5000)
    assert file.write(b"x" * 4032) == 4032
    with pytest.raises(ValueError, match="full"):
        file.write(b"x" * 8)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Let a signal handler run in the midst of the next write."""
    before = signal.getsignal(signal.SIGUSR1)

    def prepare(handler: Callable[[], object]) -> None:
        write = os.pwrite
        signal.signal(signal.SIGUSR1, lambda *_: handler())

        def interrupted(*args: Any) -> int:
            monkeypatch.setattr(os, "pwrite", write)
            signal.raise_signal(signal.SIGUSR1)
            return write(*args)

        monkeypatch.setattr(os, "pwrite", interrupted)

    yield prepare
    signal.signal(signal.SIGUSR1, before)


def test_f67_what_a_signal_handler_writes_in_the_midst_of_a_write_comes_after_it(
    fd: int, interrupt: Callable[[Callable[[], object]], None]
) -> None:
    segment = Segment(FileMemory(fd, SIZE, live=True), 64, "named", None)
    interrupt(lambda: segment.append(build_frame(EVENT, 2, ID, b"of the handler")))
    segment.append(build_frame(EVENT, 1, ID, b"of the program"))
    assert payloads(segment) == [b"of the program", b"of the handler"]
    assert list(segment.stranded()) == []


def test_f35_a_frame_accepted_meanwhile_is_not_lost_with_a_write_that_fails(
    tmp_path: Path, interrupt: Callable[[Callable[[], object]], None]
) -> None:
    spool = Spool(tmp_path / "spool", "here")
    spool.mapped = False
    buffer = Buffer(spool, 100, 64 << 20)
    buffer.write(EVENT, ID, b"the first")

    def handler() -> None:
        buffer.write(EVENT, ID, b"of the handler")
        assert buffer.writer.current.lock_fd is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    interrupt(handler)
    try:
        assert buffer.write(EVENT, ID, b"of the program")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not buffer.writer.durable
    assert buffer.books().recorded == buffer.books().waiting == 3
    frames = buffer.read(9, 1 << 20)
    assert sorted(f.payload for f in frames) == [b"of the handler", b"of the program", b"the first"]
    buffer.close()


def test_f35_a_frame_that_did_not_fit_on_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    program = """
        import os, resource, sys
        from tracer.errors import SpoolFullError
        from tracer.filememory import FileMemory
        from tracer.frame import DELIVERED, EVENT, build_frame
        from tracer.segment import Segment

        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
        segment = Segment(FileMemory(fd, 1 << 20, live=True), 64, "named", None)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        written = 0
        try:
            while True:
                segment.append(build_frame(EVENT, written + 1, bytes(16), b"x" * 88))
                written += 1
        except SpoolFullError as error:
            print(written, os.fstat(fd).st_size, error)
        segment.seal()
        assert segment.count_waiting() == written
        """
    ended = run(program, tmp_path / "file")
    assert ended.err == ""
    assert ended.out == f"77 {64 + 77 * 128} a frame did not fit\n"
