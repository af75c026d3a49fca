"""Frames: written whole or not at all, and never believed without their checksum."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.errors import SegmentError
from tracer.frame import (
    DELIVERED,
    DROPPED,
    ENDS,
    EVENT,
    FILE_HEADER,
    MAGIC,
    SESSION,
    SUPERSEDED,
    UPDATE,
    WAITING,
    Content,
    Readable,
    build_frame,
    file_header,
    parse_frame,
    read_file_header,
)
from tracer.segment import Frame, Gap, Segment, private_memory

ID = bytes(range(16))
SIZE = 1 << 16


def scribble(segment: Segment, offset: int, data: bytes) -> None:
    for at, value in enumerate(data, offset):
        segment.memory[at] = value


def filled(payloads: list[bytes], size: int = SIZE) -> Segment:
    segment = private_memory(size)
    for number, payload in enumerate(payloads, 1):
        segment.append(build_frame(EVENT, number, ID, payload))
    return segment


def frames(segment: Segment) -> list[Frame]:
    return [found for found in segment.walk() if isinstance(found, Frame)]


def gaps(segment: Segment) -> list[Gap]:
    return [found for found in segment.walk() if isinstance(found, Gap)]


def frames_and_gaps(segment: Segment) -> tuple[list[Frame], int]:
    found = list(segment.walk())
    kept = [f for f in found if isinstance(f, Frame)]
    return kept, len(found) - len(kept)


payloads = st.lists(st.binary(min_size=0, max_size=300).map(lambda b: b.replace(b"\xf7", b"")))


@given(
    kind=st.sampled_from([EVENT, SESSION, UPDATE]),
    sequence=st.integers(0, 2**64 - 1),
    session=st.binary(min_size=16, max_size=16),
    payload=st.one_of(st.binary(max_size=100), st.sampled_from([b"x" * 5121, b"y" * 20_000])),
    flags=st.sampled_from([0, ENDS]),
)
def test_a_frame_comes_back_as_it_went_in(
    kind: int, sequence: int, session: bytes, payload: bytes, flags: int
) -> None:
    segment = private_memory(SIZE)
    frame = build_frame(kind, sequence, session, payload, flags)
    assert len(frame) % 8 == 0
    segment.append(frame)
    assert list(segment.walk()) == [Frame(segment, 0, kind, flags, sequence, session, payload)]


@given(payloads)
def test_frames_come_back_in_order_and_only_while_they_wait(written: list[bytes]) -> None:
    segment = filled(written)
    found = frames(segment)
    assert [f.payload for f in found] == written
    assert segment.count_waiting() == len(written)
    for frame in found[::2]:
        segment.settle(frame, DELIVERED)
    assert [f.payload for f in frames(segment)] == written[1::2]
    assert segment.count_waiting() == len(written[1::2])
    for frame in found[1::2]:
        segment.settle(frame, DROPPED)
    assert frames(segment) == []
    assert not segment.is_settled, "more may come"
    segment.seal()
    assert frames(segment) == []
    assert segment.is_settled


def test_after_a_seal_also_what_would_fit_is_refused() -> None:
    segment = private_memory(4096)
    segment.append(build_frame(EVENT, 1, ID, b"x" * 2000))
    with pytest.raises(ValueError, match="range"):
        segment.append(build_frame(EVENT, 2, ID, b"x" * 3000))
    segment.append(build_frame(EVENT, 3, ID, b"x" * 100))  # a failed write seals nothing by itself
    segment.seal()
    with pytest.raises(ValueError, match="range"):
        segment.append(build_frame(EVENT, 4, ID, b""))
    assert [f.sequence for f in frames(segment)] == [1, 3]
    assert gaps(segment) == []


def test_what_comes_between_a_look_and_the_seal_is_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk finds nothing yet; then a writer writes and another seals; then the walk goes on."""
    segment = private_memory(SIZE)

    def read_and_be_interrupted(memory: Readable, offset: int, end: int) -> Content | None:
        found = parse_frame(memory, offset, end)
        monkeypatch.setattr("tracer.segment.parse_frame", parse_frame)
        segment.append(build_frame(EVENT, 1, ID, b"late"))
        segment.seal()
        return found

    monkeypatch.setattr("tracer.segment.parse_frame", read_and_be_interrupted)
    assert list(segment.walk()) == []
    assert [f.payload for f in frames(segment)] == [b"late"]


@pytest.mark.parametrize("cut", range(8, 400, 8))
def test_f33_a_torn_tail_costs_the_torn_frame_alone(cut: int) -> None:
    written = [b"a" * 50, b"b" * 100, b"c" * 150]
    whole = b"".join(build_frame(EVENT, n, ID, p) for n, p in enumerate(written, 1))
    ends = [len(build_frame(EVENT, 1, ID, p)) for p in written]
    segment = private_memory(SIZE)
    scribble(segment, 0, whole[:cut])
    kept = sum(cut >= sum(ends[: n + 1]) for n in range(3))
    # zeros inside the JSON are no padding: what a cut leaves is whole only with its padding
    assert [f.payload for f in frames(segment)] == written[:kept], "while it is written: not yet"
    assert gaps(segment) == []
    segment.seal()
    torn = cut < len(whole) and cut != sum(ends[:kept])
    assert segment.count_waiting() == kept + torn
    found, lost = frames_and_gaps(segment)
    assert [f.payload for f in found] == written[:kept]
    assert lost == torn


@given(data=st.data(), written=payloads.filter(lambda p: len(p) > 2))
@settings(max_examples=300)
def test_f34_a_flipped_bit_never_changes_what_is_sent(
    data: st.DataObject, written: list[bytes]
) -> None:
    segment = filled(written)
    end = frames(segment)[-1].offset + len(build_frame(EVENT, 1, ID, written[-1]))
    starts = [f.offset for f in frames(segment)]
    for frame in frames(segment)[: len(written) // 3]:
        segment.settle(frame, DELIVERED)
    waiting = written[len(written) // 3 :]
    at = data.draw(st.integers(0, end - 1))
    segment.memory[at] ^= 1 << data.draw(st.integers(0, 7))
    segment.seal()

    counted = segment.count_waiting()
    found, missed = frames_and_gaps(segment)
    hit = max(n for n, start in enumerate(starts) if start <= at)
    for frame in found:
        assert frame.payload == written[frame.sequence - 1], "a wrong event would be sent"
    lost = {n + 1 for n in range(len(written) // 3, len(written))} - {f.sequence for f in found}
    assert lost <= {hit + 1}, "others are found again"
    again = {f.sequence for f in found} & set(range(1, len(written) // 3 + 1))
    assert again <= {hit + 1}, "at most the damaged one is sent again"
    assert missed >= len(lost), "what is lost is counted"
    assert counted == len(found) + missed
    assert len(waiting) <= counted <= len(waiting) + 1


@pytest.mark.parametrize("page", range(0, 1 << 16, 4096))
def test_f34_a_lost_page_costs_the_frames_in_it(page: int) -> None:
    segment = filled([b"%d" % n * 100 for n in range(200)])
    before = frames(segment)
    scribble(segment, page, bytes(4096))
    segment.seal()
    ends = [f.offset for f in before[1:]] + [before[-1].offset + 40 + 300]
    outside = [
        frame.payload
        for frame, end in zip(before, ends, strict=True)
        if frame.offset >= page + 4096 or end <= page
    ]
    found, lost = frames_and_gaps(segment)
    assert [f.payload for f in found] == outside
    assert lost == (len(outside) < len(before))


def test_f34_a_damaged_length_of_a_settled_frame_hides_no_waiting_one() -> None:
    segment = filled([b"x" * 216] * 20)  # 256 bytes a frame: one bit of length is one frame
    segment.settle(frames(segment)[0], DELIVERED)
    segment.memory[9] ^= 1  # 216 becomes 472: the end of the second frame
    segment.seal()
    assert [f.sequence for f in frames(segment)] == list(range(2, 21))


@pytest.mark.parametrize("bit", range(8))
def test_f34_a_flipped_bit_of_the_state_settles_nothing(bit: int) -> None:
    segment = filled([b"waits", b"too"])
    segment.memory[3] ^= 1 << bit
    assert [f.payload for f in frames(segment)] == [b"waits", b"too"]
    assert segment.count_waiting() == 2


def test_states_are_two_bits_apart() -> None:
    states = [WAITING, DELIVERED, DROPPED, SUPERSEDED]
    for one, other in pairwise(states):
        assert (one ^ other).bit_count() >= 2


def test_magic_is_in_no_text() -> None:
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode()


def test_a_session_id_that_looks_like_the_magic_confuses_nobody() -> None:
    segment = private_memory(SIZE)
    for number in range(1, 6):
        segment.append(build_frame(EVENT, number, MAGIC * 5 + b"x", MAGIC * number))
    assert [f.sequence for f in frames(segment)] == [1, 2, 3, 4, 5]
    segment.memory[3 * 8 + 2] ^= 1
    segment.seal()
    assert [f.sequence for f in frames(segment)] == [2, 3, 4, 5]


def test_8_threads_write_while_one_walks() -> None:
    segment = private_memory(8 << 20)
    done = threading.Event()
    seen = 0

    def write(number: int) -> None:
        for n in range(3000):
            segment.append(build_frame(EVENT, number * 10_000 + n, ID, b"%d" % n * 20))

    def read() -> None:
        nonlocal seen
        while not done.is_set():
            for frame in frames(segment):
                assert int(frame.payload[: len(frame.payload) // 20]) == frame.sequence % 10_000
                segment.settle(frame, DELIVERED)
                seen += 1

    reader = threading.Thread(target=read)
    reader.start()
    writers = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    seen += len(frames(segment))
    assert seen == 24_000
    segment.seal()
    assert gaps(segment) == []


def test_the_file_header_names_format_and_destination() -> None:
    header = file_header("a" * 32)
    assert len(header) == FILE_HEADER
    assert read_file_header(header) == "a" * 32
    assert read_file_header(file_header("local")) == "local"
    for length in range(FILE_HEADER):
        with pytest.raises(SegmentError, match="too short"):
            read_file_header(header[:length])
    with pytest.raises(SegmentError, match="not a segment"):
        read_file_header(b"x" + header[1:])
    with pytest.raises(SegmentError, match="segment format 2; this version reads format 1"):
        read_file_header(header[:8] + b"\2" + header[9:])
