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
