"""What waits together is said once, and means the same."""

from __future__ import annotations

import json

import pytest

from tracer.updates import merged


def test_objects_merge_and_everything_else_is_replaced() -> None:
    found = merged(
        [
            b'{"metadata":{"a":1,"b":{"x":1}},"duration":1}',
            b'{"metadata":{"b":{"y":2}},"duration":2,"metrics":{}}',
        ]
    )
    assert found is not None
    assert json.loads(found) == {
        "metadata": {"a": 1, "b": {"y": 2}},
        "duration": 2,
        "metrics": {},
    }


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"3"])
def test_what_is_no_object_is_not_merged(body: bytes) -> None:
    assert merged([b"{}", body]) is None
