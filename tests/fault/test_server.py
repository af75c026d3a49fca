"""The server refuses, for a while or for good: what is lost is counted, and copied where it can."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path

import pytest
from fakes import Answer, ContractServer, Seen
from programs import assert_books, wait_until
from raw_server import RawServer
from tracers import tracer_for, work

from tracer import Tracer
from tracer.deadletters import FILE_NAME, Letter, read


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


# -- many sessions at once -------------------------------------------------------------------


def sessions(t: Tracer, number: int, each: int = 1) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for n in range(number):
        with t.session(f"session {n}") as session:
            found[session.id] = work(t, each)
    return found


def flat(found: dict[str, list[str]]) -> set[str]:
    return {event_id for ids in found.values() for event_id in ids}


def test_a_flush_of_many_sessions_is_one_batch(tmp_path: Path) -> None:
    with ContractServer() as server:
        t = tracer_for(server.url, "D", tmp_path)
        few = sessions(t, 4, 3)
        assert t.flush(20).ok
        assert len(server.batches()) == 4
        assert not [s for s in server.batches() if s.is_across]
        many = sessions(t, 20, 3)
        assert t.flush(20).ok
        (batch,) = server.batches()[4:]
        assert batch.is_across
        assert set(batch.event_ids) == flat(many)
        for session, ids in {**few, **many}.items():
            assert {server.events[i]["session_id"] for i in ids} == {session}
        kinds = ["u" if s.method == "PUT" else "e" if s.is_batch else "c" for s in server.seen[12:]]
        assert "".join(kinds) == "c" * 20 + "e" + "u" * 20
        assert t.shutdown(20).ok
        assert t.stats().delivered == 72
        assert_books(t.stats())


def test_a_thousand_events_are_the_most_an_answer_has_to_name(tmp_path: Path) -> None:
    with ContractServer() as server:
        t = tracer_for(server.url, "D", tmp_path, batch_size=5000)
        ids = flat(sessions(t, 10, 250))
        assert t.flush(20).ok
        assert set(server.events) == ids
        assert sorted(len(s.event_ids) for s in server.batches()) == [500, 1000, 1000]
        assert t.shutdown(20).ok


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 422, 501, 301])
def test_what_refuses_many_sessions_is_asked_for_each(status: int, tmp_path: Path) -> None:
    with ContractServer(lambda s: Answer(status) if s.is_across else None) as server:
        t = tracer_for(server.url, "D", tmp_path)
        ids = flat(sessions(t, 10))
        assert t.flush(20).ok
        assert [s.is_across for s in server.batches()] == [True] + [False] * 10
        assert set(server.events) == ids
        ids |= flat(sessions(t, 10))
        assert t.flush(20).ok
        assert len([s for s in server.batches() if s.is_across]) == 1, "not asked again for long"
        assert set(server.events) == ids
        assert server.resent == 0
        assert t.shutdown(20).ok
        assert t.stats().dropped == {}
        assert_books(t.stats())


def test_a_poison_event_among_many_sessions_costs_itself_alone(tmp_path: Path) -> None:
    bad: set[str] = set()
    with ContractServer(
        lambda s: Answer(400) if s.is_batch and bad & set(s.event_ids) else None
    ) as server:
        t = tracer_for(server.url, "D", tmp_path)
        found = sessions(t, 10, 8)
        bad.add(next(iter(found.values()))[3])
        assert t.flush(20).ok
        assert set(server.events) == flat(found) - bad
        assert t.stats().dropped == {"rejected": 1}
        assert t.shutdown(20).ok
        assert_books(t.stats())


def test_a_vanished_session_among_many_is_created_again(tmp_path: Path) -> None:
    with ContractServer() as server:
        t = tracer_for(server.url, "D", tmp_path)
        open_ones = [t.session(f"session {n}") for n in range(10)]
        ids: list[str] = []
        for _ in range(2):
            for one in open_ones:
                with one:
                    ids += work(t)
            assert t.flush(20).ok
            server.sessions.pop(next(iter(server.sessions)))
        assert set(server.events) == set(ids)
        assert t.shutdown(20).ok
        assert t.stats().dropped == {}


def test_f21_a_renamed_session_goes_by_itself(tmp_path: Path) -> None:
    with ContractServer() as server:
        t = tracer_for(server.url, "D", tmp_path)
        found = sessions(t, 6)
        renamed = next(iter(found))
        server.renames[renamed] = "00000000-0000-4000-8000-000000000001"
        assert t.flush(20).ok
        assert sorted((s.is_across, len(s.event_ids)) for s in server.batches()) == [
            (False, 1),
            (True, 5),
        ]
        (own,) = found[renamed]
        assert server.events[own]["session_id"] == server.renames[renamed]
        assert {e["session_id"] for e in server.events.values()} == set(server.sessions)
        assert t.shutdown(20).ok


routes = pytest.mark.parametrize("route", ["many sessions", "one session"])
SHORT: dict[str, bytes] = {
    "names none": b'{"success":true}',
    "an empty list": b'{"success":true,"event_ids":[]}',
    "others": b'{"success":true,"event_ids":["%b"]}' % (b"0" * 36),
    "no list": b'{"success":true,"event_ids":"all"}',
    "HTML": b"<html>ok</html>",
    "no success": b'{"success":false,"event_ids":[]}',
}


@pytest.mark.parametrize("body", SHORT.values(), ids=SHORT)
def test_f17_an_answer_that_does_not_name_the_events_acknowledges_none(
    body: bytes, mode: str, tmp_path: Path
) -> None:
    with ContractServer(lambda s: Answer(200, body=body) if s.is_across else None) as server:
        t = tracer_for(server.url, mode, tmp_path)
        ids = flat(sessions(t, 10))
        assert t.flush(20).ok
        assert set(server.events) == ids, "nothing was stored, nothing was believed"
        assert t.stats().ambiguous_resends == 1
        assert t.shutdown(20).ok
        assert t.stats().delivered == 10
        assert_books(t.stats())


@routes
def test_f17_of_a_short_answer_what_it_names_is_delivered_and_the_rest_sent_again(
    route: str, mode: str, tmp_path: Path
) -> None:
    across = route == "many sessions"
    short = iter([True])

    def verdict(seen: Seen) -> Answer | None:
        if seen.is_batch and next(short, False):
            for event in seen.body["events"][:4]:  # stores four, says so
                server.events[event["event_id"]] = {**event, "session_id": event["session_id"]}
            said = {"success": True, "event_ids": seen.event_ids[:4]}
            return Answer(200, body=json.dumps(said).encode())
        return None

    with ContractServer(verdict) as server:
        t = tracer_for(server.url, mode, tmp_path)
        ids = flat(sessions(t, 10)) if across else set(work(t, 10))
        if not across:
            result = t.flush(20)
            assert (result.ok, result.delivered) == (False, 4)
            assert result.reason == "the answer names 4 of 10 events"
        assert t.flush(20).ok
        assert set(server.events) == ids
        assert server.resent == 0, "what was named is not sent again"
        assert t.stats().ambiguous_resends == 1
        assert t.shutdown(20).ok
        assert t.stats().delivered == 10
        assert_books(t.stats())


def test_f22_a_failure_that_names_what_it_stored_is_sent_the_rest(
    mode: str, tmp_path: Path
) -> None:
    first = iter([True])

    def verdict(seen: Seen) -> Answer | None:
        if not (seen.is_batch and next(first, False)):
            return None
        for event in seen.body["events"][:6]:
            server.events[event["event_id"]] = event
        said = {"message": "partially created", "event_ids": seen.event_ids[:6]}
        return Answer(500, body=json.dumps(said).encode())

    with ContractServer(verdict) as server:
        t = tracer_for(server.url, mode, tmp_path)
        ids = work(t, 10)
        result = t.flush(20)
        assert (result.ok, result.delivered, result.reason) == (False, 6, "partially created")
        assert t.flush(20).ok
        assert [len(s.event_ids) for s in server.batches()] == [10, 4]
        assert set(server.events) == set(ids)
        assert server.resent == 0
        assert t.shutdown(20).ok
        assert t.stats().delivered == 10
        assert_books(t.stats())


@routes
def test_f22_409_is_delivered(route: str, mode: str, tmp_path: Path) -> None:
    across = route == "many sessions"
    with ContractServer(lambda s: Answer(409, stores=True) if s.is_batch else None) as server:
        t = tracer_for(server.url, mode, tmp_path)
        ids = flat(sessions(t, 10)) if across else set(work(t, 10))
        assert t.flush(20).ok
        assert set(server.events) == ids
        assert server.resent == 0 or across
        assert len(server.batches()) == (11 if across else 1)
        assert t.shutdown(20).ok
        assert (t.stats().delivered, t.stats().dropped) == (10, {})
        assert_books(t.stats())


# -- the key ---------------------------------------------------------------------------------


class KeyedServer(ContractServer):
    """Takes one key, which may be rotated, and remembers what it was given."""

    def __init__(self, key: str, status: int = 401) -> None:
        self.key = key
        self.given: list[str] = []
        super().__init__(lambda _: None if self.given[-1] == self.key else Answer(status))

    def _serve(self, same: RawServer, connection: socket.socket, request: bytes) -> None:
        found = re.search(rb"\r\nauthorization: bearer (\S+)", request, re.IGNORECASE)
        self.given.append(found[1].decode() if found else "")
        super()._serve(same, connection, request)


def logged(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("source", ["function", "environment"])
def test_f19_a_rotated_key_works_at_once(
    source: str, status: int, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["hh_key_one"]
    monkeypatch.setenv("HH_API_KEY", keys[0])
    with KeyedServer("hh_key_one", status) as server:
        t = tracer_for(
            server.url, mode, tmp_path, api_key=(lambda: keys[0]) if source == "function" else None
        )
        ids = work(t, 5)
        assert t.flush(20).ok
        server.key = keys[0] = "hh_key_two"
        monkeypatch.setenv("HH_API_KEY", keys[0])
        ids += work(t, 5)
        assert t.flush(20).ok
        assert server.given == ["hh_key_one"] * 3 + ["hh_key_two"]
        assert set(server.events) == set(ids)
        assert t.shutdown(20).ok
        assert_books(t.stats())


def held_for(
    seconds: float, probe: float, mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A revoked key: everything is held, one look each `probe` seconds, until it is replaced."""
    keys = ["hh_canary_one"]
    with KeyedServer("hh_another") as server:
        t = tracer_for(server.url, mode, tmp_path, api_key=lambda: keys[0], flush_interval=0.5)
        ids: list[str] = []
        until = time.monotonic() + seconds
        pause = threading.Event()
        while time.monotonic() < until:
            ids += work(t, 20)
            pause.wait(0.1)
        stats = t.stats()
        assert stats.delivered == 0
        assert stats.dropped == {}
        assert stats.spooled + stats.queued + stats.in_flight == len(ids)
        assert 2 <= len(server.seen) <= seconds / probe + 1
        gaps = [b.moment - a.moment for a, b in pairwise(server.seen)]
        assert min(gaps) >= probe * 0.95
        assert logged(caplog, "sending failed (status 401)") == 1
        keys[0] = "hh_another"
        wait_until(lambda: len(server.events) == len(ids), probe + 20)
        assert set(server.events) == set(ids)
        assert t.shutdown(20).ok
        assert t.stats().delivered == len(ids)
        assert_books(t.stats())
        assert "canary" not in caplog.text


def test_f19_a_revoked_key_holds_everything(
    mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.retry.AUTH_PROBE", 0.7)
    held_for(2.5, 0.7, mode, tmp_path, caplog)


@pytest.mark.slow
def test_f19_a_revoked_key_holds_everything_for_a_minute(
    mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held_for(65, 30, mode, tmp_path, caplog)


def test_f19_a_key_that_changes_and_stays_wrong_is_no_reason_to_ask_more_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = count()
    with KeyedServer("hh_right") as server:
        t = tracer_for(server.url, "D", tmp_path, api_key=lambda: f"hh_wrong_{next(numbers)}")
        work(t, 5)
        assert not t.flush(20).ok
        assert len(server.seen) == 2, "the one it had, and the one it has now"
        assert not t.shutdown(20).ok


def test_a_function_that_fails_is_no_crash_and_nothing_is_sent_without_a_key(
    mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    works = False

    def key() -> str:
        if not works:
            raise RuntimeError("canary")
        return "hh_key"

    with KeyedServer("hh_key") as server:
        t = tracer_for(server.url, mode, tmp_path, api_key=key)
        ids = work(t, 5)
        for _ in range(3):
            result = t.flush(20)
            assert result.reason == "the function given as api_key has returned no key yet"
        assert server.seen == []
        assert logged(caplog, "api_key: the function raised RuntimeError") == 1
        works = True
        assert t.flush(20).ok
        assert set(server.events) == set(ids)
        assert t.shutdown(20).ok
        assert_books(t.stats())
        assert "canary" not in caplog.text


def test_f45_a_key_rotated_inside_a_process_stays_the_same_destination(tmp_path: Path) -> None:
    keys = ["hh_key_one"]
    with KeyedServer("hh_key_two") as server:
        one = tracer_for(server.url, "D", tmp_path, api_key=lambda: keys[0])
        left = tracer_for(server.url, "D", tmp_path, api_key="hh_key_one")
        ids = work(left, 3)
        assert not left.shutdown(20).ok, "refused: they stay in the journal"
        keys[0] = "hh_key_two"
        ids += work(one, 3)
        wait_until(lambda: one.flush(20).ok and len(server.events) == 6)
        assert set(server.events) == set(ids), "adopted from before the rotation"
        server.key = "hh_key_three"
        ids += work(one, 30_000, "x" * 100)  # into a segment made after it
        assert not one.shutdown(20).ok
        server.key = "hh_key_two"
        two = tracer_for(server.url, "D", tmp_path, api_key="hh_key_two")
        work(two)
        two.flush(20)
        wait_until(lambda: two.flush(20).ok and len(server.events) > 20_000, 60)
        assert two.stats().adopted_in > 20_000, "the segments that are the new key's"
        assert two.shutdown(20).ok
        assert_books(two.stats())
