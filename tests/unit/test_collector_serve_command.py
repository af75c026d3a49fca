"""`tracer serve`: its options, and one clear message when it cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tracer.cli import serve as command
from tracer.errors import ConfigError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr("tracer.collector.server.serve", lambda *given: made.append(given))
    monkeypatch.delenv("HH_COLLECTOR_TOKEN", raising=False)
    return made


def test_the_defaults_are_this_machine_and_the_state_directory(
    calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert CliRunner().invoke(command.serve, []).exit_code == 0
    state = tmp_path / "tracer"
    place = state / "collector.json"
    assert calls == [("127.0.0.1", 4747, state / "collector.db", None, place)]


def test_the_token_comes_from_the_environment(
    calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HH_COLLECTOR_TOKEN", "t")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    given = ["--host", "::1", "--port", "0", "--db", "x.db"]
    assert CliRunner().invoke(command.serve, given).exit_code == 0
    assert calls == [("::1", 0, Path("x.db"), "t", tmp_path / "tracer" / "collector.json")]


def test_without_the_extra_it_says_what_to_install(
    calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "msgspec" else name)
    result = CliRunner().invoke(command.serve, [])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        'tracer serve needs the collector extra: pip install "tracer-sdk[collector]"\n'
    )
    assert calls == []


def test_a_wrong_setting_is_a_message_and_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise ConfigError("not like this")

    monkeypatch.setattr("tracer.collector.server.serve", refuse)
    result = CliRunner().invoke(command.serve, [])
    assert (result.exit_code, result.stderr) == (2, "Error: not like this\n")
