"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from collector_process import CollectorProcess
from fakes import ContractServer
from hypothesis import settings

from tracer import threads

# a timing never decides a test; how many examples is each test's own choice
settings.register_profile("timeless", deadline=None)
settings.load_profile("timeless")

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the developer's settings, proxies and journal from every test."""
    for name in list(os.environ):
        if name.startswith("HH_") or name.upper() in PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def threads_as_they_come() -> Iterator[None]:
    """Take our patches off again: they are the process's, and the next test's tracer decides."""
    yield
    threads.uninstall()


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[CollectorProcess]:
    """Run a real collector on an empty database."""
    with CollectorProcess.start(tmp_path / "collector.db") as running:
        yield running


@pytest.fixture(scope="session")
def shared_collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorProcess]:
    """Run a real collector for tests that only look at what they stored themselves."""
    with CollectorProcess.start(tmp_path_factory.mktemp("shared") / "collector.db") as running:
        yield running


@pytest.fixture
def server() -> Iterator[ContractServer]:
    """Run a server that keeps the contract in memory."""
    with ContractServer() as running:
        yield running


@pytest.fixture(params=["D", "M"])
def mode(request: pytest.FixtureRequest) -> str:
    """Keep the queue in files (D), then in memory (M)."""
    return str(request.param)
