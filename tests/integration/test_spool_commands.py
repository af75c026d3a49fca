"""`tracer push` and `tracer spool`: what dead programs left is sent or deleted by hand."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from collector_process import CollectorProcess
from fakes import Answer, ContractServer, Seen
from programs import assert_exact, environment, run, spawn, stored, wait_until

from tracer.frame import EVENT, build_frame
from tracer.spool import Spool

# Records in two sessions, one of which never ends, and dies or ends.
LEAVES = """
import json, os, sys, tracer
t = tracer.init()
ids = []
with t.session("first") as session:
    for n in range(int(sys.argv[1])):
        with t.chain("outer") as outer:
            with t.tool("inner", inputs={"n": n}) as inner:
                pass
        ids += [outer.id, inner.id]
    t.enrich_session(outputs={"status": "ok"})
with t.tool("default") as span:
    pass
print(json.dumps([*ids, span.id]), flush=True)
if sys.argv[2] == "dies":
    os._exit(9)
if sys.argv[2] == "lives":
    sys.stdin.read()
"""

EVIL = "7\x1b]0;title\x07\u202e.txt"  # renames a terminal, and reverses what follows


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def leave(state: Path, number: int = 5, how: str = "dies", **extra: str) -> set[str]:
    """Run a program to its end; return the ids it recorded."""
    env = environment(XDG_STATE_HOME=state, **(extra or {"HH_LOCAL": "1"}))
    done = run(LEAVES, number, how, env=env)
    assert done.err == "", done.err
    return set(json.loads(done.out))


def tracer(*arguments: object, state: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command line; its standard input is no terminal."""
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "tracer", *map(str, arguments)],
        env=environment(XDG_STATE_HOME=state, **extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def segments(state: Path) -> list[Path]:
    return sorted((state / "tracer" / "spool").glob("*.segment"))


# -- push --------------------------------------------------------------------------------------


def test_push_uploads_what_dead_programs_left_with_the_same_ids(
    state: Path, tmp_path: Path, collector: CollectorProcess
) -> None:
    ids = leave(state) | leave(state, how="ends")
    done = tracer("push", "--url", collector.url, state=state)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{len(ids)} events pushed to {collector.url}\n"
    assert segments(state) == []
    rows = {row.event_id: row for row in stored(collector.db)}
    assert_exact(list(rows.values()), ids)
    for row in rows.values():
        if row.name == "inner":
            assert rows[str(row.parent_id)].name == "outer"
            assert rows[str(row.parent_id)].session_id == row.session_id
    sessions = stored(collector.db, sessions=True)
    assert {row.session_id for row in rows.values()} == {row.event_id for row in sessions}
    first = [row for row in sessions if row.name == "first"]
    assert [row.outputs for row in first] == [{"status": "ok"}] * 2, "updates were sent, too"
    assert all(row.duration is not None for row in first)

    again = tracer("push", "--url", collector.url, "--json", state=state)
    assert again.returncode == 0
    assert json.loads(again.stdout) == {
        "sent": 0,
        "dropped": {},
        "refused_beside_events": 0,
        "left": 0,
        "segments_of_running_programs": 0,
        "reason": None,
    }
    assert_exact(stored(collector.db), ids)


def test_push_sends_sessions_then_events_then_updates(state: Path) -> None:
    ids = leave(state)
    with ContractServer() as server:
        done = tracer("push", state=state, HH_API_URL=server.url)
        assert (done.returncode, done.stderr) == (0, "")
        kinds = ["create" if s.path == "/v1/sessions" else s.method for s in server.seen]
        assert kinds == ["create", "create", "POST", "POST", "PUT"]
        assert set(server.events) == ids
        assert server.resent == 0


def test_push_leaves_running_programs_and_other_destinations_alone(
    state: Path, collector: CollectorProcess
) -> None:
    leave(state, HH_API_URL="http://127.0.0.1:9", HH_SHUTDOWN_TIMEOUT="0")
    other = {path: path.read_bytes() for path in segments(state)}
    assert len(other) == 1
    ids = leave(state)
    env = environment(XDG_STATE_HOME=state, HH_LOCAL="1")
    living = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", LEAVES, "5", "lives"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    assert living.stdout is not None
    later = set(json.loads(living.stdout.readline()))
    done = tracer("push", "--url", collector.url, state=state)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 segments of running programs are left to them\n")
    assert_exact(stored(collector.db), ids)
    living.communicate()
    done = tracer("push", "--url", collector.url, state=state)
    assert (done.returncode, done.stderr) == (0, "")
    assert_exact(stored(collector.db), ids | later)
    assert {path: path.read_bytes() for path in segments(state)} == other


def test_push_shows_what_died_in_the_midst_of_a_call(state: Path) -> None:
    dying = """
        import os, time, tracer
        t = tracer.init(flush_interval=0.5)
        with t.tool("open"):
            while t._buffer.writer.drawn < 2:
                time.sleep(0.01)
            os._exit(9)
        """
    assert run(dying, env=environment(XDG_STATE_HOME=state, HH_LOCAL="1")).code == 9
    with ContractServer() as server:
        done = tracer("push", state=state, HH_API_URL=server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("1 events pushed")
        (event,) = server.events.values()
        assert event["error"] == "interrupted: process ended"


def test_what_the_server_refuses_stays_visible(state: Path) -> None:
    ids = leave(state)
    bad = sorted(ids)[3]

    def verdict(seen: Seen) -> Answer | None:
        return Answer(400) if seen.is_batch and bad in seen.event_ids else None

    with ContractServer(verdict) as server:
        done = tracer("push", state=state, HH_API_URL=server.url)
        assert set(server.events) == ids - {bad}
    assert done.returncode == 1
    assert done.stdout.startswith(f"{len(ids) - 1} events pushed")
    (line,) = done.stderr.splitlines()
    assert line.startswith("not stored: 1 events (rejected 1): ")


def test_a_refused_update_is_a_failure_too(state: Path) -> None:
    ids = leave(state)
    with ContractServer(lambda s: Answer(400) if s.method == "PUT" else None) as server:
        done = tracer("push", state=state, HH_API_URL=server.url)
        assert set(server.events) == ids
    assert (done.returncode, done.stdout) == (1, f"{len(ids)} events pushed to {server.url}\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("not stored: 2 sessions, updates or open calls: ")


def test_a_server_that_is_away_costs_nothing(state: Path, collector: CollectorProcess) -> None:
    ids = leave(state)
    before = [path.read_bytes() for path in segments(state)]
    started = time.monotonic()
    done = tracer("push", "--url", "http://127.0.0.1:9", state=state)
    assert time.monotonic() - started < 20, "it does not wait for one that never answered"
    assert (done.returncode, done.stdout) == (1, "0 events pushed to http://127.0.0.1:9\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("not everything was sent: cannot reach http://127.0.0.1:9")
    assert f"; {len(ids)} events stay in {state}" in line
    assert [path.read_bytes() for path in segments(state)] == before
    assert tracer("push", "--url", collector.url, state=state).returncode == 0
    assert_exact(stored(collector.db), ids)


def test_push_goes_on_after_an_interruption_of_the_server(state: Path) -> None:
    ids = leave(state, 1500)
    failing = [Answer(503), Answer(503)]

    def verdict(seen: Seen) -> Answer | None:
        return failing.pop() if len(server.events) > 600 and failing else None

    with ContractServer(verdict) as server:
        done = tracer("push", state=state, HH_API_URL=server.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert failing == []
        assert set(server.events) == ids


def test_ctrl_c_leaves_the_rest_for_the_next_time(state: Path) -> None:
    ids = leave(state, 1500)
    hang = True

    def verdict(seen: Seen) -> Answer | None:
        if hang and len(server.events) > 600:
            server.pause(60)
        return None

    with ContractServer(verdict) as server:
        env = environment(XDG_STATE_HOME=state, HH_API_URL=server.url)
        pushing = spawn("from tracer.cli import cli; cli(['push'])", env=env)
        wait_until(lambda: 600 < len(server.events) < 1500)
        pushing.send_signal(signal.SIGINT)
        out, err = pushing.communicate(timeout=20)
        sent = len(server.events)
    assert pushing.returncode == 1
    assert out.startswith(f"{sent} events pushed")
    assert err.splitlines()[-1].startswith("not everything was sent: interrupted; ")
    assert f" {len(ids) - sent:,} events stay in" in err.splitlines()[-1]
    assert "Traceback" not in err
    hang = False
    with ContractServer() as server:
        assert tracer("push", state=state, HH_API_URL=server.url).returncode == 0
        assert len(server.events) == len(ids) - sent, "what was sent is not sent again"


def on_a_terminal(*arguments: str, env: dict[str, str]) -> tuple[int, str]:
    """Run the command line with a terminal as its standard error; return code and what it shows."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "tracer", *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # Linux says EIO when nobody has the other end any more
        pass
    os.close(ours)
    return process.wait(30), shown.decode()


@pytest.mark.parametrize("slow", [True, False])
def test_a_progress_bar_is_for_terminals_and_for_what_takes_long(
    slow: bool,  # noqa: FBT001 - a parameter of the test
    state: Path,
) -> None:
    leave(state, 1500)

    def verdict(seen: Seen) -> Answer | None:
        if slow and seen.is_batch:
            server.pause(0.4)
        return None

    with ContractServer(verdict) as server:
        env = environment(XDG_STATE_HOME=state, HH_API_URL=server.url, TERM="xterm")
        code, shown = on_a_terminal("push", env=env)
    assert code == 0, shown
    assert ("100%" in shown) == slow
    assert ("pushing" in shown) == slow


def test_push_wants_to_know_where_to(state: Path) -> None:
    done = tracer("push", state=state)
    assert done.returncode == 2
    assert "set HH_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr
    done = tracer("push", "--url", "ftp://x", state=state)
    assert done.returncode == 2
    assert "--url: must be a http:// or https:// URL" in done.stderr
    assert not state.exists()


# -- spool -------------------------------------------------------------------------------------


def listed(state: Path, **extra: str) -> dict[str, Any]:
    done = tracer("spool", "ls", "--json", state=state, **extra)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_ls_tells_what_lies_there_and_touches_nothing(state: Path, tmp_path: Path) -> None:
    directory = state / "tracer" / "spool"
    own = "http://127.0.0.1:9"
    leave(state, 5)
    leave(state, 2, HH_API_URL=own, HH_SHUTDOWN_TIMEOUT="0")
    leave(state, 1, HH_API_URL=own, HH_API_KEY="hh_other", HH_SHUTDOWN_TIMEOUT="0")
    dead = segments(state)
    living = Spool(directory, "local").create(1 << 20)
    living.append(build_frame(EVENT, 1, bytes(16), b"{}"))
    future = bytearray(dead[0].read_bytes())
    future[8] = 2
    (directory / "1.segment").write_bytes(future)
    (directory / "2.segment").write_bytes(b"something else" * 100)
    (directory / "3.segment").symlink_to(dead[0])
    os.mkfifo(directory / "4.segment")
    (directory / "5.segment").mkdir()
    (directory / "6.segment.tmp").touch()
    (directory / EVIL).touch()
    damaged = bytearray(dead[0].read_bytes())
    damaged[200:208] = b"\xff" * 8
    (directory / "8.segment").write_bytes(damaged)
    before = {p.name: (p.lstat().st_mtime_ns, p.lstat().st_ino) for p in directory.iterdir()}

    found = listed(state, HH_API_URL=own)
    assert found["directory"] == str(directory)
    rows = {row["name"]: row for row in found["segments"]}
    told = {
        name: (r["destination"], r["alive"], r["events"], r["sessions"], r["updates"])
        for name, r in rows.items()
    }
    assert living.path is not None
    assert told == {
        dead[0].name: ("local", False, 11, 2, 2),
        dead[1].name: ("here", False, 5, 2, 2),
        dead[2].name: ("another", False, 3, 2, 2),
        Path(living.path).name: ("local", True, 1, 0, 0),
        "8.segment": told["8.segment"],
    }
    assert rows["8.segment"]["unreadable"] == 1
    assert rows[dead[0].name]["unreadable"] == 0
    assert rows[dead[0].name]["size"] == 2 << 20
    assert 0 <= rows[dead[0].name]["age_seconds"] < 300
    what = {row["name"]: row["what"] for row in found["foreign"]}
    assert what == {
        "1.segment": "segment format 2; this version reads format 1",
        "2.segment": "not a segment",
        "3.segment": "a link",
        "4.segment": "a FIFO",
        "5.segment": "a directory",
        "6.segment.tmp": "an unfinished segment",
        EVIL: "another file",
    }

    done = tracer("spool", "ls", state=state, HH_API_URL=own)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 5 + 7 + 1
    (line,) = [line for line in lines if dead[1].name in line]
    assert line.split()[:2] == ["here", "dead"]
    assert "5 events, 2 sessions, 2 updates" in line
    assert not set("\x1b\x07\u202e") & set(done.stdout), "S23"
    assert lines[-1].startswith("5 segments in ")

    after = {p.name: (p.lstat().st_mtime_ns, p.lstat().st_ino) for p in directory.iterdir()}
    assert after == before
    living.close()


def test_ls_of_a_directory_that_is_not_there_or_no_directory(state: Path, tmp_path: Path) -> None:
    assert listed(state)["segments"] == []
    assert not state.exists()
    (tmp_path / "file").touch()
    done = tracer("spool", "ls", "--dir", tmp_path / "file", state=state)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {tmp_path / 'file'}: Not a directory\n"


def test_f45_replay_sends_what_was_for_another_destination_by_hand(
    state: Path, collector: CollectorProcess
) -> None:
    ids = leave(state, 2, HH_API_URL="http://127.0.0.1:9", HH_SHUTDOWN_TIMEOUT="0")
    (theirs,) = segments(state)
    local = leave(state)
    before = {path: path.read_bytes() for path in segments(state)}

    refused = tracer("spool", "replay", state=state, HH_API_URL=collector.url)
    assert refused.returncode == 2
    assert "pass --yes" in refused.stderr
    assert {path: path.read_bytes() for path in segments(state)} == before

    wrong = tracer("spool", "replay", "--yes", "--destination", "local", state=state)
    assert wrong.returncode == 2
    assert "tracer push" in wrong.stderr

    done = tracer("spool", "replay", "--yes", state=state, HH_API_URL=collector.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{len(ids)} events replayed to {collector.url}\n"
    assert_exact(stored(collector.db), ids)
    assert theirs not in segments(state)
    assert len(segments(state)) == 1, f"{len(local)} events of local mode stay"
    done = tracer("spool", "replay", "--yes", state=state, HH_API_URL=collector.url)
    assert (done.returncode, done.stdout) == (0, "nothing to replay\n")


def test_clear_deletes_orphans_and_counts_them(state: Path) -> None:
    leave(state, 5)
    leave(state, 2, HH_API_URL="http://127.0.0.1:9", HH_SHUTDOWN_TIMEOUT="0")
    directory = state / "tracer" / "spool"
    living = Spool(directory, "local").create(1 << 20)
    assert living.path is not None
    (directory / "note.txt").touch()
    before = sorted(directory.iterdir())
    refused = tracer("spool", "clear", state=state)
    assert refused.returncode == 2
    assert "pass --yes" in refused.stderr
    unknown = tracer("spool", "clear", "--yes", "--destination", "ffff", state=state)
    assert unknown.returncode == 2
    assert "no orphan is for the destination 'ffff'" in unknown.stderr
    assert sorted(directory.iterdir()) == before

    done = tracer("spool", "clear", "--yes", "--destination", "local", "--json", state=state)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "segments": 1,
        "events": 11,
        "sessions": 2,
        "updates": 2,
        "interrupted": 0,
        "unreadable": 0,
        "living": 1,
    }
    done = tracer("spool", "clear", "--yes", state=state)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "deleted 1 segments: 5 events, 2 sessions, 2 updates\n"
        "1 segments of running programs are left to them\n"
    )
    assert sorted(directory.iterdir()) == sorted([Path(living.path), directory / "note.txt"])
    living.close()


@pytest.mark.parametrize("command", [["spool", "ls"], ["spool", "clear", "--yes"]])
def test_looking_at_a_spool_needs_no_http(command: list[str], state: Path) -> None:
    program = """
        import sys
        from tracer.cli import cli
        cli(sys.argv[1:], standalone_mode=False)
        assert "httpx" not in sys.modules
        """
    done = run(program, *command, env=environment(XDG_STATE_HOME=state))
    assert done.code == 0, done.err


def test_dead_lists_what_was_refused_and_shows_a_terminal_nothing_else(state: Path) -> None:
    said = {"message": "no \x1b]0;title\x07such field", "success": False}
    refusal = Answer(400, body=json.dumps(said).encode())
    with ContractServer(lambda seen: refusal if seen.is_batch else None) as server:
        env = environment(XDG_STATE_HOME=state, HH_API_URL=server.url)
        assert run(LEAVES, 1, "ends", env=env).code == 0
    found = json.loads(tracer("spool", "dead", "--json", state=state).stdout)
    assert [letter["event"]["event_name"] for letter in found] == ["inner", "outer", "default"]
    assert {letter["reason"] for letter in found} == {"rejected"}
    assert {letter["status"] for letter in found} == {400}
    shown = tracer("spool", "dead", state=state)
    assert (shown.returncode, shown.stderr) == (0, "")
    *lines, last = shown.stdout.splitlines()
    assert len(lines) == 3
    assert all("rejected 400 " in line and "such field" in line for line in lines)
    assert "\x1b" not in shown.stdout
    assert last == f"3 events in {state / 'tracer' / 'spool'}: 3 rejected"
    assert json.loads(tracer("spool", "dead", "--json", state=state).stdout) == found


def test_dead_says_when_there_is_none(state: Path) -> None:
    assert tracer("spool", "dead", "--json", state=state).stdout == "[]\n"
    assert tracer("spool", "dead", state=state).stdout.endswith(": none\n")
