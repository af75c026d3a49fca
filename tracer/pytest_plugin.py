"""The pytest fixture `tracer_events`; pytest loads this file at every start, so it loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tracer.testing import Captured

__all__ = ["tracer_events"]


@pytest.fixture
def tracer_events() -> Iterator[Captured]:
    """What the code under test records with `tracer`, as `tracer.testing.capture` keeps it."""
    from tracer.testing import capture  # only where a test asks for it: takes 80 ms, once

    with capture(deterministic=True) as captured:
        yield captured
