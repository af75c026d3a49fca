"""`tracer demo`: the whole path, as its own processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from collector_process import CollectorProcess

ROOT = Path(__file__).parents[2]


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "tracer", "demo", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_books_balance() -> None:
    done = demo("--json")
    assert (done.returncode, done.stderr) == (0, "")
    numbers = json.loads(done.stdout)
    assert numbers.pop("url").startswith("http://127.0.0.1:")
    recorded = numbers["recorded"]
    assert recorded > 30
    assert numbers == {
        "recorded": recorded,
        "delivered": recorded,
        "dropped": 0,
        "sessions": 4,
        "events_read_back": recorded,
    }


def test_its_collector_is_not_the_one_that_local_mode_finds(tmp_path: Path) -> None:
    state = Path(os.environ["XDG_STATE_HOME"])
    with CollectorProcess.start(tmp_path / "c.db", state=state):
        done = demo("--json")
    assert (done.returncode, done.stderr) == (0, ""), "it would say that another one is named"


def test_it_prints_trees_and_the_accounting(collector: CollectorProcess) -> None:
    done = demo("--url", collector.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "   ├─ chain   plan  " in done.stdout
    assert "KeyError: 'monads'" in done.stdout
    assert f"4 sessions at {collector.url}" in done.stdout


def test_events_that_did_not_arrive_are_a_failure() -> None:
    done = demo("--json", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "cannot reach http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_url_is_one_clear_message() -> None:
    done = demo("--url", "ftp://example.com")
    assert done.returncode == 2
    assert "must be a http:// or https:// URL, not 'ftp://example.com'" in done.stderr
    assert "Traceback" not in done.stderr
