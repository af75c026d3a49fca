"""The README says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from tracer.cli import COMMANDS
from tracer.config import Config, Options

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## )", README, re.DOTALL | re.MULTILINE)
    assert found, f"no section {title}"
    return found[1]


def shown(default: object) -> str:
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:,}"


def test_options_table_equals_config_fields() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", section("Options"), re.MULTILINE
    )
    assert rows == [
        (
            option.name,
            ", ".join(f"`{name}`" for name in option.metadata["env"]) or "none",
            shown(option.default),
            option.metadata["doc"],
        )
        for option in fields(Config)
    ]


def test_typed_options_equal_config_fields() -> None:
    assert list(Options.__annotations__) == [option.name for option in fields(Config)]


def test_every_command_is_named() -> None:
    text = section("Command line")
    assert [name for name in COMMANDS if f"tracer {name}" not in text] == []


def test_figures_name_the_file_that_printed_them() -> None:
    files = re.findall(r"benchmarks/results/[\w.-]+\.json", section("Measured cost"))
    assert files
    assert [name for name in files if not (ROOT / name).is_file()] == []
