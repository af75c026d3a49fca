"""What does it cost to begin: the import, `init`, the first traced call?

The import is measured over bare Python and over `import orjson`, in a process that has imported
neither and runs without `site`, whose .pth files may have loaded half of it; `init` and the first
call in another one, where the names are loaded already. `import tracer` loads what its hooks need,
the rest comes with the first name asked for: `tracer.tool`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import measure

VARIANTS = ("import", "import alone", "first call")
# Programs of their own that load nothing but `sys` and `time`: whatever this module imports would
# be missing from the figure.
PROGRAM = """
import sys
import time

def memory():
    with open("/proc/self/status") as status:
        return int(status.read().split("RssAnon:")[1].split()[0]) / 1024

steps, figures = {steps}, []
for name, statement in steps:
    before, began = memory(), time.perf_counter()
    exec(statement)
    taken = (time.perf_counter() - began) * 1e3
    figures.append('"%s ms": %f, "%s MB": %f' % (name, taken, name, memory() - before))
figures.append('"threads": %d' % len(sys._current_frames()))
print("{{" + ", ".join(figures) + "}}")
"""
STEPS = {
    "import": [
        ("orjson", "import orjson"),
        ("tracer over orjson", "import tracer"),
        ("tracer.tool over that", "from tracer import tool"),
    ],
    "import alone": [
        ("tracer", "import tracer"),
        ("tracer.tool over tracer", "from tracer import tool"),
    ],
}


def first_call(url: str) -> dict[str, float]:
    """Initialise, decorate, and call twice."""
    import tracer  # an import of its own: the other children measure it

    def plain(question: str, k: int) -> dict[str, str]:
        return {"answer": question}

    answer = tracer.tool(plain)

    with tempfile.TemporaryDirectory() as spool:
        began = time.perf_counter()
        tracer.init(server_url=url, spool_dir=spool)
        ready = time.perf_counter()
        answer("What?", k=5)
        first = time.perf_counter()
        answer("What?", k=5)
        second = time.perf_counter()
        tracer.shutdown()
    return {
        "init ms": (ready - began) * 1e3,
        "first call ms": (first - ready) * 1e3,
        "second call ms": (second - first) * 1e3,
        "shutdown ms": (time.perf_counter() - second) * 1e3,
    }


def main() -> None:
    """Run all variants alternately, or be one of them."""
    options = measure.arguments(str(__doc__), rounds=15).parse_args()
    if options.child:
        sys.stdout.write(json.dumps(first_call(options.url)))
        return
    number = options.rounds or (7 if options.quick else 15)
    with measure.sink() as url:

        def run(name: str) -> dict[str, Any]:
            if name in STEPS:
                return measure.child(options.tree, "-S", "-c", PROGRAM.format(steps=STEPS[name]))
            return measure.child(options.tree, __file__, "--child", name, "--url", url)

        found = measure.rounds(VARIANTS, number, run)
    rows = {
        row: {"": measure.summary([turn[row] for turn in turns])}
        for turns in found.values()
        for row in turns[0]
    }
    measure.table("starting", rows, 3)
    measure.publish(options, str(__doc__).partition("\n")[0], rows)


if __name__ == "__main__":
    main()
