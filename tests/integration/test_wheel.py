"""The wheel holds what the tree holds, `integrations/` under its real name."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def in_the_tree() -> set[str]:
    found = set()
    for top, inside in (
        (ROOT / "tracer", "tracer"),
        (ROOT / "integrations", "tracer/integrations"),
    ):
        for path in top.rglob("*"):  # does not follow the link to integrations
            relative = path.relative_to(top).as_posix()
            if path.is_file() and "__pycache__" not in relative:
                found.add(f"{inside}/{relative}")
    return found


def test_the_wheel_equals_the_tree(tmp_path: Path) -> None:
    source = tmp_path / "source"
    # a copy, so that the build leaves nothing behind in the tree
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("tracer", "integrations"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta as b; print(b.build_wheel('..'))"
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]) as wheel:
        names = {n for n in wheel.namelist() if ".dist-info/" not in n}
        metadata = next(n for n in wheel.namelist() if n.endswith("/METADATA"))
        text = wheel.read(metadata).decode()
    assert names == in_the_tree()
    assert "License-Expression: MIT" in text
    assert "Provides-Extra: collector" in text
