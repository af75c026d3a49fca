"""Requests from files: three formats, messages with a place, and no way to blow up."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from tracer.cli.files import MAX_BYTES, json_value, read_request

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_file


WANTED = {"session_name": "a // b", "metadata": {"tags": ["x", "y,]"], "n": 1.5, "none": None}}
PLAIN = '{"session_name": "a // b", "metadata": {"tags": ["x", "y,]"], "n": 1.5, "none": null}}'
COMMENTED = """// a request
{
  "session_name": "a // b", /* name: "quoted",
     second line */
  "metadata": {
    "tags": ["x", "y,]", ], // trailing, and in a string
    "n": 1.5, "none": null
  }, // last
}
"""
YAML = """# a request
session_name: a // b
metadata:
  tags: &tags [x, "y,]"]
  n: 1.5
  none:
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("request.json", PLAIN),
        ("request.json", "\ufeff" + PLAIN),
        ("request.jsonc", COMMENTED),
        ("request", COMMENTED),
        ("request.yaml", YAML),
        ("request.yml", PLAIN),
        ("request", YAML),
    ],
)
def test_three_formats_say_the_same(name: str, text: str, write: Write) -> None:
    assert read_request(write(name, text)) == WANTED


@pytest.mark.parametrize("text", [PLAIN, COMMENTED, YAML])
def test_standard_input(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert read_request("-") == WANTED


def test_aliases_and_times_in_yaml(write: Write) -> None:
    text = "a: &x {k: 1}\nb: *x\nc: {<<: *x, l: 2}\nday: 2026-11-22\nmoment: 2026-11-22T10:00:00Z\n"
    assert read_request(write("request.yaml", text)) == {
        "a": {"k": 1},
        "b": {"k": 1},
        "c": {"k": 1, "l": 2},
        "day": "2026-11-22",
        "moment": "2026-11-22T10:00:00Z",
    }


def refusal(name: str) -> str:
    start = time.process_time()
    with pytest.raises(click.BadParameter) as caught:
        read_request(name)
    assert time.process_time() - start < 5  # seconds of this process; S22 says 1
    assert caught.value.exit_code == 2
    assert caught.value.param_hint == "--filename"
    return caught.value.message.removeprefix(name)


def nested(levels: int) -> str:
    return "\n".join(" " * level + "a:" for level in range(levels))


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)

REFUSED: list[tuple[str, str, str]] = [
    ("x.json", '{\n "a": 1\n "b": 2}', ", line 3, column 2: Expecting ',' delimiter"),
    ("x.json", '{"a": // c\n  tru}', ", line 2, column 3: Expecting value"),
    ("x.json", '{"a": [1,,]}', ", line 1, column 10: Expecting value"),
    ("x.json", '{"a": [,]}', ", line 1, column 8: Expecting value"),
    ("x.json", '{"a": 1} x', ", line 1, column 10: Extra data"),
    ("x.json", '{"a": [NaN]}', ": a[0] must be a number, not nan"),
    ("x.json", '{"a": {"b": -1e999}}', ": a.b must be a number, not -inf"),
    ("x.json", "[1]", ": must hold an object with the request's fields, not an array"),
    ("x.json", "[" * 1_000_000, ": is nested too deeply"),
    ("x.json", '{"a": 1} /* open', ", line 1, column 10: Extra data"),
    ("x.json", '{"a": 1} /*/', ", line 1, column 10: Extra data"),
    ("x.json", '{"a": ' + "9" * 5000 + "}", ": cannot be read: Exceeds the limit"),
    ("x.yaml", "a: 1\n\tb: 2", ", line 2, column 1: while scanning"),
    ("x.yaml", "a: [1", ", line 2, column 1: while parsing a flow sequence"),
    ("x.yaml", "a: 1\n---\nb: 2", ", line 2, column 1: expected a single document"),
    ("x.yaml", "a: *b", ", line 1, column 4: found undefined alias"),
    ("x.yaml", "a: &a [*a]", ", line 1, column 8: *a stands for itself"),
    ("x.yaml", "a: .nan", ": a must be a number, not nan"),
    ("x.yaml", "1: 2", ": the request: the key 1 must be a string"),
    ("x.yaml", "a: {[1]: 2}", ", line 1, column 5: while constructing a mapping"),
    ("x.yaml", "a: !!binary aGk=", ": a is bytes, which JSON does not know"),
    ("x.yaml", "a: !!set {b}", ": a is set, which JSON does not know"),
    ("x.yaml", "", ": must hold an object with the request's fields, not nothing"),
    ("x.yaml", "text", ": must hold an object with the request's fields, not a string"),
    ("x.yaml", "a: \x07", ": unacceptable character"),
    ("x.yaml", BOMB, ", line 7, column 10: stands for more than 1,000,000 values"),
    ("x.yaml", MERGE_BOMB, ", line 7, column 30: stands for more than 1,000,000 values"),
    ("x.yaml", "a: [" + "1," * 4_000_000 + "]", ", line 1, column 1999999: stands for more"),
    ("x.yaml", "a: " + "[" * 900, ", line 1, column 203: is nested deeper than 200 levels"),
    ("x.yaml", "- " * 100_000, ", line 1, column 401: is nested deeper than 200 levels"),
    ("x.yaml", nested(3000), ", line 201, column 201: is nested deeper than 200 levels"),
    ("x.yaml", "a: " + "x" * MAX_BYTES, ": is larger than 10,000,000 bytes"),
    ("x.json", "{" + '"\\"' * 3_000_000, ", line 1, column 6: Expecting ':' delimiter"),
    ("x.json", "{" + "/*" * 4_000_000, ", line 1, column 7: Expecting property name"),
    ("x.json", '{"' + "\\" * 9_000_000, ", line 1, column 2: Unterminated string"),
]


@pytest.mark.parametrize(("name", "text", "message"), REFUSED, ids=range(len(REFUSED)))
def test_s22_refused_with_a_place(name: str, text: str, message: str, write: Write) -> None:
    assert refusal(write(name, text)).startswith(message)


def test_s22_flow_collections_without_end_are_refused_at_any_depth(write: Write) -> None:
    # libyaml 0.2.6 has a limit of its own, and reads ahead to it: the column is the library's
    message = refusal(write("x.yaml", "a: " + "[" * 100_000))
    assert message.startswith(", line 1, column ")
    assert message.endswith(": is nested deeper than 200 levels")


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system ['touch x']", "!!python/name:os.system", "!local 1"],
)
def test_s22_tags_make_nothing(tag: str, write: Write) -> None:
    message = refusal(write("x.yaml", f"a: {tag}"))
    assert message.startswith(", line 1, column 4: could not determine a constructor for the tag")
    assert not Path("x").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "none.json")) == ": cannot be read: No such file or directory"
    assert refusal(str(tmp_path)) == ": cannot be read: Is a directory"
    assert "null" in refusal("a\0b")
    (tmp_path / "latin.json").write_bytes(b'{\n"a": "\xe9"}')
    assert refusal(str(tmp_path / "latin.json")) == ", line 2: is not UTF-8"
    os.symlink("/dev/zero", tmp_path / "zero.json")
    assert refusal(str(tmp_path / "zero.json")) == ": is larger than 10,000,000 bytes"


@pytest.mark.parametrize(
    ("text", "value"), [("{}", {}), ("[1, null]", [1, None]), (' {"a": "é"} ', {"a": "é"})]
)
def test_a_flag_takes_a_json_literal(text: str, value: Any) -> None:
    assert json_value("--config", text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON at character 1: Expecting value"),
        ("{'a': 1}", "no JSON at character 2: Expecting property name enclosed in double quotes"),
        ('{"a": 1,}', "no JSON at character "),
        ('{\n"a" 1}', "no JSON at line 2, column 5: Expecting ':' delimiter"),
        ("[NaN]", "[0] must be a number, not nan"),
        ('{"a": {"b": 1e999}}', "a.b must be a number, not inf"),
        ("[" * 1_000_000, "is nested too deeply"),
    ],
)
def test_a_flag_that_is_no_json_names_the_position(text: str, message: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        json_value("--config", text)
    assert caught.value.message.startswith(message)
    assert caught.value.param_hint == "--config"
