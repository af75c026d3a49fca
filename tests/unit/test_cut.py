"""JSON that is too long becomes shorter JSON that says what it was."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.cut import cut
from tracer.encode import encode

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def note(encoded: bytes) -> dict[str, Any]:
    return {"bytes": len(encoded), "sha256": hashlib.sha256(encoded).hexdigest()}


def test_what_fits_stays_as_it_is() -> None:
    assert cut(b'{"a":1}', 7) == b'{"a":1}'


def test_a_text_keeps_its_head_size_and_digest() -> None:
    encoded = encode('é\n\\"\U0001f600' * 1000)
    for size in range(300, 330):  # whatever escape or character the end falls into
        short = cut(encoded, size)
        assert len(short) <= size
        found = json.loads(short)
        assert found["__cut__"] == note(encoded)
        assert found["head"]
        assert json.loads(encoded).startswith(found["head"])


def test_an_object_keeps_all_members_while_the_largest_is_cut() -> None:
    value = {"k": 5, "messages": [{"role": "user", "content": "x" * 50_000}], "model": "m"}
    encoded = encode(value)
    short = cut(encoded, 5000)
    assert 4000 < len(short) <= 5000
    found = json.loads(short)
    assert (found["k"], found["model"]) == (5, "m")
    assert found["__cut__"] == note(encoded)
    content = found["messages"][0]["content"]
    assert content["__cut__"] == note(encode("x" * 50_000))
    assert len(content["head"]) > 3000


def test_a_list_keeps_its_beginning_and_says_how_much_is_missing() -> None:
    encoded = encode(list(range(10_000)))
    short = cut(encoded, 2000)
    assert 1500 < len(short) <= 2000
    found = json.loads(short)
    kept = len(found) - 1
    assert found[:-1] == list(range(kept))
    assert found[-1] == {"__cut__": {**note(encoded), "left_out": 10_000 - kept}}


def test_an_object_of_many_members_keeps_the_first() -> None:
    encoded = encode({f"key {n}": n for n in range(10_000)})
    found = json.loads(cut(encoded, 2000))
    marker = found.pop("__cut__")
    assert marker == {**note(encoded), "left_out": 10_000 - len(found)}
    assert found == {f"key {n}": n for n in range(len(found))}


def test_a_key_longer_than_the_room_leaves_an_object() -> None:
    encoded = encode({"k" * 5000: 1})
    assert json.loads(cut(encoded, 1000)) == {"__cut__": {**note(encoded), "left_out": 1}}


def test_nothing_but_an_empty_value_fits_below_the_marker() -> None:
    assert cut(encode({"a": "x" * 300}), 100) == b"{}"
    assert cut(encode(["x" * 300]), 100) == b"[]"
    assert cut(encode("x" * 300), 100) == b'""'


@pytest.mark.parametrize("value", [{"a": "x" * 10**7, "b": ["y"] * 4 * 10**6}, ['"' * 10**7] * 2])
def test_a_very_large_value_is_not_decoded_but_keeps_its_beginning(value: Any) -> None:
    encoded = json.dumps(value).encode()
    assert len(encoded) > 16 << 20
    short = cut(encoded, 10_000)
    found = json.loads(short)
    assert len(short) <= 10_000
    assert found["__cut__"] == note(encoded)
    assert encoded.startswith(found["head"].encode())
    assert ("__type__" in found) is isinstance(value, list)


@given(json_values, st.integers(200, 400))
def test_every_cut_is_valid_json_within_its_bound(value: Any, size: int) -> None:
    for shaped in (value, {"object": value}):
        encoded = json.dumps(shaped, ensure_ascii=False).encode("utf-8", "replace")
        short = cut(encoded, size)
        assert len(short) <= size
        found = json.loads(short)
        if isinstance(shaped, dict):
            assert isinstance(found, dict)
            assert "__type__" not in found or "__type__" in shaped


def test_a_member_called_like_the_marker_does_not_double_it() -> None:
    encoded = encode({"__cut__": "mine", "text": "x" * 5000})

    def no_doubles(members: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(members)) == len(members)
        return dict(members)

    found = json.loads(cut(encoded, 1000), object_pairs_hook=no_doubles)
    assert found["__cut__"] == note(encoded)
    assert found["__cut__ (earlier)"] == "mine"


def test_a_long_data_uri_becomes_media_type_size_and_digest() -> None:
    content = bytes(range(256)) * 20
    uri = "data:image/png;base64," + base64.b64encode(content).decode()
    digest = hashlib.sha256(content).hexdigest()
    shown = f"<data:image/png bytes=5120 sha256={digest}>"
    assert json.loads(encode({"url": uri, "note": "n"})) == {"url": shown, "note": "n"}
    assert json.loads(encode(f'see "{uri}" and {uri}')) == f'see "{shown}" and {shown}'
    assert json.loads(encode({"a": [{"image_url": {"url": uri}}], "b": object()}))["a"] == [
        {"image_url": {"url": shown}}
    ]


def test_a_short_data_uri_stays() -> None:
    uri = "data:image/gif;base64," + "A" * 1000
    text = f"{uri} {'x' * 1000}"
    assert json.loads(encode(text)) == text
