"""The command line against a real collector, and against servers that do not want it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import pytest
from click.testing import CliRunner, Result
from collector_process import CollectorProcess
from raw_server import RawServer, Script, answer

from tracer.cli import COMMANDS, cli
from tracer.client import Client
from tracer.schema import OPERATIONS, Operation
from tracer.version import __version__

ROOT = Path(__file__).parents[2]
KEY = "hh_canary_1234567890abcd"
FIXED = "7f0c3f0e-6e2c-4b0a-9d43-1d2f3a4b5c6d"
OPERATION = {f"{o.group}.{o.name}": o for o in OPERATIONS}
commands = pytest.mark.parametrize("operation", OPERATIONS, ids=OPERATION)


def run(*arguments: str, stdin: str | None = None, **environ: str) -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin, env=environ, prog_name="tracer")


def done(*arguments: str, stdin: str | None = None, **environ: str) -> dict[str, Any]:
    result = run(*arguments, stdin=stdin, **environ)
    assert (result.exit_code, result.stderr) == (0, "")
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.stdout == json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    return found


def words(operation: Operation) -> list[str]:
    return [operation.group, operation.name.replace("_", "-")]


def process(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "tracer", *arguments, **environ)


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        check=False,
    )


# --- every flag of the session commands -------------------------------------------------------

# flag: what is typed, and what is then stored of the session
SESSION_FLAGS: dict[str, tuple[str, dict[str, Any]]] = {
    "--session-id": (FIXED, {"session_id": FIXED, "event_id": FIXED}),
    "--event-name": ("ev", {"event_name": "ev"}),
    "--session-name": ("Chat 42 ü €", {"event_name": "Chat 42 ü €"}),
    "--source": ("sdk-python", {"source": "sdk-python"}),
    "--start-time": ("1700000000000", {"start_time": 1700000000000}),
    "--end-time": ("1.7000000005e12", {"end_time": 1700000000500}),
    "--duration": ("12.25", {"duration": 12.25}),
    "--config": ('{"model": "m", "t": 0.5}', {"config": {"model": "m", "t": 0.5}}),
    "--inputs": ('{"q": ["a", null, true]}', {"inputs": {"q": ["a", None, True]}}),
    "--outputs": ('{"a": {"b": {}}}', {"outputs": {"a": {"b": {}}}}),
    "--metadata": ('{"n": -1, "s": "x=y"}', {"metadata": {"n": -1, "s": "x=y"}}),
    "--user-properties": ('{"user_id": "u1"}', {"user_properties": {"user_id": "u1"}}),
    "--children-ids": ('["a", "b"]', {"children_ids": ["a", "b"]}),
}
STEP_A, STEP_B = str(uuid4()), str(uuid4())
EVENTS: list[dict[str, Any]] = [
    {"event_id": STEP_A, "event_type": "tool", "inputs": {"q": 1}, "event_name": "look up"},
    {"event_id": STEP_B, "event_type": "model", "inputs": {}, "outputs": {"a": 2}, "error": None},
]
BATCH_FLAGS = {"--session-id": FIXED, "--events": json.dumps(EVENTS)}


def stored(collector: CollectorProcess, event_id: str) -> dict[str, Any]:
    with Client(base_url=collector.url) as client:
        return client.events.get(event_id)["event"]


def flags_of(name: str) -> set[str]:
    return {f"--{field.replace('_', '-')}" for field in OPERATION[name].flat_schema()["properties"]}


def test_the_tables_hold_every_flag() -> None:
    assert SESSION_FLAGS.keys() == flags_of("sessions.create")
    assert BATCH_FLAGS.keys() == flags_of("sessions.create_event_batch")


@pytest.mark.parametrize("flag", SESSION_FLAGS)
def test_sessions_create_stores(flag: str, shared_collector: CollectorProcess) -> None:
    typed, wanted = SESSION_FLAGS[flag]
    said = done("sessions", "create", flag, typed, HH_API_URL=shared_collector.url)
    found = stored(shared_collector, said["session_id"])
    assert found["event_type"] == "session"
    assert {name: found[name] for name in wanted} == wanted


def test_sessions_create_stores_all_flags_at_once(collector: CollectorProcess) -> None:
    typed = [word for flag, (text, _) in SESSION_FLAGS.items() for word in (flag, text)]
    done("sessions", "create", *typed, "--base-url", collector.url)
    found = stored(collector, FIXED)
    wanted = {name: value for _, fields in SESSION_FLAGS.values() for name, value in fields.items()}
    del wanted["event_name"]  # two flags name the event
    assert {name: found[name] for name in wanted} == wanted


def test_sessions_create_without_flags(shared_collector: CollectorProcess) -> None:
    said = done("sessions", "create", HH_API_URL=shared_collector.url)
    assert (said["event_name"], said["source"]) == ("unknown", "unknown")


def test_sessions_create_event_batch_stores(collector: CollectorProcess) -> None:
    base = ["--base-url", collector.url]
    done("sessions", "create", "--session-id", FIXED, *base)
    typed = [word for flag, text in BATCH_FLAGS.items() for word in (flag, text)]
    assert done("sessions", "create-event-batch", *typed, *base) == {"success": True}
    for event in EVENTS:
        found = stored(collector, event["event_id"])
        assert found["session_id"] == FIXED
        assert {name: found[name] for name in event} == event


def test_events_commands_round_trip(collector: CollectorProcess) -> None:
    base = {"HH_API_URL": collector.url}
    session = done("sessions", "create", **base)["session_id"]
    typed = ["--event-type", "chain", "--inputs", "{}", "--session-id", session]
    made = done("events", "create", *typed, "--event-name", "plan", "--start-time", "5", **base)
    assert made["success"] is True
    batch = [{**event, "session_id": session} for event in EVENTS]
    many = done("events", "create-batch", "--events", json.dumps(batch), **base)
    assert many["event_ids"] == [STEP_A, STEP_B]
    changed = ["--event-id", STEP_A, "--feedback", '{"rating": 5}', "--duration", "7"]
    assert done("events", "update", *changed, **base)["success"] is True
    event = done("events", "get", "--event-id", STEP_A, **base)["event"]
    assert (event["feedback"], event["duration"]) == ({"rating": 5}, 7)
    filters = '[{"field": "event_name", "operator": "is", "value": "plan"}]'
    search = ["--filters", filters, "--limit", "1", "--page", "1", "--ignore-order"]
    found = done("events", "search", *search, **base)
    assert [event["event_id"] for event in found["events"]] == [made["event_id"]]
    span = '{"start_time": "1969-12-31T00:00:00Z", "end_time": "1970-01-02T00:00:00Z"}'
    assert done("events", "search", "--date-range", span, **base)["totalEvents"] == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("request.json", '{"session_id": "%s", "metadata": {"a": 1}}'),
        ("request.jsonc", '{"session_id": "%s", // mine\n "metadata": {"a": 1,},}'),
        ("request.yaml", "session_id: %s\nmetadata:\n  a: 1\n"),
        ("-", '{"session_id": "%s", "metadata": {"a": 1}}'),
    ],
)
def test_filename_holds_the_whole_request(
    name: str, text: str, shared_collector: CollectorProcess, tmp_path: Path
) -> None:
    session = str(uuid4())
    stdin = text % session if name == "-" else None
    if name != "-":
        (tmp_path / name).write_text(text % session)
        name = str(tmp_path / name)
    said = done("sessions", "create", "-f", name, stdin=stdin, HH_API_URL=shared_collector.url)
    assert said["session_id"] == session
    assert stored(shared_collector, session)["metadata"] == {"a": 1}


def test_path_parameters_and_date_range_in_a_file(collector: CollectorProcess) -> None:
    base = {"HH_API_URL": collector.url}
    done("sessions", "create", "--session-id", FIXED, **base)
    request = json.dumps({"session_id": FIXED, "events": EVENTS})
    done("sessions", "create-event-batch", "--filename", "-", stdin=request, **base)
    search = '{"date_range": {"start_time": "2020-01-01T00:00:00Z"}, "limit": 10}'
    assert done("events", "search", "--filename", "-", stdin=search, **base)["totalEvents"] == 3


# --- schemas ----------------------------------------------------------------------------------


@commands
def test_file_schema_needs_no_key_and_no_server(operation: Operation) -> None:
    shown = done(*words(operation), "--show-file-schema", HH_API_URL="http://256.0.0.1:x")
    assert shown == operation.flat_schema()


@commands
def test_argument_schema_of_every_flag(operation: Operation) -> None:
    for name, field in operation.flat_schema()["properties"].items():
        flag = name.replace("_", "-")
        assert done(*words(operation), "--show-argument-schema", flag) == field


def test_an_unknown_argument_lists_what_there_is() -> None:
    for given in ("--session-id", "session_id", "verbose", ""):
        result = run("sessions", "create-event-batch", "--show-argument-schema", given)
        assert result.exit_code == 2
        assert result.stdout == ""
        wanted = f"{given!r} is no flag of this command; allowed are session-id, events\n"
        assert result.stderr.endswith(wanted)


LOADED = """
import sys
from tracer.cli import cli
try:
    cli.main(sys.argv[1:], prog_name="tracer")
finally:
    heavy = {"httpx", "httpcore", "h11", "wrapt", "tenacity", "anyio", "ssl", "yaml", "starlette"}
    print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["sessions", "create", "--help"],
        ["sessions", "create", "--show-file-schema"],
        ["events", "search", "--show-argument-schema", "date-range"],
    ],
)
def test_schema_commands_load_no_http_library(arguments: list[str]) -> None:
    found = python("-c", LOADED, *arguments)
    assert (found.returncode, found.stderr) == (0, "[]\n")


def test_a_schema_is_printed_quickly() -> None:
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        assert process("sessions", "create", "--show-file-schema").returncode == 0
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.5  # seconds; 0.12 when idle, and the machine may be busy


# --- wrong usage ------------------------------------------------------------------------------

# what is typed, and the one message it gets
WRONG: list[tuple[list[str], str]] = [
    (["sessions", "create", "--config", "{"], "Invalid value for --config: no JSON at character 2"),
    (["sessions", "create", "--config", "[]"], "--config must be an object, not array"),
    (["sessions", "create", "--config", '{"a": NaN}'], "--config: a must be a number, not nan"),
    (["sessions", "create", "--children-ids", "[1]"], "--children-ids[0] must be a string"),
    (["sessions", "create", "--start-time", "now"], "--start-time: must be a number, not 'now'"),
    (["sessions", "create", "--start-time", "nan"], "--start-time: must be a number, not 'nan'"),
    (["sessions", "create", "--start-time", "1e999"], "must be a number, not '1e999'"),
    (["sessions", "create", "--start-time", "1_0"], "must be a number, not '1_0'"),
    (["sessions", "create", "--start-time", ""], "must be a number, not ''"),
    (["sessions", "create", "--start-tim", "1"], "No such option"),
    (["sessions", "create", "extra"], "unexpected extra argument"),
    (["sessions", "creat"], "No such command 'creat'"),
    (["sesions"], "No such command 'sesions'"),
    (["sessions", "create-event-batch"], "missing --session-id and --events; or give the whole"),
    (["sessions", "create-event-batch", "--session-id", "x"], "missing --events; or give"),
    (
        ["sessions", "create-event-batch", "--session-id", "x", "--events", '[{"inputs": {}}]'],
        "--events[0] lacks the required field event_type",
    ),
    (
        ["sessions", "create-event-batch", "--session-id", "..", "--events", "[]"],
        "session_id must not be '..'",
    ),
    (
        ["events", "create", "--event-type", "agent", "--inputs", "{}"],
        "--event-type must be one of chain, model, tool, session, not 'agent'",
    ),
    (["events", "get"], "missing --event-id"),
    (["events", "search", "--limit", "1.5"], "--limit must be an integer, not number"),
    (["events", "search", "--filters", '[{"field": "x"}]'], "--filters[0] lacks the required"),
    (["sessions", "create", "-f", "none.json"], "none.json: cannot be read: No such file"),
    (
        ["sessions", "create", "-f", "-", "--source", "x"],
        "--filename and --source exclude each other",
    ),
    (
        ["sessions", "create", "--show-file-schema", "--config", "{}"],
        "--show-file-schema and --config exclude each other",
    ),
    (
        ["sessions", "create", "--show-argument-schema", "config", "--show-file-schema"],
        "--show-file-schema and --show-argument-schema exclude each other",
    ),
    (
        ["sessions", "create", "--show-argument-schema", "config", "-f", "x.json"],
        "--filename and --show-argument-schema exclude each other",
    ),
    (
        ["events", "search", "--no-ignore-order", "--show-file-schema"],
        "--show-file-schema and --ignore-order exclude each other",
    ),
    (["sessions", "create", "--base-url", "nowhere"], "--base-url: must be a http:// or https://"),
    (["sessions", "create", "--base-url", "http://x.test"], "--base-url: plain http beyond"),
    (["sessions", "create", "--api-key", ""], "--api-key: it is empty"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(w) for w, _ in WRONG])
def test_wrong_usage_is_exit_2_with_one_message(arguments: list[str], message: str) -> None:
    with RawServer(answer(200, b"{}")) as server:
        result = run(*arguments, HH_API_URL=server.url)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr.splitlines()[-1]
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr
    assert server.connections == 0


BAD_FILES = [
    ('{"session_id": "x", "colour": 1}', "the request has the unknown field 'colour'; allowed are"),
    ('{"session_id": "x"}', "the request lacks the required field events"),
    ('{"session_id": 1, "events": []}', "session_id must be a string, not integer"),
    ('{"session_id": "x",\n "events": [}', "standard input, line 2, column 13: Expecting value"),
    ("[]", "must hold an object with the request's fields, not an array"),
    ("a: !!python/name:os.system", "could not determine a constructor for the tag"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_wrong_file_is_exit_2_with_one_message(text: str, message: str) -> None:
    with RawServer(answer(200, b"{}")) as server:
        result = run("sessions", "create-event-batch", "-f", "-", stdin=text, HH_API_URL=server.url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr.splitlines()[-1]
    assert "--filename" in result.stderr.splitlines()[-1]
    assert server.connections == 0


def test_an_argument_that_is_no_text_is_refused() -> None:
    name = os.fsdecode(b"\xff")
    result = run("sessions", "create", "--session-name", name, HH_API_URL="http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "cannot be written as JSON" in result.stderr


def test_no_key_and_no_url_is_exit_2() -> None:
    result = run("sessions", "create")
    assert result.exit_code == 2
    assert "no API key: set HH_API_KEY" in result.stderr


# --- what servers say -------------------------------------------------------------------------

REFUSAL = b'{"statusCode": 401, "message": "who\\u001b[31m are\\nyou?", "success": false}'

SAID: list[tuple[Script, str]] = [
    (answer(401, REFUSAL), "API error 401: who [31m are you?\n"),
    (answer(400, b'{"message": "events[0] is wrong"}'), "API error 400: events[0] is wrong\n"),
    (answer(404, b'{"message": "no such session"}'), "API error 404: no such session\n"),
    (answer(409), "API error 409: Conflict\n"),
    (answer(413), "API error 413: "),
    (answer(429, b"", {"Retry-After": "0"}), "API error 429: Too Many Requests\n"),
    (answer(500, b"<h1>oops</h1>"), "API error 500: oops\n"),
    (answer(503), "API error 503: Service Unavailable\n"),
    (answer(302, b"", {"Location": "/login"}), "API error 302: redirects to /login, which is not"),
    (answer(200, b"<html>hi</html>"), "API error 200: the answer is no JSON object: <html>hi"),
    (answer(200, b'{"success": false}'), "API error 200: the answer states no success\n"),
]


@pytest.mark.parametrize(("script", "message"), SAID, ids=[m.strip()[:40] for _, m in SAID])
def test_an_api_error_is_exit_1_and_nothing_is_sent_twice(script: Script, message: str) -> None:
    with RawServer(script) as server:
        result = run("events", "update", "--event-id", "x", HH_API_URL=server.url, HH_API_KEY=KEY)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert len(server.requests) == 1


def test_a_server_that_is_down_is_exit_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    result = run("sessions", "create", "--base-url", url)
    assert result.exit_code == 1
    assert result.stderr == f"cannot reach {url}: [Errno 111] Connection refused\n"


def test_a_server_that_does_not_answer_is_exit_1() -> None:
    def stall(server: RawServer, connection: socket.socket, request: bytes) -> None:
        server.pause(30)

    with RawServer(stall) as server:
        result = run("sessions", "create", HH_API_URL=server.url, HH_TIMEOUT="0.3")
    assert result.exit_code == 1
    assert result.stderr == f"no answer from {server.url} within 0.3 s\n"
    assert len(server.requests) == 1


def test_what_is_printed_cannot_drive_a_terminal() -> None:
    hostile = {"session_id": FIXED, "event_name": "\x1b]0;x\x07\x9b31m\u202eabc\x7f"}
    with RawServer(answer(200, json.dumps(hostile).encode())) as server:
        result = run("sessions", "create", HH_API_URL=server.url)
    assert json.loads(result.stdout) == hostile
    assert not set(result.stdout) & set("\x1b\x07\x9b\u202e\x7f")


# --- global flags -----------------------------------------------------------------------------


def test_key_and_url_before_and_after_the_command() -> None:
    with RawServer(answer(200, b'{"session_id": "x"}')) as server:
        before = ["--api-key", "hh_before", "--base-url", server.url]
        done(*before, "sessions", "create")
        done(*before, "sessions", "create", "--api-key", "hh_after")
        done("sessions", "create", "--base-url", server.url, HH_API_KEY="hh_environment")
        done("sessions", "create", HH_API_URL=server.url)
    keys = [
        next((line for line in r.decode().split("\r\n") if line.startswith("Authorization")), None)
        for r in server.requests
    ]
    assert keys == [
        "Authorization: Bearer hh_before",
        "Authorization: Bearer hh_after",
        "Authorization: Bearer hh_environment",
        None,
    ]


@pytest.mark.parametrize("place", ["before", "after"])
def test_verbose_shows_url_version_and_a_masked_key(place: str) -> None:
    words_ = ["sessions", "create"]
    arguments = ["--verbose", *words_] if place == "before" else [*words_, "--verbose"]
    with RawServer(answer(200, b'{"session_id": "x"}')) as server:
        result = run(*arguments, HH_API_URL=server.url, HH_API_KEY=KEY)
    assert json.loads(result.stdout) == {"session_id": "x"}
    assert result.stderr == f"tracer {__version__}: POST {server.url}/v1/sessions, key hh_…abcd\n"


def test_s11_the_key_is_in_no_output() -> None:
    for script in (answer(401, KEY.encode()), answer(200, b"x"), answer(302)):
        with RawServer(script) as server:
            result = run(
                "--verbose", "--api-key", KEY, "sessions", "create", "--base-url", server.url
            )
        assert "canary" not in result.output


def test_s12_help_prefers_the_variable() -> None:
    for arguments in (["--help"], ["sessions", "create", "--help"]):
        assert "Prefer the variable HH_API_KEY" in run(*arguments).stdout


# --- the program ------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["sessions"], ["events", "--help"]])
def test_help(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: tracer")


def test_help_names_every_command_without_loading_it() -> None:
    shown = run("--help").stdout
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_sessions_and_events_load() -> None:
    context = click.Context(cli)
    for name in ("sessions", "events", "serve"):
        assert cli.get_command(context, name) is not None
    assert cli.get_command(context, "none") is None


def test_as_a_process(shared_collector: CollectorProcess) -> None:
    found = process("sessions", "create", "--source", "x", HH_API_URL=shared_collector.url)
    assert (found.returncode, found.stderr) == (0, "")
    assert json.loads(found.stdout)["source"] == "x"
    assert process("--version").stdout == f"tracer {__version__}\n"
    assert process("sessions", "create").returncode == 2
    down = process("sessions", "create", "--base-url", "http://127.0.0.1:1")
    assert (down.returncode, down.stdout) == (1, "")
    assert down.stderr.startswith("cannot reach http://127.0.0.1:1: ")


GONE = """
import os, subprocess, sys
reader, writer = os.pipe()
os.close(reader)
command = [sys.executable, "-m", "tracer", "events", "search", "--show-file-schema"]
sys.exit(subprocess.run(command, stdout=writer).returncode)
"""


def test_a_reader_that_went_away_is_no_crash() -> None:
    found = python("-c", GONE)
    assert (found.returncode, found.stderr) == (1, "")
