"""Run one test module of CPython itself, as it is or with its functions decorated.

    python cpython_decorated.py test.test_generators             # as it is
    python cpython_decorated.py test.test_generators DIRECTORY   # decorated, recording there

The module comes from the running interpreter. Every function in it gets our decorator as the
outermost one, lambdas, methods and what is defined inside a test or an example of a docstring
included; left as they are: unittest's own, the tests and what it calls around them. Prints one JSON
object: the outcome of each test and each example, what the bad ones said, and what was counted.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib.util
import inspect
import json
import logging
import sys
import unittest
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tracer.tracer import Tracer

DECORATOR = "__traced__"  # ends in underscores, or classes would mangle it
OWN = ("test", "setUp", "tearDown", "asyncSetUp", "asyncTearDown", "load_tests")  # unittest's


class Decorating(ast.NodeTransformer):
    """Put our decorator around every function but unittest's own."""

    def __init__(self) -> None:
        self._inside = 0  # a function

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Decorate, and what is inside as well."""
        return self._decorated(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """Do the same."""
        return self._decorated(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """Call the decorator with it."""
        self.generic_visit(node)
        return ast.copy_location(ast.Call(_decorator(node), [node], []), node)

    def _decorated(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self._inside += 1
        self.generic_visit(node)
        self._inside -= 1
        if self._inside or not node.name.startswith(OWN):
            # at the line of what came first: there the function says it begins
            first = node.decorator_list[0] if node.decorator_list else node
            node.decorator_list.insert(0, _decorator(first))
        return node


def _decorator(where: ast.AST) -> ast.Name:
    return ast.copy_location(ast.Name(DECORATOR, ast.Load()), where)


def decorated(source: str, filename: str) -> ast.Module:
    """Return `source` with every function decorated."""
    tree: ast.Module = Decorating().visit(ast.parse(source, filename))
    return ast.fix_missing_locations(tree)


class Counting:
    """The decorator the module sees: it counts, and decorates."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.times = 0
        self.codes: set[CodeType] = set()

    def __call__(self, func: Any) -> Any:
        """Decorate `func`, whatever the decorators below ours have made of it."""
        self.times += 1
        self.codes.add(inspect.unwrap(func).__code__)
        return self._tracer.chain(func)


class Outcomes(unittest.TestResult):
    """The outcome of each test by its id, and what those said that went wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.told: dict[str, str] = {}

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's names
        self.found.setdefault(test.id(), "passed")

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self._went_wrong("error", test, err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self._went_wrong("failed", test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        if err is not None:
            self._went_wrong("failed", test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self.found[test.id()] = f"skipped: {reason}"

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self.found[test.id()] = "expected failure"

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self.found[test.id()] = "unexpected success"

    def _went_wrong(self, outcome: str, test: unittest.TestCase, err: Any) -> None:
        self.found[test.id()] = outcome
        self.told[test.id()] = f"{err[0].__name__}: {err[1]}"


class Examples(doctest.DocTestRunner):
    """The outcome of each example of a docstring, by the docstring's name and its first line."""

    def __init__(self, result: Outcomes, rewrite: Callable[[str, str], str]) -> None:
        super().__init__(verbose=False)
        self._result = result
        self._rewrite = rewrite
        self._ids: dict[int, str] = {}

    def run_all(self, test: doctest.DocTest) -> None:
        """Run the examples one after the other, as written or decorated."""
        seen = Counter[str]()
        for example in test.examples:
            line = example.source.partition("\n")[0]
            seen[line] += 1
            self._ids[id(example)] = f"{test.name}: {line} #{seen[line]}"
            example.source = self._rewrite(example.source, test.name)
        self.run(test, out=lambda _: None)

    def report_start(self, out: Any, test: Any, example: Any) -> None: ...

    def report_success(self, out: Any, test: Any, example: Any, got: str) -> None:
        self._result.found[self._ids[id(example)]] = "passed"

    def report_failure(self, out: Any, test: Any, example: Any, got: str) -> None:
        self._result.found[self._ids[id(example)]] = "failed"
        self._result.told[self._ids[id(example)]] = f"want {example.want!r}, got {got!r}"

    def report_unexpected_exception(self, out: Any, test: Any, example: Any, exc_info: Any) -> None:
        self.report_failure(out, test, example, repr(exc_info[1]))


def load(name: str, decorator: Counting | None) -> ModuleType:
    """Import the module `name`; with a decorator, decorated."""
    if decorator is None:
        return importlib.import_module(name)
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    vars(module)[DECORATOR] = decorator
    tree = decorated(Path(spec.origin).read_text(encoding="utf-8"), spec.origin)
    # without `dont_inherit` our own `from __future__` would hold in there
    exec(compile(tree, spec.origin, "exec", dont_inherit=True), vars(module))  # noqa: S102
    return module


def rewritten(source: str, name: str) -> str:
    """Return an example decorated; one without functions, or with a wrong syntax, as it is."""
    if "def " in source or "lambda" in source:
        with contextlib.suppress(SyntaxError):
            return ast.unparse(decorated(source, name)) + "\n"
    return source


def main(name: str, directory: str = "") -> None:
    """Run the tests of module `name`, and print what came out."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # in debug mode it warns of slow steps
    tracer = Tracer(local=True, spool_dir=directory) if directory else None
    decorator = Counting(tracer) if tracer else None
    module = load(name, decorator)
    result = Outcomes()
    for case in list(vars(module).values()):
        if isinstance(case, type) and issubclass(case, unittest.TestCase):
            unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    examples = Examples(result, rewritten if decorator else lambda source, _: source)
    for test in doctest.DocTestFinder().find(module, name):
        examples.run_all(test)
    answer: dict[str, Any] = {"outcomes": result.found, "told": result.told}
    if tracer and decorator:
        tracer.shutdown(5.0)
        stats = tracer.stats()
        answer |= {"functions": len(decorator.codes), "decorated": decorator.times}
        answer |= {"recorded": stats.recorded, "written": stats.spooled, "failures": stats.failures}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
