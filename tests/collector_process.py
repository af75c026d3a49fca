"""The collector as tests use it: a real process, started, stopped, killed and started again."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO

ROOT = Path(__file__).parents[1]
READY = re.compile(r"tracer collector ready at (http://\S+:(\d+)) \(database: (.+)\)\n")
PROGRAM = "from tracer.cli.serve import serve; serve()"


class CollectorProcess:
    """One collector on a database; `start` it, talk to `url`, use it as a context manager."""

    def __init__(
        self, db: Path | str, port: int = 0, token: str | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.db = Path(db)
        self.port = port  # 0 until started; kept from then on, so that a restart is found again
        self.token = token
        self.host = host
        # Where it says that it runs: a place of its own, unless a test wants it to be found.
        self.state = self.db.parent / "collector-state"
        self.url = ""
        self.ready_line = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None

    @classmethod
    def start(
        cls,
        db: Path | str,
        port: int = 0,
        token: str | None = None,
        host: str = "127.0.0.1",
        deadline: float = 20.0,
        state: Path | None = None,
    ) -> CollectorProcess:
        """Start a collector and wait until it listens; `state` is its XDG state directory."""
        started = cls(db, port, token, host)
        started.state = state or started.state
        started.launch(deadline)
        return started

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def headers(self) -> dict[str, str]:
        """What a request must carry to be let in."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def launch(self, deadline: float = 20.0) -> None:
        """Start the process; wait at most `deadline` seconds for the ready line."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("HH_")}
        environ["PYTHONPATH"] = str(ROOT)
        environ["XDG_STATE_HOME"] = str(self.state)
        if self.token:
            environ["HH_COLLECTOR_TOKEN"] = self.token
        command = [sys.executable, "-c", PROGRAM, "--host", self.host, "--port", str(self.port)]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [*command, "--db", str(self.db)],
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            stdin=subprocess.DEVNULL,
            env=environ,
        )
        try:
            self.ready_line = self._first_line(time.monotonic() + deadline)
        except BaseException:
            self.kill()
            raise
        found = READY.fullmatch(self.ready_line)
        assert found, f"not a ready line: {self.ready_line!r}"
        self.url, self.port = found[1], int(found[2])

    def restart(self, deadline: float = 20.0) -> None:
        """Start again on the same port and database, after `kill` or `terminate`."""
        assert self._process is None, "still running: kill or terminate it first"
        self.launch(deadline)

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would; nothing is flushed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close()

    def terminate(self, deadline: float = 20.0) -> int:
        """Ask the process to stop with SIGTERM and return its exit code."""
        self._running().terminate()
        return self.wait(deadline)

    def wait(self, deadline: float = 20.0) -> int:
        """Wait until the process has ended and return its exit code."""
        code = self._running().wait(deadline)
        self._close()
        return code

    def send_signal(self, number: int) -> None:
        self._running().send_signal(number)

    def stderr(self) -> str:
        """Return what the running process has written to stderr so far."""
        assert self._stderr is not None
        # pread leaves the offset alone, which the process shares and writes at.
        return os.pread(self._stderr.fileno(), 1 << 20, 0).decode(errors="replace")

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the collector is not running"
        return self._process

    def _first_line(self, deadline: float) -> str:
        process = self._running()
        assert process.stdout is not None
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                assert selector.select(max(0.0, deadline - time.monotonic())), (
                    f"the collector did not get ready in time: {self.stderr()}"
                )
                chunk = os.read(process.stdout.fileno(), 4096)
                assert chunk, f"the collector ended instead of getting ready: {self.stderr()}"
                line += chunk
        return line.decode()

    def _close(self) -> None:
        process = self._running()
        if process.stdout is not None:
            process.stdout.close()
        if self._stderr is not None:
            self._stderr.close()
        self._process = self._stderr = None

    def __enter__(self) -> CollectorProcess:  # noqa: PYI034 - 3.10 has no typing.Self
        if self._process is None:
            self.launch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
