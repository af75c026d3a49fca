"""Settings: argument > environment > default, and messages that never show a key."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tracer.config import HOSTED_URL, Config, Connection
from tracer.errors import ConfigError
from tracer.settings import is_loopback, mask_key


def test_argument_beats_environment_beats_default() -> None:
    assert Config.resolve({}).batch_size == 500
    assert Config.resolve({"HH_BATCH_SIZE": "7"}).batch_size == 7
    assert Config.resolve({"HH_BATCH_SIZE": "7"}, batch_size=8).batch_size == 8
    assert Config.resolve({"HH_BATCH_SIZE": "7"}, batch_size=None).batch_size == 7


def test_the_first_url_that_is_set_counts() -> None:
    environ = {"HH_SERVER_URL": "https://c", "HH_DATA_PLANE_URL": "https://b", "HH_API_URL": ""}
    assert Config.resolve(environ).server_url == "https://b"
    environ["HH_API_URL"] = "https://a/base/"
    assert Config.resolve(environ).server_url == "https://a/base"


def test_nothing_given_is_local_mode() -> None:
    assert Config.resolve({}).is_local
    assert not Config.resolve({"HH_API_KEY": "hh_x"}).is_local
    assert not Config.resolve({"HH_API_URL": "http://localhost:1"}).is_local
    assert Config.resolve({"HH_API_KEY": "hh_x"}, local=True).is_local
    assert Config.resolve({"HH_API_KEY": "hh_x"}).connection.base_url == HOSTED_URL


@pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
def test_true_in_the_environment(text: str) -> None:
    assert Config.resolve({"HH_LOCAL": text}).local is True


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "argument batch_size: must be from 1 to 5,000, not 0"),
    ({"batch_size": 1.5}, "argument batch_size: must be a whole number, not 1.5"),
    ({"batch_size": True}, "argument batch_size: must be a whole number"),
    ({"timeout": float("nan")}, "argument timeout: must be from 0.1 to 300, not nan"),
    ({"timeout": float("inf")}, "argument timeout: must be from 0.1 to 300, not inf"),
    ({"local": "maybe"}, "argument local: must be 1, 0, true, false, yes, no, on or off"),
    ({"project": 5}, "argument project: must be text, not 5"),
    ({"colour": 1}, "unknown option 'colour'; allowed are api_key, server_url"),
    ({"server_url": "example.test"}, "must be a http:// or https:// URL"),
    ({"server_url": "ftp://example.test"}, "must be a http:// or https:// URL"),
    ({"server_url": "https://u:p@example.test"}, "must not hold a user name or password"),
    ({"server_url": "https://example.test?x"}, "must end with the host or a path"),
    ({"server_url": "http://[::1"}, "is no URL"),
    ({"server_url": "http://example.test"}, "plain http beyond loopback"),
    ({"server_url": "http://10.0.0.1"}, "plain http beyond loopback"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_wrong_setting_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.resolve({}, **arguments)
    assert message in str(caught.value)


def test_a_variable_is_named_by_its_own_name() -> None:
    with pytest.raises(ConfigError, match="HH_TIMEOUT: must be a number, not 'soon'"):
        Config.resolve({"HH_TIMEOUT": "soon"})


@pytest.mark.parametrize("key", ["hh_caf\xe9", "hh_a b", "hh_a\nHost: x", "", "\t", b"hh_x", 5])
def test_s11_a_wrong_key_is_refused_and_not_shown(key: Any) -> None:
    for make in (
        lambda: Config.resolve({}, api_key=key),
        lambda: Connection.resolve(key),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        if len(str(key)) > 1:
            assert str(key) not in str(caught.value)
            assert repr(key) not in str(caught.value)


@pytest.mark.parametrize("key", ["hh_a\nHost: x", " hh_a", "hh_a\n", ""])
def test_s11_a_connection_made_by_hand_checks_its_key(key: str) -> None:
    with pytest.raises(ConfigError):
        Connection("https://example.test", key, 1.0)


def test_a_key_is_stripped_and_kept_out_of_reprs() -> None:
    found = Config.resolve({"HH_API_KEY": " hh_canary_1234\n"})
    assert found.api_key == "hh_canary_1234"
    assert "canary" not in repr(found)
    assert "canary" not in repr(found.connection)


def test_a_function_given_as_key_is_asked_when_it_is_needed() -> None:
    keys = iter([" hh_one", "hh_two"])
    found = Config.resolve({"HH_API_KEY": "hh_environment"}, api_key=lambda: next(keys))
    assert not found.is_local
    assert found.ask_for_key() == "hh_one"
    assert found.connection.api_key == "hh_two"
    assert found == replace(found)
    assert "lambda" not in repr(found)


def failing() -> str:
    raise RuntimeError("canary")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (failing, "api_key: the function raised RuntimeError"),
        (lambda: None, "api_key: the function returned NoneType, not text"),
        (lambda: b"hh_canary", "api_key: the function returned bytes, not text"),
        (lambda: "hh_canary\n1", "api_key: character 10 of 11 is not visible ASCII"),
        (lambda: "", "api_key: it is empty"),
    ],
)
def test_s11_a_function_that_returns_no_key_is_named_without_what_it_said(
    function: Any, message: str
) -> None:
    config = Config.resolve({}, api_key=function)
    with pytest.raises(ConfigError) as caught:
        config.ask_for_key()
    assert message in str(caught.value)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_a_key_of_the_environment_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HH_API_KEY", "hh_first")
    found, given = Config.resolve(), Config.resolve(api_key="hh_given")
    monkeypatch.setenv("HH_API_KEY", " hh_second ")
    assert found.api_key == "hh_first"
    assert found.ask_for_key() == "hh_second"
    assert given.ask_for_key() == "hh_given"
    monkeypatch.delenv("HH_API_KEY")
    assert found.ask_for_key() == "hh_first"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("hh_abcdefgh1234", "hh_…1234"),
        ("hh_org_abcdefgh1234", "hh_org_…1234"),
        ("hh_dp_abcdefgh1234", "hh_dp_…1234"),
        ("abcdefgh1234", "…1234"),
        ("hh_short", "hh_…"),
        ("", "…"),
    ],
)
def test_mask_keeps_prefix_and_last_four(key: str, shown: str) -> None:
    assert mask_key(key) == shown


def test_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("localhost.example", "10.0.0.1", "0.0.0.0", "", "::2")))  # noqa: S104 - compared, not bound


def test_connection_of_the_client() -> None:
    found = Connection.resolve("hh_x", "http://127.0.0.1:9/", 2)
    assert (found.base_url, found.api_key, found.timeout) == ("http://127.0.0.1:9", "hh_x", 2.0)
    assert Connection.resolve(base_url="http://127.0.0.1:9").api_key is None
    with pytest.raises(ConfigError, match="argument base_url: must be a http"):
        Connection.resolve(base_url="nowhere")
    with pytest.raises(ConfigError, match="no API key"):
        Connection.resolve()


def test_spool_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Config.resolve({}, spool_dir=tmp_path).spool_path == tmp_path
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert Config.resolve({}).spool_path == Path("/state/tracer/spool")


def test_f45_destination_is_endpoint_and_owner() -> None:
    def of(**arguments: Any) -> str:
        return Config.resolve({}, **arguments).destination

    assert of() == of(api_key="hh_x", local=True) == "local"
    assert of(api_key="hh_a") == of(api_key="hh_a", server_url=HOSTED_URL)
    assert of(api_key="hh_a") != of(api_key="hh_b")
    assert of(api_key="hh_a", project="p") == of(api_key="hh_b", project="p")
    assert of(api_key="hh_a") != of(api_key="hh_a", server_url="https://example.test")
    assert "hh_a" not in of(api_key="hh_a")
    assert of(api_key=lambda: "hh_a") == of(api_key="hh_a")
    assert Config.resolve({}, api_key="hh_a").destination_with("hh_b") == of(api_key="hh_b")
