"""Sockets and lifetime of the collector."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Generator
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from tracer.collector.app import create_app
from tracer.collector.files import make_directories
from tracer.collector.gate import LOOPBACK_NAMES
from tracer.collector.sqlite import SqliteStore
from tracer.errors import ConfigError
from tracer.local import Announcement, LocalAddress, announce

__all__ = ["serve"]

BACKLOG = 256
KEEP_ALIVE_SECONDS = 30  # longer than clients pause between flushes
STOP_SECONDS = 10  # a request that takes longer is given up when the collector stops


def serve(host: str, port: int, db: Path, token: str | None, place: Path | None = None) -> None:
    """Listen, print the URL once requests are answered, and return after SIGTERM or SIGINT.

    Args:
        port: 0 for a free one.
        token: what requests must carry; needed when `host` is not this machine alone.
        place: the file in which to say where this collector is; see `local.py`.
    Raises: ConfigError: the address or the database cannot be used, or a token is missing.
    """
    listener = _listen(host, port, token)
    try:
        address, bound_port = listener.getsockname()[:2]
        name = f"[{address}]" if ":" in address else address
        store = SqliteStore(db)
        try:
            hosts = None
            if ip_address(address).is_loopback:
                hosts = LOOPBACK_NAMES | {name, host.lower()}
            config = uvicorn.Config(
                create_app(store, hosts, token),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
            ready = f"tracer collector ready at http://{name}:{bound_port} (database: {db})"
            notice = _Notice(place, _local(address, bound_port, token))
            try:
                _Server(config, ready, notice).run([listener])
            finally:
                notice.end()
        finally:
            store.close()
    finally:
        listener.close()


def _local(address: str, port: int, token: str | None) -> LocalAddress | None:
    """Return where programs on this machine reach a listener; None: not on loopback."""
    ip = ip_address(address)
    if not (ip.is_loopback or ip.is_unspecified):
        return None
    if ip.is_unspecified:
        address = "127.0.0.1" if ip.version == 4 else "::1"
    return LocalAddress(f"http://{f'[{address}]' if ':' in address else address}:{port}", token)


class _Notice:
    """The file that says where this collector is; a collector without one is none the worse."""

    def __init__(self, place: Path | None, address: LocalAddress | None) -> None:
        self._place, self._address = place, address
        self._held: Announcement | None = None

    def give(self) -> None:
        if self._place is None or self._address is None:
            return
        why = f"another collector is named in {self._place}"
        try:
            make_directories(self._place.parent)
            self._held = announce(self._place, self._address)
        except OSError as error:
            why = f"cannot say so in {self._place}: {error.strerror or error}"
        if self._held is None:
            sys.stderr.write(f"programs in local mode will not find this collector: {why}\n")

    def end(self) -> None:
        if self._held is not None:
            self._held.end()


class _Server(uvicorn.Server):
    """Says when it is ready and where it is, and ends by returning."""

    def __init__(self, config: uvicorn.Config, ready: str, notice: _Notice) -> None:
        super().__init__(config)
        self._ready = ready
        self._notice = notice

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._notice.give()
            sys.stdout.write(self._ready + "\n")
            sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._notice.end()  # first: nobody is to begin a request that is not answered any more
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop on SIGTERM and SIGINT; uvicorn's own version raises them again afterwards.

        That would end the process before the store is closed, and not with code 0.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(host: str, port: int, token: str | None) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        if not ip_address(address[0]).is_loopback and not token:
            raise ConfigError(
                f"{host} can be reached from other machines, so a token is needed: set "
                "HH_COLLECTOR_TOKEN, or listen on 127.0.0.1"
            )
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from error
    return listener
