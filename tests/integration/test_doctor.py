"""`tracer doctor`: the settings in one screen, and what would be masked, without showing it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tracer.cli import cli
from tracer.local import LocalAddress, announce
from tracer.version import __version__

SECRET = "sk-proj-abcDEF1234567890abcdefgh"  # noqa: S105 - made up
HIDDEN = SECRET[8:]


def run(*arguments: str, stdin: str | None = None, **environ: str) -> Result:
    return CliRunner().invoke(
        cli, ("doctor", *arguments), input=stdin, env=environ, prog_name="tracer"
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_settings_fit_one_screen_and_hide_the_key(home: Path) -> None:
    ran = run(HH_API_KEY="hh_canary_1234567890abcd", HH_SPOOL_DIR=str(home))
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert "canary" not in ran.output
    assert __version__ in ran.output
    for expected in ("hh_…abcd", "https://api.honeyhive.ai", str(home), "made when first needed"):
        assert expected in ran.output
    assert len(ran.output.splitlines()) < 24


def test_settings_as_json_say_what_is_missing(home: Path) -> None:
    home.mkdir()
    (home / "a.segment").touch()
    found = json.loads(run("--json", HH_SPOOL_DIR=str(home)).stdout)
    assert (found["key"], found["server"]) == (None, None)
    assert (found["journal"], found["journal_exists"], found["segments"]) == (str(home), True, 1)


def test_it_tells_whether_a_local_collector_runs(home: Path) -> None:
    place = Path(os.environ["XDG_STATE_HOME"]) / "tracer" / "collector.json"
    place.parent.mkdir(parents=True)
    assert "none runs" in run(HH_SPOOL_DIR=str(home)).stdout
    held = announce(place, LocalAddress("http://127.0.0.1:4747", "canary"))
    assert held is not None
    shown = run(HH_SPOOL_DIR=str(home)).stdout
    assert "nearby   http://127.0.0.1:4747" in shown
    found = json.loads(run("--json", HH_SPOOL_DIR=str(home)).stdout)
    assert found["local_collector"] == "http://127.0.0.1:4747"
    assert "canary" not in shown + str(found)
    held.end()
    assert json.loads(run("--json").stdout)["local_collector"] is None


def test_wrong_setting_is_wrong_usage() -> None:
    ran = run(HH_BATCH_SIZE="many")
    assert ran.exit_code == 2
    assert "HH_BATCH_SIZE: must be a whole number" in ran.stderr


def test_findings_in_a_json_document_name_path_and_rule(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"a": [{"password": "hunter2"}], "t": f"x\n{SECRET}"}, indent=1))
    ran = run("--redaction", str(file))
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        "a[0].password  name  [redacted]",
        "t: line 2 of the text  openai  [redacted:openai]",
        "2 would be masked by: name, openai",
    ]


def test_findings_in_json_lines_name_the_line() -> None:
    lines = '{"a": 1}\n\n{"api_key": "abc"}\nno JSON, but password=hunter2\n'
    found = json.loads(run("--redaction", "-", "--json", stdin=lines).stdout)
    assert found == {
        "masked": 2,
        "findings": [
            {"file_line": 3, "path": "api_key", "line": 1, "rule": "name", "shown": "[redacted]"},
            {"file_line": 4, "path": "", "line": 1, "rule": "name", "shown": "[redacted]"},
        ],
    }


def test_findings_in_a_text_name_the_line_and_never_the_secret(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_text(f"started\nAuthorization: Bearer {HIDDEN}\nftp://u:{HIDDEN}@h\n")
    for arguments in ((), ("--json",)):
        ran = run("--redaction", str(file), *arguments)
        assert ran.exit_code == 0
        assert HIDDEN not in ran.output
    assert run("--redaction", str(file)).stdout.splitlines() == [
        "line 2  name  [redacted]",
        "line 3  url_password  [redacted:url_password]",
        "2 would be masked by: name, url_password",
    ]


def test_file_without_secrets_says_so() -> None:
    ran = run("--redaction", "-", stdin="the password is strong")
    assert (ran.exit_code, ran.stdout) == (0, "0 would be masked\n")


def test_nothing_a_terminal_acts_on_is_printed() -> None:
    ran = run("--redaction", "-", stdin=json.dumps({"\x1b]0;t\x07\u202ea\n": {"password": "x"}}))
    assert ran.exit_code == 0
    assert not set(ran.output) & {"\x1b", "\x07", "\u202e"}
    assert ran.stdout.splitlines()[0] == "]0;ta.password  name  [redacted]"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"\xff\xfe", "is not UTF-8 (byte 0)")],
)
def test_bad_file_is_one_clear_message(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "a.json"
    if content is not None:
        file.write_bytes(content)
    ran = run("--redaction", str(file))
    assert ran.exit_code == 2
    assert message in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.output
