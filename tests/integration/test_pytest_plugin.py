"""The fixture `tracer_events` in a project that has this package installed from its wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from programs import ROOT

BUILD = "from setuptools import build_meta as b; print(b.build_wheel('..'))"

PROJECT = '''
import pytest
import tracer


@tracer.tool
def lookup(order_id):
    return {"order": order_id}


@pytest.mark.parametrize("order", ["A7", "B2"])
def test_each_test_has_its_own(tracer_events, order):
    assert tracer_events.events == []
    lookup(order)
    assert tracer_events.only("lookup")["outputs"] == {"order": order}
    assert tracer_events.only()["event_id"] == "00000000-0000-4000-8000-000000000002"
    assert tracer_events.tree() == f"""\\
session test
└─ tool lookup {{"order_id": "{order}"}} → {{"order": "{order}"}}
"""


def test_without_the_fixture_nothing_is_captured():
    lookup("A7")
    assert tracer.stats().recorded == 0


def test_a_failure_shows_what_was_recorded(tracer_events):
    lookup("A7")
    tracer_events.only("find")
'''

UNUSED = """
import sys

def test_nothing_is_loaded():
    assert {n for n in sys.modules if n.startswith("tracer")} == LOADED
    assert not {"orjson", "httpx", "tenacity"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that holds the package as `pip install` puts it there."""
    source = tmp_path_factory.mktemp("wheel") / "source"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("tracer", "integrations"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", BUILD], cwd=source, capture_output=True, text=True, check=True
    )
    found = source.parent / "site"
    with zipfile.ZipFile(source.parent / done.stdout.splitlines()[-1]) as wheel:
        wheel.extractall(found)
    return found


def run_pytest(site: Path, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HH_", "PYTEST_"))}
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, *arguments, "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=project,
        env={**kept, "PYTHONPATH": str(site)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_project_gets_the_fixture_by_installing_the_package(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_project.py").write_text(PROJECT)
    done = run_pytest(site, tmp_path, "-m", "pytest")
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    assert "one event named 'find' was expected, not 0; recorded were:" in done.stdout
    assert '└─ tool lookup {"order_id": "A7"} → {"order": "A7"}' in done.stdout
    assert done.stderr == ""
    assert "warning" not in done.stdout


def test_it_loads_nothing_before_a_test_asks(site: Path, tmp_path: Path) -> None:
    ours = {"tracer", "tracer.fork", "tracer.version", "tracer.pytest_plugin"}
    (tmp_path / "test_project.py").write_text(f"LOADED = {ours}\n{UNUSED}")
    done = run_pytest(site, tmp_path, "-m", "pytest")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_it_can_be_switched_off(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_project.py").write_text(f"LOADED = set()\n{UNUSED}")
    done = run_pytest(site, tmp_path, "-m", "pytest", "-p", "no:tracer")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_program_that_uses_the_package_may_run_pytest(site: Path, tmp_path: Path) -> None:
    """pytest warns of plugins that were imported before it could rewrite their assertions."""
    (tmp_path / "test_project.py").write_text(PROJECT)
    program = "import sys, tracer.testing, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = run_pytest(site, tmp_path, "-c", program)
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    assert "warning" not in done.stdout
