"""The README's example runs as it stands and prints what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from collector_process import CollectorProcess

from tracer.client import Client

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(mark: str) -> str:
    found = re.search(rf"^<!-- {mark} -->\n```\w*\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert found, f"no block {mark}"
    return found[1]


def without_seconds(text: str) -> str:
    return re.sub(r"seconds=[\d.e-]+", "seconds=…", text)


def test_the_example_prints_what_it_says(collector: CollectorProcess, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block("example"))
    environ = {**os.environ, "HH_API_URL": collector.url, "HH_SPOOL_DIR": str(tmp_path / "spool")}
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(program)],
        env=environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert without_seconds(done.stdout) == without_seconds(block("output"))
    with Client(base_url=collector.url) as client:
        stored = {e["event_name"]: e for e in client.events.search()["events"]}
    assert set(stored) == {"chat 42", "plan", "lookup"}
    assert stored["lookup"]["parent_id"] == stored["plan"]["event_id"]
    assert stored["plan"]["outputs"] == {"order": "A7", "status": "shipped"}
    assert stored["chat 42"]["user_properties"] == {"user_id": "u1"}
