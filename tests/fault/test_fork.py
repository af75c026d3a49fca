"""Forks at every moment, and every way a process ends: nothing twice, nothing lost, no hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from collector_process import CollectorProcess
from fakes import ContractServer
from programs import Finished, assert_exact, environment, run, spawn, stored

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

# What every program below begins with. A line of the witness is one write(2), as in test_kill.
BEGIN = """
import os, signal, sys, threading, time, warnings
# 3.12 and later warn of every fork beside threads, and we have one
warnings.simplefilter("ignore", DeprecationWarning)
witness = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def record(number, name):
    for _ in range(number):
        with t.chain(name) as span:
            pass
        os.write(witness, f"{span.id} {name}\\n".encode())

def fork(child):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(30)  # a child that hangs is killed, and seen by its status
    code = 1
    try:
        code = child()
    finally:
        os._exit(code or 0)

def join(pids):
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"child ended with {status}"
"""


def witnessed(path: Path) -> Counter[str]:
    return Counter(line.split(" ")[0] for line in path.read_text().splitlines())


def names(path: Path) -> Counter[str]:
    return Counter(line.split(" ", 1)[1] for line in path.read_text().splitlines())


def assert_all_there_once(server: ContractServer, witness: Path) -> None:
    expected = witnessed(witness)
    assert max(expected.values()) == 1, "two processes made the same id"
    assert set(server.events) == set(expected)
    assert server.resent == 0


ROUNDS = [
    pytest.param(8, id="8"),
    pytest.param(1000, id="1000", marks=[pytest.mark.slow, pytest.mark.timeout(2400)]),
]

CHILD = """
def child():
    record(100, "child")
    result = t.shutdown(20)
    return 0 if result.ok and result.delivered == 100 else 7
"""

SCENARIOS = {
    "before init": """
import tracer
def starting():
    global t
    t = tracer.init()
    return child()
for _ in range(rounds):
    join([fork(starting)])
t = tracer.init()
record(9 * rounds, "parent")
""",
    "after init": """
import tracer
t = tracer.init()
for _ in range(rounds):
    join([fork(child)])
    record(9, "parent")
""",
    "with 9 queued": """
import tracer
t = tracer.init(flush_interval=3600)
for _ in range(rounds):
    record(9, "parent")
    join([fork(child)])
    if _ % 2:
        assert t.flush(20).ok
""",
    "during a send": """
import tracer
t = tracer.init(batch_size=1)
for _ in range(rounds):
    record(9, "parent")
    flush = threading.Thread(target=t.flush)
    flush.start()
    pids = [fork(child), fork(child)]
    record(9, "parent")
    join(pids)
    flush.join()
""",
    "from a thread": """
import tracer
t = tracer.init()
def forking():
    for _ in range(rounds):
        join([fork(child)])
thread = threading.Thread(target=forking)
thread.start()
while thread.is_alive():
    record(9, "parent")
    thread.join(0.01)
""",
    "from many threads at once": """
import tracer
t = tracer.init()
def forking():
    for _ in range(rounds // 2):
        record(9, "parent")
        join([fork(child)])
threads = [threading.Thread(target=forking) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""",
    "with the lock of the books held": """
import tracer
t = tracer.init()
for _ in range(rounds):
    record(9, "parent")
    held, released = threading.Event(), threading.Event()
    def hold():
        with t._buffer._reading:
            held.set()
            released.wait()
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    join([fork(child)])
    released.set()
    holder.join()
""",
    "nested": """
import tracer
t = tracer.init()
def generation(left):
    record(9, "parent")
    if left:
        join([fork(lambda: generation(left - 1))])
    return 0 if t.shutdown(20).ok else 7
for _ in range(rounds // 4):
    join([fork(lambda: generation(3)), fork(child)])
""",
}


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("durable", ["1", "0"], ids=["D", "M"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_f55_parent_and_child_each_send_their_own(
    scenario: str, durable: str, rounds: int, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    program = f"{BEGIN}{CHILD}rounds = {rounds}\n{SCENARIOS[scenario]}"
    program += "assert t.shutdown(20).ok, t.stats()\n"
    with ContractServer() as server:
        env = environment(
            HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool", HH_DURABLE=durable
        )
        ended = run(program, witness, env=env, seconds=100 * max(rounds / 50, 1))
        assert ended.err == ""
        assert ended.code == 0
        assert_all_there_once(server, witness)
        assert names(witness)["child"] >= 100 * (rounds // 4)
    assert not list(tmp_path.glob("spool/*.segment"))


# The user's hooks are registered before `import tracer`, so in the child they run before ours:
# what they record, end or enrich there must not land in the segment of the parent.
HOOKED = """
forked = []
def in_child():
    span.set(outputs={"by": "child"})
    held.__exit__(None, None, None)
    t.enrich_session(metadata={"by": "hook"})
    record(3, "hook")
    forked.append(1)
os.register_at_fork(after_in_child=in_child)

import tracer
t = tracer.init()
held = t.chain("held")
span = held.__enter__()
os.write(witness, f"{span.id} held\\n".encode())

def child():
    import httpx, tenacity, sqlite3, xml.dom.minidom
    record(5, "child")
    assert forked
    return 0 if t.shutdown(20).ok else 7

moment = time.monotonic()
pids = []
for n in range(50):
    until = moment + 5 * n / 50
    while time.monotonic() < until:
        record(1, "parent")
        sum(range(2000))
    pids.append(fork(child))
    record(20, "parent")
join(pids)
held.__exit__(None, None, None)
assert t.shutdown(20).ok, t.stats()
s = t.stats()
assert s.recorded == s.delivered, s
"""


@pytest.mark.parametrize("durable", ["1", "0"], ids=["D", "M"])
def test_f55b_forks_of_the_first_seconds_beside_a_busy_main_thread(
    durable: str, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    with ContractServer() as server:
        env = environment(
            HH_API_URL=server.url,
            HH_SPOOL_DIR=tmp_path / "spool",
            HH_DURABLE=durable,
            HH_FLUSH_INTERVAL="0.5",
        )
        ended = run(BEGIN + HOOKED, witness, env=env, seconds=100)
        assert ended.err == ""
        assert ended.code == 0
        assert names(witness)["hook"] == 150
        assert names(witness)["child"] == 250
        assert_all_there_once(server, witness)
        held = [e for e in server.events.values() if e["event_name"] == "held"]
        assert ["outputs" in e for e in held] == [False], "the parent alone ends what it opened"


def test_f40_a_living_child_does_not_hold_the_journal_of_its_dead_parent(
    tmp_path: Path, collector: CollectorProcess
) -> None:
    env = environment(HH_API_URL=collector.url, HH_SPOOL_DIR=tmp_path / "spool")
    collector.kill()
    program = f"""{BEGIN}
import tracer
t = tracer.init()
record(10, "parent")
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
print(os.getpid(), flush=True)
os.close(1)
signal.pause()
"""
    parent = spawn(program, tmp_path / "witness", env=env)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert parent.wait(20) == -signal.SIGKILL
        collector.restart()
        adopter = "import tracer\nt = tracer.init()\nwith t.chain('adopter'): pass\n"
        ended = run(adopter + "assert t.flush(20).ok\nt.shutdown()", env=env)
        assert ended.err == ""
        assert ended.code == 0
        rows = [row for row in stored(collector.db) if row.name == "parent"]
        assert_exact(rows, set(witnessed(tmp_path / "witness")))
    finally:
        os.kill(child, signal.SIGKILL)
        parent.communicate()


# -- how a process ends ----------------------------------------------------------------------

ENDS = {
    "normal end": ("", 0),
    "sys.exit(3)": ("sys.exit(3)", 3),
    "unhandled exception": ("raise RuntimeError('mine')", 1),
    "os._exit(4)": ("os._exit(4)", 4),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "SIGINT": ("os.kill(os.getpid(), signal.SIGINT); signal.pause()", -signal.SIGINT),
    "exit in a thread": (
        "h = threading.Thread(target=sys.exit, args=(5,)); h.start(); h.join()",
        0,
    ),
}
ATEXIT_RUNS = {"normal end", "sys.exit(3)", "unhandled exception", "SIGINT", "exit in a thread"}


def check_end(how: str, ended: Finished, code: int) -> None:
    assert ended.code == code
    own_words = {"unhandled exception": "RuntimeError: mine\n", "SIGINT": "KeyboardInterrupt\n"}
    if how in own_words:
        assert ended.err.startswith("Traceback")
        assert ended.err.count("Traceback") == 1
        assert ended.err.endswith(own_words[how])
    else:
        assert ended.err == ""


@pytest.mark.parametrize("how", ENDS)
def test_f51_f52_the_end_of_a_program_changes_nothing_and_loses_nothing(
    how: str, tmp_path: Path
) -> None:
    last, code = ENDS[how]
    witness = tmp_path / "witness"
    program = f"{BEGIN}\nimport tracer\nt = tracer.init()\nrecord(10, 'work')\n{last}\n"
    with ContractServer() as server:
        env = environment(HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool")
        check_end(how, run(program, witness, env=env), code)
        if how not in ATEXIT_RUNS:  # the journal has it: the next start sends it
            after = "import tracer\nt = tracer.init()\nwith t.chain('next'): pass\n"
            assert run(after, env=env).code == 0
        work = {i for i, e in server.events.items() if e["event_name"] == "work"}
        assert work == set(witnessed(witness))
        assert server.resent == 0
    assert not list(tmp_path.glob("spool/*.segment"))


@pytest.mark.parametrize("how", [how for how in ATEXIT_RUNS if how != "SIGINT"])
def test_f51_without_a_journal_an_orderly_end_sends_everything(how: str, tmp_path: Path) -> None:
    last, code = ENDS[how]
    witness = tmp_path / "witness"
    program = f"{BEGIN}\nimport tracer\nt = tracer.init()\nrecord(10, 'work')\n{last}\n"
    with ContractServer() as server:
        env = environment(HH_API_URL=server.url, HH_DURABLE="0")
        check_end(how, run(program, witness, env=env), code)
        assert set(server.events) == set(witnessed(witness))


SIGNALLED = """
import tracer
t = tracer.init(handle_signals=True, flush_interval=3600)
record(10, "work")
held = t.chain("held")
held.__enter__()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(20)
"""


@pytest.mark.parametrize("durable", ["1", "0"], ids=["D", "M"])
def test_f52_on_request_sigterm_sends_what_waits_and_ends_the_process(
    durable: str, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    with ContractServer() as server:
        env = environment(
            HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool", HH_DURABLE=durable
        )
        ended = run(BEGIN + SIGNALLED, witness, env=env)
        assert (ended.err, ended.code) == ("", -signal.SIGTERM)
        assert ended.seconds < 10
        assert set(server.events) == set(witnessed(witness))
        assert [body.keys() >= {"end_time"} for _, body in server.updates] == [True], "its session"


HANDLERS = {
    "exits": ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))", 3),
    "goes on": ("signal.signal(signal.SIGTERM, lambda *_: None)", 0),
    "ignored": ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 0),
}


@pytest.mark.parametrize("before", HANDLERS)
def test_f52_what_the_program_does_about_sigterm_is_done_afterwards(
    before: str, tmp_path: Path
) -> None:
    installs, code = HANDLERS[before]
    program = f"""{BEGIN}{installs}
import tracer
t = tracer.init(handle_signals=True, flush_interval=3600)
tracer.init(handle_signals=True, flush_interval=3600, session_name="again")
t = tracer.init(handle_signals=True, flush_interval=3600)
record(10, "work")
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
record(5, "after")
"""
    witness = tmp_path / "witness"
    with ContractServer() as server:
        env = environment(HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool")
        ended = run(program, witness, env=env)
        assert (ended.err, ended.code) == ("", code)
        assert set(server.events) == set(witnessed(witness))
        assert names(witness)["after"] == (0 if code else 5)


def test_f52_without_a_request_and_off_the_main_thread_signals_are_as_they_were(
    tmp_path: Path,
) -> None:
    program = f"""{BEGIN}
import tracer
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
t = tracer.init()
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
thread = threading.Thread(target=lambda: tracer.Tracer(handle_signals=True))
thread.start()
thread.join()
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""
    env = environment(HH_API_URL="http://127.0.0.1:9", HH_SPOOL_DIR=tmp_path / "spool")
    ended = run(program, tmp_path / "witness", env=env)
    assert ended.code == 0, ended.err
    assert ended.err == "handle_signals: only the main thread can; SIGTERM is as it was\n"


def test_f57_children_of_multiprocessing(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    program = f"""{BEGIN}
import multiprocessing, concurrent.futures
import tracer
t = tracer.init(flush_interval=0.5)

def work(end):
    record(10, "work")
    if end == "raise": raise ValueError("mine")
    if end == "exit": sys.exit(3)

if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    sys.stderr.flush(); os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # "raise" prints
    ended = []
    for end in ("return", "raise", "exit"):
        process = fork.Process(target=work, args=(end,))
        process.start(); process.join(30)
        ended.append(process.exitcode)
    with fork.Pool(2) as pool:
        pool.map(work, ["return"] * 4)
        pool.close(); pool.join()
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as executor:
        list(executor.map(work, ["return"] * 4))
    record(10, "work")
    print(ended)
"""
    with ContractServer() as server:
        env = environment(HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool")
        ended = run(program, witness, env=env)
        assert (ended.code, ended.out) == (0, "[0, 1, 3]\n"), ended.err
        after = "import tracer\nt = tracer.init()\nwith t.chain('next'): pass\n"
        assert run(after, env=env).code == 0
        work = {i for i, e in server.events.items() if e["event_name"] == "work"}
        assert len(work) == 120
        assert work == set(witnessed(witness))


def test_f58_a_spawned_process_inherits_nothing(tmp_path: Path) -> None:
    program = f"""{BEGIN}
import subprocess
import tracer
t = tracer.init()
record(3, "work")
inherited = subprocess.run(
    [sys.executable, "-c", "import os; print([os.readlink(f'/proc/self/fd/{{f}}') for f in"
     " os.listdir('/proc/self/fd') if os.path.islink(f'/proc/self/fd/{{f}}')])"],
    capture_output=True, text=True, close_fds=False).stdout
print(inherited)
"""
    env = environment(HH_API_URL="http://127.0.0.1:9", HH_SPOOL_DIR=tmp_path / "spool")
    ended = run(program, tmp_path / "witness", env=env)
    assert ended.code == 0
    assert "null" in ended.out
    assert ".segment" not in ended.out
    assert "socket" not in ended.out


def test_a_child_of_a_tracer_that_was_shut_down_records_nothing(tmp_path: Path) -> None:
    program = f"""{BEGIN}
import tracer
t = tracer.init()
record(1, "work")
t.shutdown()
def child():
    record(5, "child")
    s = t.stats()
    t.shutdown()
    return 0 if (s.recorded, s.dropped) == (5, {{"shutdown": 5}}) else 7
join([fork(child)])
"""
    with ContractServer() as server:
        env = environment(HH_API_URL=server.url, HH_SPOOL_DIR=tmp_path / "spool")
        ended = run(program, tmp_path / "witness", env=env)
        assert ended.err == ""
        assert ended.code == 0
        assert [e["event_name"] for e in server.events.values()] == ["work"]


def test_importing_alone_starts_nothing(tmp_path: Path) -> None:
    program = """
        import sys, threading, os
        before = set(os.listdir("/proc/self/fd"))
        import tracer
        assert threading.active_count() == 1
        assert set(os.listdir("/proc/self/fd")) <= before
        assert not {"httpx", "tenacity", "wrapt", "orjson"} & set(sys.modules), sys.modules
        """
    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines())],
        env=environment(XDG_STATE_HOME=tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.returncode == 0
    assert not list(tmp_path.iterdir())
