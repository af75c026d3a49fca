"""What is public is named once, in order, and nothing is loaded before it is asked for."""

from __future__ import annotations

import ast
import json
from importlib import import_module
from pathlib import Path

import pytest
from programs import run

import tracer

ROOT = Path(__file__).parents[2]
SKIPPED = {"tracer.__main__"}  # runs the command line when imported

IMPORTED = """
import json, os, sys, threading
before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
import tracer
after = set(os.listdir("/proc/self/fd")) if before else set()
heavy = ("httpx", "tenacity", "wrapt", "orjson", "click", "yaml", "msgspec", "starlette", "ssl")
print(json.dumps({
    "loaded": [name for name in heavy if name in sys.modules],
    "ours": sorted(name for name in sys.modules if name.split(".")[0] == "tracer"),
    "threads": threading.active_count(),
    "files": sorted(after - before),
}))
"""

RECORDING = """
import json, sys
import tracer
tracer.chain
print(json.dumps([name for name in ("httpx", "tenacity", "wrapt", "ssl") if name in sys.modules]))
"""


def modules() -> list[str]:
    paths = [p for p in (ROOT / "tracer").rglob("*.py") if "integrations" not in p.parts]
    names = (".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths)
    return sorted({name.removesuffix(".__init__") for name in names} - SKIPPED)


def public(path: Path) -> set[str]:
    """The names a module defines at its top that do not begin with an underscore."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
    return {name for name in found if not name.startswith("_")}


def by_kind(name: str) -> tuple[bool, bool, str]:
    """Constants, then classes, then the rest: the order ruff keeps (RUF022)."""
    return (not name.isupper(), not name[0].isupper(), name)


@pytest.mark.parametrize("name", modules())
def test_every_all_is_sorted_and_exists(name: str) -> None:
    module = import_module(name)
    members = getattr(module, "__all__", [])
    assert len(members) == len(set(members))
    assert list(members) == sorted(members, key=by_kind)
    for member in members:
        assert getattr(module, member) is not None


def imported_elsewhere() -> dict[str, set[str]]:
    """Module -> the names other files take from it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tracer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.setdefault(node.module, set()).update(a.name for a in node.names)
    return found


MINE = (
    "clock",
    "context",
    "encode",
    "event",
    "recorder",
    "decorators",
    "tracer",
    "default",
    "errors",
)


@pytest.mark.parametrize("name", MINE)
def test_what_other_files_take_is_exported(name: str) -> None:
    module = import_module(f"tracer.{name}")
    taken = imported_elsewhere().get(f"tracer.{name}", set())
    records = {"SpanFields", "SessionFields", "Bind"}  # for type checkers alone
    missing = taken - set(module.__all__) - records - {"*"}
    assert missing == set()


def test_the_package_exports_every_public_function_of_the_default_tracer() -> None:
    from tracer import default

    assert set(default.__all__) < set(tracer.__all__)
    assert public(ROOT / "tracer" / "default.py") <= set(default.__all__)


def test_every_exported_name_can_be_had() -> None:
    assert tracer.__all__ == sorted(tracer.__all__)
    for name in tracer.__all__:
        assert getattr(tracer, name) is not None
    assert dir(tracer) == tracer.__all__
    with pytest.raises(AttributeError, match="module 'tracer' has no attribute 'nothing'"):
        tracer.nothing  # noqa: B018 - looking is the test


def test_what_is_exported_is_what_its_home_defines() -> None:
    assert tracer.Tracer is import_module("tracer.tracer").Tracer
    assert tracer.chain is import_module("tracer.default").chain
    assert tracer.Span is import_module("tracer.spans").Span
    assert tracer.TracerError is import_module("tracer.errors").TracerError
    assert tracer.__version__ == import_module("tracer.version").__version__


def test_the_lazy_names_and_those_for_type_checkers_are_the_same() -> None:
    tree = ast.parse((ROOT / "tracer" / "__init__.py").read_text())
    (checked,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    names = {a.name for n in checked.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert "*" in names, "what the default tracer's module names"
    default = import_module("tracer.default").__all__
    assert {*names - {"*"}, *default, "__version__"} == set(tracer.__all__)


def test_importing_the_package_loads_and_starts_nothing() -> None:
    found = json.loads(run(IMPORTED).out)
    assert found == {
        "loaded": [],
        "ours": ["tracer", "tracer.fork", "tracer.version"],
        "threads": 1,
        "files": [],
    }


def test_naming_a_decorator_loads_no_http_client() -> None:
    assert json.loads(run(RECORDING).out) == []


def test_everything_can_be_imported_at_once() -> None:
    done = run("from tracer import *\nprint(Tracer.__name__, callable(chain), __version__ != '')")
    assert done.out.split() == ["Tracer", "True", "True"], done.err
