"""Local mode: programs find the collector of this machine, and it finds nothing else of theirs."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from collector_process import CollectorProcess

from tracer.local import find

TOKEN = "t-0123"  # noqa: S105 - of a collector that lives for one test


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return the state directory that programs and collectors of a test share."""
    return tmp_path / "state"


def place_in(state: Path) -> Path:
    return state / "tracer" / "collector.json"


# -- the collector says where it is ------------------------------------------------------------


def test_a_running_collector_says_where_it_is(state: Path, tmp_path: Path) -> None:
    place = place_in(state)
    with CollectorProcess.start(tmp_path / "c.db", token=TOKEN, state=state) as collector:
        assert find(place) == (collector.url, TOKEN)
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        assert collector.stderr() == ""
        assert collector.terminate() == 0
    assert not place.exists()
    assert find(place) is None


def test_a_killed_collector_leaves_a_file_that_says_nothing(state: Path, tmp_path: Path) -> None:
    place = place_in(state)
    with CollectorProcess.start(tmp_path / "c.db", state=state) as collector:
        url = collector.url
        collector.kill()
        assert json.loads(place.read_bytes())["url"] == url
        assert find(place) is None
        collector.restart()
        assert find(place) == (url, None)


def test_only_the_first_collector_is_named(state: Path, tmp_path: Path) -> None:
    with (
        CollectorProcess.start(tmp_path / "1.db", state=state) as first,
        CollectorProcess.start(tmp_path / "2.db", state=state) as second,
    ):
        assert find(place_in(state)) == (first.url, None)
        assert "another collector is named in" in second.stderr()
        assert second.terminate() == 0
        assert find(place_in(state)) == (first.url, None)


def test_a_state_directory_that_cannot_be_used_costs_the_notice_alone(
    state: Path, tmp_path: Path
) -> None:
    state.write_text("in the way")
    with CollectorProcess.start(tmp_path / "c.db", state=state) as collector:
        assert "will not find this collector: cannot say so" in collector.stderr()
        assert "Traceback" not in collector.stderr()
        assert collector.terminate() == 0


def test_beyond_loopback_programs_of_this_machine_are_told_its_loopback(
    state: Path, tmp_path: Path
) -> None:
    with CollectorProcess.start(
        tmp_path / "c.db",
        token=TOKEN,
        host="0.0.0.0",  # noqa: S104 - the point
        state=state,
    ) as collector:
        assert find(place_in(state)) == (f"http://127.0.0.1:{collector.port}", TOKEN)
