"""What the server refused for good lies in one file: bounded, private, safe to share and to cut."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest
from programs import run, spawn, wait_until

from tracer import deadletters
from tracer.deadletters import FILE_NAME, DeadLetters, Letter, read, take_out

EVENTS = [b'{"event_id":"%d","inputs":{"text":"a,\\"event\\":{"}}' % n for n in range(5)]


def fill(directory: Path, events: list[bytes] | None = None) -> list[Letter]:
    events = EVENTS if events is None else events
    assert DeadLetters(directory).add("rejected", 400, "no", "s1", events) == len(events)
    return list(read(directory))


def test_a_letter_holds_the_event_as_it_was_and_what_was_said(tmp_path: Path) -> None:
    before = int(time.time() * 1000)
    message = 'said ,"event":{ "x" \n é'
    kept = DeadLetters(tmp_path).add("rejected", 422, message, "s1", EVENTS)
    found = list(read(tmp_path))
    assert (kept, [letter.event for letter in found]) == (5, EVENTS)
    for letter in found:
        assert before <= letter.time <= time.time() * 1000
        assert (letter.reason, letter.status, letter.session_id) == ("rejected", 422, "s1")
        assert letter.message == message
        assert list(json.loads(letter.line)) == [
            "time",
            "reason",
            "status",
            "message",
            "session_id",
            "event",
        ]
    DeadLetters(tmp_path).add("session_gone", None, "x" * 10_000, "s2", [b'{"a":\n1}'])
    last = list(read(tmp_path))[-1]
    assert (last.status, len(last.message), last.event) == (None, 500, b'{"a": 1}')


def test_a_directory_without_letters_has_none(tmp_path: Path) -> None:
    assert list(read(tmp_path)) == list(read(tmp_path / "nowhere")) == []
    assert take_out(tmp_path, []) == 0


def test_s14_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        fill(tmp_path)
    finally:
        os.umask(before)
    path = tmp_path / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    letters = fill(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    take_out(tmp_path, letters[:1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_s14_what_is_no_file_of_ours_is_not_touched(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = tmp_path / FILE_NAME, tmp_path / "other"
    other.write_bytes(b"kept")
    if kind == "symlink":
        path.symlink_to(other)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    letters = DeadLetters(tmp_path)
    for _ in range(3):
        assert letters.add("rejected", 400, "no", "s1", EVENTS) == 0
    assert list(read(tmp_path)) == []
    assert other.read_bytes() == b"kept"
    assert [r.getMessage().count("without a copy") for r in caplog.records] == [1]


def test_torn_and_foreign_lines_are_passed_over_and_end_before_the_next_letter(
    tmp_path: Path,
) -> None:
    letters = fill(tmp_path)
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    for end in range(len(whole) - len(letters[-1].line), len(whole)):  # torn at every byte
        path.write_bytes(whole[:end])
        assert [x.event for x in read(tmp_path)] == EVENTS[:4]
    path.write_bytes(whole[:-9])
    fill(tmp_path, [b'{"after":1}'])
    assert [x.event for x in read(tmp_path)] == [*EVENTS[:4], b'{"after":1}']
    with path.open("ab") as file:
        file.write(b'\n\xff\xfe\n{}\n[]\nnull\n{"event":{}}\n{"time":"x","event":{}}\n')
        file.write(letters[0].line.replace(b'"time":', b'"tame":'))
        file.write(letters[0].line.replace(b'"event":{', b'"event":['))
    assert len(list(read(tmp_path))) == 5
    # what cannot be read can be nobody's to throw away
    assert take_out(tmp_path, read(tmp_path)) == 5
    assert b'"tame":' in path.read_bytes()


def test_letters_taken_out_are_gone_and_the_rest_stays(tmp_path: Path) -> None:
    letters = fill(tmp_path)
    assert take_out(tmp_path, [letters[1], letters[3]]) == 2
    assert [x.event for x in read(tmp_path)] == [EVENTS[0], EVENTS[2], EVENTS[4]]
    assert take_out(tmp_path, [letters[1]]) == 0
    fill(tmp_path)
    assert take_out(tmp_path, read(tmp_path)) == 8
    assert os.listdir(tmp_path) == []


def test_the_file_has_a_bound_and_passing_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deadletters, "MAX_BYTES", 1000)
    letters = DeadLetters(tmp_path)
    kept = [letters.add("rejected", 400, "no", "s1", EVENTS) for _ in range(5)]
    assert 5 < sum(kept) < 20
    assert len(list(read(tmp_path))) == sum(kept)
    assert (tmp_path / FILE_NAME).stat().st_size <= 1000
    assert len(caplog.records) == 1
    assert "holds 1,000 bytes already" in caplog.text


def test_a_disk_that_is_full_leaves_no_half_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = fill(tmp_path)
    real, calls = os.write, iter([100, None])

    def write(fd: int, data: bytes) -> int:
        room = next(calls)
        if room is None:
            raise OSError(28, "No space left on device")
        return real(fd, data[:room])

    monkeypatch.setattr(os, "write", write)
    assert DeadLetters(tmp_path).add("rejected", 400, "no", "s1", EVENTS) == 0
    monkeypatch.undo()
    assert list(read(tmp_path)) == before
    assert "No space left on device" in caplog.text


WRITER = """
import sys, time
from pathlib import Path
from tracer.deadletters import DeadLetters
letters = DeadLetters(Path(sys.argv[1]))
for n in range(100):
    event = b'{"event_id":"%b-%d","text":"%b"}' % (sys.argv[2].encode(), n, b"x" * 3000)
    assert letters.add("rejected", 400, "no", "s1", [event] * 3) == 3
"""


def test_processes_that_write_while_another_takes_out_lose_nothing(tmp_path: Path) -> None:
    taken: list[Letter] = []
    threads = [
        threading.Thread(target=lambda n=n: ended.append(run(WRITER, tmp_path, n)))
        for n in range(3)
    ]
    ended: list[object] = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        some = list(read(tmp_path))[:50]
        assert take_out(tmp_path, some) >= len({letter.line for letter in some})
        taken += some
    for thread in threads:
        thread.join()
    assert [getattr(e, "code", None) for e in ended] == [0, 0, 0], ended
    rest = list(read(tmp_path))
    assert {x.event for x in [*taken, *rest]} == {
        b'{"event_id":"%d-%d","text":"%b"}' % (writer, n, b"x" * 3000)
        for writer in range(3)
        for n in range(100)
    }


def test_whoever_holds_the_file_is_waited_for_a_second_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    holder = """
        import fcntl, sys, time
        file = open(sys.argv[1], "rb")
        fcntl.flock(file, fcntl.LOCK_EX)
        open(sys.argv[2], "w").close()
        time.sleep(60)
        """
    process = spawn(holder, tmp_path / FILE_NAME, tmp_path / "held")
    try:
        wait_until((tmp_path / "held").exists)
        started = time.monotonic()
        assert DeadLetters(tmp_path).add("rejected", 400, "no", "s1", EVENTS) == 0
        assert time.monotonic() - started < 3
        assert "another process holds it" in caplog.text
    finally:
        process.kill()
        process.communicate()
    fill(tmp_path)


def test_a_writer_notices_that_the_file_was_replaced_before_it_got_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = fill(tmp_path)
    real, first = deadletters._lock, iter([True])

    def lock(fd: int) -> bool:
        if next(first, False):
            assert take_out(tmp_path, letters[:2]) == 2
        return real(fd)

    monkeypatch.setattr(deadletters, "_lock", lock)
    fill(tmp_path, [b'{"after":1}'])
    assert [x.event for x in read(tmp_path)] == [*EVENTS[2:], b'{"after":1}']
