"""What every benchmark needs: servers, fresh processes, pinning, a table and a JSON document."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import selectors
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

__all__ = [
    "anonymous_kib",
    "arguments",
    "blocks",
    "child",
    "collector",
    "percentiles",
    "publish",
    "rounds",
    "say",
    "sink",
    "summary",
    "table",
]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CORES = sorted(os.sched_getaffinity(0))
READY = re.compile(r"ready at (http://\S+)")
COLLECTOR = "from tracer.cli.serve import serve; serve()"

Summary = dict[str, float]


def say(line: str = "") -> None:
    """Write a line for people: standard output belongs to the JSON document."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def arguments(doc: str, rounds: int) -> argparse.ArgumentParser:
    """Return the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and calls: a first look")
    parser.add_argument(
        "--rounds", type=int, help=f"fresh processes per variant (default {rounds})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the document there")
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout whose tracer is measured")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    return parser


# -- processes -----------------------------------------------------------------------------------


def _environ(tree: Path) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("HH_")}
    # packages by path too: a child that measures imports runs without `site` and its .pth files
    path = os.pathsep.join((str(tree), str(HERE), sysconfig.get_path("platlib")))
    return {**found, "PYTHONPATH": path}


def child(tree: Path, *command: str, timeout: float = 300) -> dict[str, Any]:
    """Run Python with `command` on the workload's core; return the JSON it prints."""
    os.sched_setaffinity(0, {CORES[0]})
    try:
        ran = subprocess.Popen(  # noqa: S603 - our own programs
            [sys.executable, *command], env=_environ(tree), stdout=subprocess.PIPE
        )
    finally:
        os.sched_setaffinity(0, {CORES[-1]})
    try:
        said, _ = ran.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        ran.kill()
        raise
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {ran.returncode}")
    found: dict[str, Any] = json.loads(said)
    return found


@contextmanager
def _server(tree: Path, *command: str) -> Iterator[str]:
    """Start a server on its own core; yield the URL it prints."""
    os.sched_setaffinity(0, {CORES[-1]})
    with subprocess.Popen(  # noqa: S603 - our own programs
        [sys.executable, *command], env=_environ(tree), stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            with selectors.DefaultSelector() as waiting:
                waiting.register(running.stdout, selectors.EVENT_READ)
                line = running.stdout.readline() if waiting.select(20) else ""
            found = READY.search(line)
            if found is None:
                raise RuntimeError(f"{' '.join(command)} is not ready: {line!r}")
            yield found[1]
        finally:
            running.terminate()


@contextmanager
def sink() -> Iterator[str]:
    """Run sink.py; yield its URL."""
    with _server(ROOT, str(HERE / "sink.py")) as url:
        yield url


@contextmanager
def collector(tree: Path) -> Iterator[tuple[str, Path]]:
    """Run the real collector on a fresh database; yield its URL and the database's path."""
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory) / "collector.db"
        where = ("--port", "0", "--db", str(database))
        with _server(tree, "-c", COLLECTOR, *where) as url:
            yield url, database


def rounds(
    variants: Sequence[str], number: int, run: Callable[[str], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Run every variant once a round, each round beginning with another one."""
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    for turn in range(number):
        first = turn % len(variants)
        for variant in (*variants[first:], *variants[:first]):
            began = time.monotonic()
            found[variant].append(run(variant))
            say(f"  round {turn + 1}/{number} {variant}: {time.monotonic() - began:.1f} s")
    return found


# -- figures -------------------------------------------------------------------------------------


def blocks(
    runs: Mapping[str, Callable[[int], None]], number: int, size: int
) -> dict[str, tuple[float, float]]:
    """Time `number` blocks of `size` calls of each of `runs`, alternating.

    Alternating by the block, since the speed of a shared machine changes within a second.

    Returns: µs a call of the median block, which leaves out what a background thread takes in
        between, and of all blocks, which holds it.
    """
    clock = time.perf_counter_ns
    taken: dict[str, list[int]] = {name: [] for name in runs}
    for _ in range(number):
        for name, run in runs.items():
            began = clock()
            run(size)
            taken[name].append(clock() - began)
    return {
        name: (median(found) / size / 1e3, sum(found) / (number * size) / 1e3)
        for name, found in taken.items()
    }


def percentiles(nanoseconds: Sequence[int]) -> dict[str, float]:
    """Return p50, p99, p99.9 and the largest, in µs."""
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    places = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: ordered[int(last * share)] / 1e3 for name, share in places.items()}


def anonymous_kib() -> int:
    """Return the anonymous resident memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0])


def summary(values: Sequence[float]) -> Summary:
    """Return median, least and largest of the rounds."""
    return {"median": median(values), "min": min(values), "max": max(values)}


# -- output --------------------------------------------------------------------------------------


def table(title: str, rows: Mapping[str, Mapping[str, Summary]], digits: int = 2) -> None:
    """Write rows of `median (min-max)` by column to standard error."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    say(f"\n{title}")
    cells = [["", *columns]]
    for name, row in rows.items():
        shown = (row.get(column) for column in columns)
        cells.append([name, *("" if s is None else _cell(s, digits) for s in shown)])
    widths = [max(len(line[at]) for line in cells) for at in range(len(cells[0]))]
    for line in cells:
        say("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Summary, digits: int) -> str:
    return f"{value['median']:,.{digits}f} ({value['min']:,.{digits}f}-{value['max']:,.{digits}f})"


def publish(options: argparse.Namespace, question: str, figures: Mapping[str, Any]) -> None:
    """Print the document, or write it where `--json` says."""
    document = {
        "question": question,
        "machine": platform.platform(),
        "cpu": _cpu(),
        "cores": len(CORES),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": _git("rev-parse", "HEAD", tree=options.tree),
        "uncommitted": bool(_git("status", "--porcelain", "tracer", tree=options.tree)),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": os.getloadavg()[0],
        "quick": options.quick,
        "figures": figures,
    }
    text = json.dumps(document, indent=1) + "\n"
    if options.json is None:
        sys.stdout.write(text)
    else:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text, encoding="utf-8")
        say(f"\nwritten to {options.json}")


def _cpu() -> str:
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return next((x.split(": ", 1)[1] for x in info.splitlines() if x.startswith("model name")), "?")


def _git(*command: str, tree: Path) -> str:
    ran = subprocess.run(  # noqa: S603 - fixed arguments
        ["git", "-C", str(tree), *command],  # noqa: S607 - whichever git there is
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout.strip()
