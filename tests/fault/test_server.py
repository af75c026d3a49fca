"""The server refuses, for a while or for good: what is lost is counted, and copied where it can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import Answer, ContractServer, Seen
from programs import assert_books

from tracer import Tracer
from tracer.deadletters import FILE_NAME, Letter, read

modes = pytest.mark.parametrize("mode", ["D", "M"])


def tracer_for(url: str, mode: str, tmp_path: Path, **options: object) -> Tracer:
    return Tracer(
        server_url=url,
        durable=mode == "D",
        spool_dir=tmp_path / "spool",
        **{"flush_interval": 3600, "propagate_threads": False, **options},  # type: ignore[arg-type]
    )


def work(t: Tracer, number: int = 1, text: str = "x") -> list[str]:
    ids = []
    for _ in range(number):
        with t.tool("work", inputs={"text": text}) as span:
            pass
        ids.append(span.id)
    return ids


def letters(tmp_path: Path) -> list[Letter]:
    return list(read(tmp_path / "spool"))


def event_ids(found: list[Letter]) -> list[str]:
    return [letter.event[13:49].decode() for letter in found]


# -- dead letters ----------------------------------------------------------------------------

Refuses = Callable[[Seen, set[str]], bool]
REFUSALS: dict[str, tuple[int, Refuses, str]] = {
    "one event": (400, lambda s, bad: s.is_batch and bool(bad & set(s.event_ids)), "rejected"),
    "unprocessable": (422, lambda s, bad: s.is_batch and bool(bad & set(s.event_ids)), "rejected"),
    "another status": (410, lambda s, bad: s.is_batch and bool(bad & set(s.event_ids)), "rejected"),
    "too large": (413, lambda s, bad: s.is_batch and bool(bad & set(s.event_ids)), "too_large"),
    "a session": (400, lambda s, bad: s.path == "/v1/sessions", "rejected"),
    "a session for good": (404, lambda s, bad: s.is_batch, "session_gone"),
}


@modes
@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_refused_for_good_is_copied(what: str, mode: str, tmp_path: Path) -> None:
    status, refuses, reason = REFUSALS[what]
    bad: set[str] = set()
    with ContractServer(lambda s: Answer(status) if refuses(s, bad) else None) as server:
        t = tracer_for(server.url, mode, tmp_path, api_key="hh_canary_1234")
        ids = work(t, 8)
        bad.add(ids[3])
        lost = ids if what not in ("one event", "unprocessable", "too large") else [ids[3]]
        assert t.flush(20).ok
        stats = t.stats()
        assert stats.dropped == {reason: len(lost)}
        assert set(server.events) == set(ids) - set(lost)
        found = letters(tmp_path)
        assert event_ids(found) == (lost if mode == "D" else [])
        for letter in found:
            assert (letter.reason, letter.status, letter.message) == (reason, status, "as told")
            assert letter.session_id == t.current_session().id
        assert t.shutdown(20).ok
        assert_books(t.stats())
    if mode == "D":
        assert [path.name for path in (tmp_path / "spool").iterdir()] == [FILE_NAME]
        assert b"canary" not in (tmp_path / "spool" / FILE_NAME).read_bytes()
    else:
        assert not (tmp_path / "spool").exists()


def test_a_copy_that_cannot_be_kept_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad: set[str] = set()
    with ContractServer(
        lambda s: Answer(400) if s.is_batch and bad & set(s.event_ids) else None
    ) as server:
        t = tracer_for(server.url, "D", tmp_path)
        (tmp_path / "spool" / FILE_NAME).mkdir()
        ids = work(t, 30)
        bad |= set(ids[::10])
        assert t.flush(20).ok
        assert set(server.events) == set(ids) - bad
        assert t.stats().dropped == {"rejected": 3}
        assert t.shutdown(20).ok
        assert_books(t.stats())
    said = [r.getMessage() for r in caplog.records if "without a copy" in r.getMessage()]
    assert len(said) == 1


# -- what is too large -----------------------------------------------------------------------


@modes
def test_f23_a_batch_above_the_servers_limit_is_split_and_the_limit_kept(
    mode: str, tmp_path: Path
) -> None:
    with ContractServer(lambda s: Answer(413) if s.size > 1 << 20 else None) as server:
        t = tracer_for(server.url, mode, tmp_path, batch_size=5000)
        for wave in range(3):
            before = len(server.batches())
            ids = work(t, 490, "x" * 8000)  # 4 MiB, of which a full segment goes out meanwhile
            assert t.flush(20).ok
            assert set(ids) <= set(server.events)
            mine = server.batches()[before:]
            assert len(mine) <= 12
            refused = [s.size for s in mine if s.size > 1 << 20]
            assert (not refused) if wave else (1 <= len(refused) <= 3), "learned once"
        assert server.resent == 0
        assert t.shutdown(20).ok
        assert t.stats().dropped == {}
        assert_books(t.stats())


@modes
def test_f23_one_event_above_the_limit_is_cut_and_says_so(mode: str, tmp_path: Path) -> None:
    with ContractServer(lambda s: Answer(413) if s.size > 1 << 20 else None) as server:
        t = tracer_for(server.url, mode, tmp_path, max_event_bytes=3 << 20)
        small = work(t, 5)
        with t.tool("large", inputs={"kept": 1, "text": "y" * (2 << 20)}) as span:
            span.set(outputs={"z": "z" * 5000}, metadata={"m": 1})
        small += work(t, 5)
        assert t.flush(20).ok
        assert set(server.events) == {*small, span.id}
        large = server.events[span.id]
        assert large["inputs"]["kept"] == 1
        assert large["inputs"]["__cut__"]["bytes"] > 2 << 20
        assert large["inputs"]["text"]["head"].startswith("yyy")
        assert large["outputs"] == {"z": "z" * 5000}, "the largest fields are cut first"
        assert large["metadata"] == {"m": 1}
        assert list(large)[-1] == "metadata"
        assert (t.stats().dropped, t.stats().truncated_values) == ({}, 1)
        assert len(server.batches()) <= 6
        assert t.shutdown(20).ok
        assert_books(t.stats())


def test_f23_a_limit_far_below_one_event_is_approached_in_few_steps(tmp_path: Path) -> None:
    with ContractServer(
        lambda s: Answer(413) if s.is_batch and s.size > 20_000 else None
    ) as server:
        t = tracer_for(server.url, "D", tmp_path)
        with t.tool("at first", inputs={"text": "x" * 300_000}) as first:
            pass
        with t.tool("out of reach", inputs={"text": "x" * 900_000}) as second:
            pass
        ids = work(t, 30, "x" * 1000)
        assert t.flush(20).ok
        assert set(server.events) == {first.id, second.id, *ids}
        assert "__cut__" in server.events[second.id]["inputs"]
        assert len(server.batches()) <= 15
        assert t.shutdown(20).ok
        assert_books(t.stats())


@modes
def test_f23_an_event_that_cannot_be_cut_to_fit_is_dropped(mode: str, tmp_path: Path) -> None:
    with ContractServer(lambda s: Answer(413) if s.is_batch and s.size > 480 else None) as server:
        t = tracer_for(server.url, mode, tmp_path)
        small = work(t, 5)
        lost = work(t, 1, "x" * 2000)
        small += work(t, 5)
        assert t.flush(20).ok
        assert set(server.events) == set(small)
        assert t.stats().dropped == {"too_large": 1}
        if mode == "D":
            (letter,) = letters(tmp_path)
            assert event_ids([letter]) == lost
            assert (letter.reason, letter.status) == ("too_large", 413)
            assert b"x" * 2000 in letter.event, "the copy is whole"
        assert t.shutdown(20).ok
        assert_books(t.stats())


# -- a server that refuses everything --------------------------------------------------------


@modes
def test_f16_a_server_that_refuses_every_event_costs_few_requests(
    mode: str, tmp_path: Path
) -> None:
    drift = True
    with ContractServer(lambda s: Answer(400) if s.is_batch and drift else None) as server:
        t = tracer_for(server.url, mode, tmp_path)
        lost: list[str] = []
        for _ in range(10):
            lost += work(t, 500)
            result = t.flush(30)
            assert not result.ok
            assert "the server refuses everything: as told" in str(result.reason)
        assert len(server.batches()) <= 2 * 10 + 50
        assert t.stats().dropped == {"rejected": 5000}
        assert (t.stats().spooled, t.stats().queued) == (0, 0)
        assert sorted(event_ids(letters(tmp_path))) == (sorted(lost) if mode == "D" else [])
        drift = False
        ids = work(t, 500)
        assert t.flush(30).ok, "one acceptance, and all is as it was"
        assert set(server.events) == set(ids)
        assert t.shutdown(20).ok
        assert t.stats().delivered == 500
        assert_books(t.stats())


def test_f16_one_good_batch_closes_the_breaker_even_behind_a_bad_event(tmp_path: Path) -> None:
    bad: set[str] = set()
    drift = True

    def verdict(seen: Seen) -> Answer | None:
        if seen.is_batch and (drift or bad & set(seen.event_ids)):
            return Answer(400)
        return None

    with ContractServer(verdict) as server:
        t = tracer_for(server.url, "D", tmp_path)
        work(t, 500)
        assert not t.flush(20).ok
        drift = False
        ids = work(t, 500)
        bad.add(ids[100])
        assert t.flush(20).ok
        assert set(server.events) == set(ids) - bad
        assert t.stats().dropped == {"rejected": 501}
        assert t.shutdown(20).ok
        assert_books(t.stats())
