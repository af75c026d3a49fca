"""A file imports only from files of a lower rank: the table is the architecture."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

RANKS: dict[str, float] = {
    "tracer.check": 0,
    "tracer.counts": 0,
    "tracer.cut": 0,
    "tracer.errors": 0,
    "tracer.local": 0,
    "tracer.look": 0,
    "tracer.schema": 0,
    "tracer.semconv": 0,
    "tracer.clock": 0,
    "tracer.context": 0,
    "tracer.version": 0,
    "tracer.fork": 0,
    "tracer.tree": 0,
    "tracer.voice": 0.5,
    "tracer.walk": 0.5,
    "tracer.libraries": 0.6,
    "tracer.named": 0.6,
    "tracer.forms": 0.7,
    "tracer.settings": 0.5,
    "tracer.config": 1,
    "tracer.event": 2,
    "tracer.encode": 1,
    "tracer.keynames": 0,
    "tracer.rules": 0,
    "tracer.namedvalues": 0.3,
    "tracer.scan": 0.5,
    "tracer.mask": 0.7,
    "tracer.redact": 1,
    "tracer.frame": 0.5,
    "tracer.filememory": 0.5,
    "tracer.segment": 1,
    "tracer.callables": 1,
    "tracer.failures": 1,
    "tracer.books": 0,
    "tracer.mailbox": 0,
    "tracer.answers": 1,
    "tracer.updates": 1,
    "tracer.w3c": 1,
    "tracer.wire": 1,
    "tracer.key": 1.5,
    "tracer.memory": 1.5,
    "tracer.writer": 1.8,
    "tracer.buffer": 2,
    "tracer.transport": 2,
    "tracer.retry": 2,
    "tracer.spool": 2,
    "tracer.deadletters": 2,
    "tracer.survey": 2.2,
    "tracer.cost": 2,
    "tracer.hooks": 2,
    "tracer.nearby": 2.5,
    "tracer.spans": 2.5,
    "tracer.surroundings": 2.5,
    "tracer.composer": 2.8,
    "tracer.recorder": 3,
    "tracer.open_spans": 3.5,
    "tracer.reports": 3,
    "tracer.ends": 1,
    "tracer.streams": 3,
    "tracer.proxies": 3.2,
    "tracer.standins": 3.2,
    "tracer.generators": 3.3,
    "tracer.wrapping": 3.5,
    "tracer.client": 3,
    "tracer.carrier": 3.5,
    "tracer.narrowing": 2,
    "tracer.trim": 2.5,
    "tracer.exchange": 2.5,
    "tracer.across": 2.7,
    "tracer.opened": 2.7,
    "tracer.changes": 2.8,
    "tracer.delivery": 3,
    "tracer.flusher": 4,
    "tracer.sending": 4.5,
    "tracer.decorators": 4,
    "tracer.propagate": 4,
    "tracer.sessions": 4,
    "tracer.threads": 4,
    "tracer.logs": 4,
    "tracer.tracer": 5,
    "tracer.default": 6,
    "tracer.testing": 7,
    "tracer.otlp": 7,
    "tracer.pytest_plugin": 8,
    "tracer": 9,
    "tracer.__main__": 9,
}
# Whole folders share one rank; inside cli and collector files may import each other.
FOLDERS = {"tracer.collector": 1, "tracer.integrations": 7, "tracer.cli": 8}
BESIDE = {"tracer.cli", "tracer.collector"}
COLLECTOR_SHARES = {
    "tracer.check",
    "tracer.errors",
    "tracer.local",
    "tracer.schema",
    "tracer.clock",
    "tracer.version",
}


def folder_of(module: str) -> str | None:
    return next((f for f in FOLDERS if module == f or module.startswith(f + ".")), None)


def rank_of(module: str) -> float:
    folder = folder_of(module)
    return FOLDERS[folder] if folder else RANKS[module]


def modules() -> dict[str, Path]:
    found = {}
    for top, package in (
        (ROOT / "tracer", "tracer"),
        (ROOT / "integrations", "tracer.integrations"),
    ):
        for path in top.rglob("*.py"):  # rglob does not follow the link to integrations
            if path.is_relative_to(ROOT / "tracer" / "integrations"):
                continue
            parts = [*package.split("."), *path.relative_to(top).with_suffix("").parts]
            found[".".join(p for p in parts if p != "__init__")] = path
    return found


def imports(path: Path, known: set[str]) -> Iterator[str]:
    """Every import of ours in a file, those inside functions and TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "tracer" or alias.name.startswith("tracer."):
                    yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            if module == "tracer" or module.startswith("tracer."):
                for alias in node.names:
                    inner = f"{module}.{alias.name}"
                    yield inner if inner in known else module


def edges() -> list[tuple[str, str]]:
    known = modules()
    return [
        (module, target)
        for module, path in known.items()
        for target in imports(path, set(known))
        if target != module
    ]


def test_every_module_has_a_rank() -> None:
    assert {m for m in modules() if not folder_of(m)} <= set(RANKS)


def test_imports_go_down() -> None:
    wrong = [
        f"{module} (rank {rank_of(module)}) imports {target} (rank {rank_of(target)})"
        for module, target in edges()
        if not (folder_of(module) in BESIDE and folder_of(module) == folder_of(target))
        if rank_of(target) >= rank_of(module)
    ]
    assert wrong == []


def test_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for module, target in edges():
        graph.setdefault(module, set()).add(target)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_collector_shares_only_rank_zero_with_the_client() -> None:
    wrong = [
        (module, target)
        for module, target in edges()
        if folder_of(module) == "tracer.collector" and folder_of(target) != "tracer.collector"
        if target not in COLLECTOR_SHARES
    ]
    assert wrong == []


def test_the_walk_sees_an_upward_import(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from tracer.tracer import Tracer\n")
    assert list(imports(file, set(modules()) | {"tracer.tracer"})) == ["tracer.tracer"]


def test_the_way_out_encodes_no_json() -> None:
    for name in (
        "flusher",
        "delivery",
        "exchange",
        "opened",
        "across",
        "narrowing",
        "buffer",
        "segment",
    ):
        tree = ast.parse((ROOT / "tracer" / f"{name}.py").read_text())
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not names & {"json", "orjson", "msgspec", "tracer.encode", "tracer.event"}, name


def test_what_is_logged_goes_past_the_handlers_of_the_program_one_way_alone() -> None:
    """A handler that raises, or records, must not come back to whoever logs."""
    speaks = {m for m, path in modules().items() if 'getLogger("tracer")' in path.read_text()}
    assert speaks == {"tracer.voice", "tracer.cli.orphans"}, "the latter silences it"
