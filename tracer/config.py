"""Every option in one frozen record: argument > environment > default, checked before use."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict, cast

from tracer.errors import ConfigError, TransportError
from tracer.settings import check_plain_http, checked, checked_key

__all__ = [
    "HOSTED_URL",
    "LOCAL",
    "Config",
    "Connection",
    "Options",
    "collector_file",
    "state_directory",
]

HOSTED_URL = "https://api.honeyhive.ai"
LOCAL = "local"  # destination of what local mode keeps
URL_VARIABLES = ("HH_API_URL", "HH_DATA_PLANE_URL", "HH_SERVER_URL")  # the first one set counts


def _option(
    default: Any,
    doc: str,
    *env: str,
    least: float | None = None,
    most: float | None = None,
    secret: bool = False,
) -> Any:
    meta = {"env": env, "doc": doc, "least": least, "most": most}
    return field(default=default, repr=not secret, metadata=meta)


class FromEnvironment(str):
    """A key that came from HH_API_KEY: when it is refused, the variable may hold another by then."""

    __slots__ = ()


class Options(TypedDict, total=False):
    """The keyword arguments of `init` and `Tracer`: the fields of `Config`, each may be None."""

    api_key: str | Callable[[], str] | None
    server_url: str | None
    local: bool | None
    disable_tracing: bool | None
    project: str | None
    source: str | None
    session_name: str | None
    session_id: str | None
    batch_size: int | None
    flush_interval: float | None
    timeout: float | None
    shutdown_timeout: float | None
    durable: bool | None
    spool_dir: str | os.PathLike[str] | None
    spool_max_bytes: int | None
    max_queue: int | None
    max_queue_bytes: int | None
    capture_inputs: bool | None
    capture_outputs: bool | None
    tracebacks: bool | None
    max_event_bytes: int | None
    sample_rate: float | None
    redact: bool | Callable[[Any], Any] | None
    redact_keys: Iterable[str] | None
    redact_patterns: Iterable[str | re.Pattern[str]] | None
    propagate_threads: bool | None
    on_drop: Callable[[str, int], object] | None
    on_error: Callable[[TransportError], object] | None
    handle_signals: bool | None
    allow_http: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one tracer; build it with `Config.resolve`, which reads the environment."""

    api_key: str | Callable[[], str] | None = _option(  # noqa: RUF009 - it makes a field
        None,
        "key for the server, or a function that returns it; without key and URL: local mode",
        "HH_API_KEY",
        secret=True,
    )
    server_url: str | None = _option(
        None, f"base URL of the server; with a key alone: {HOSTED_URL}", *URL_VARIABLES
    )
    local: bool = _option(False, "send to no server but a collector of this machine", "HH_LOCAL")  # noqa: FBT003 - a default
    disable_tracing: bool = _option(False, "record nothing at all", "HH_DISABLE_TRACING")  # noqa: FBT003 - a default
    project: str | None = _option(
        None, "names the destination the journal belongs to; sent nowhere", "HH_PROJECT"
    )
    source: str | None = _option(None, "`source` of every event and session", "HH_SOURCE")
    session_name: str | None = _option(
        None, "name of the default session; the program's name if not given", "HH_SESSION_NAME"
    )
    session_id: str | None = _option(None, "join this session by default", "HH_SESSION_ID")
    batch_size: int = _option(500, "events a request at most", "HH_BATCH_SIZE", least=1, most=5000)
    flush_interval: float = _option(
        1.0, "seconds an event waits for company", "HH_FLUSH_INTERVAL", least=0.5, most=3600
    )
    timeout: float = _option(
        10.0, "seconds one attempt may take in all", "HH_TIMEOUT", least=0.1, most=300
    )
    shutdown_timeout: float = _option(
        5.0, "seconds `flush` and the exit may take", "HH_SHUTDOWN_TIMEOUT", least=0, most=3600
    )
    durable: bool = _option(True, "keep the queue in files (D) or in memory (M)", "HH_DURABLE")  # noqa: FBT003 - a default
    spool_dir: str | None = _option(
        None,
        "directory of the journal; `$XDG_STATE_HOME/tracer/spool` if not given",
        "HH_SPOOL_DIR",
    )
    spool_max_bytes: int = _option(
        512 << 20,
        "bytes the journals of all processes in `spool_dir` may take; then the oldest events go",
        "HH_SPOOL_MAX_BYTES",
        least=32 << 20,
    )
    max_queue: int = _option(100_000, "events that may wait in M", "HH_MAX_QUEUE", least=1)
    max_queue_bytes: int = _option(
        64 << 20, "bytes that may be held in M", "HH_MAX_QUEUE_BYTES", least=2 << 20
    )
    capture_inputs: bool = _option(True, "record the arguments of calls", "HH_CAPTURE_INPUTS")  # noqa: FBT003 - a default
    capture_outputs: bool = _option(True, "record what calls return", "HH_CAPTURE_OUTPUTS")  # noqa: FBT003 - a default
    tracebacks: bool = _option(True, "record where an exception came from", "HH_TRACEBACKS")  # noqa: FBT003 - a default
    max_event_bytes: int = _option(
        1 << 20,
        "bytes of one event; its largest fields are cut first",
        "HH_MAX_EVENT_BYTES",
        least=4096,
        most=4_000_000,
    )
    sample_rate: float = _option(
        1.0, "share of the sessions that are recorded", "HH_SAMPLE_RATE", least=0, most=1
    )
    redact: bool | Callable[[Any], Any] = _option(  # noqa: RUF009 - it makes a field
        True,  # noqa: FBT003 - a default
        "mask secrets; a function gets each masked field and returns what is recorded",
        "HH_REDACT",
    )
    redact_keys: tuple[str, ...] = _option((), "more names whose values are masked")
    redact_patterns: tuple[str | re.Pattern[str], ...] = _option(
        (), "regular expressions of more to mask in text"
    )
    propagate_threads: bool = _option(True, "threads and executors begin below the current span")  # noqa: FBT003 - a default
    on_drop: Callable[[str, int], object] | None = _option(  # noqa: RUF009 - it makes a field
        None, "called in the background with a reason and how many events were lost to it"
    )
    on_error: Callable[[TransportError], object] | None = _option(  # noqa: RUF009 - it makes a field
        None, "called in the background with the error of each request that failed"
    )
    handle_signals: bool = _option(False, "SIGTERM sends what waits before it ends the process")  # noqa: FBT003 - a default
    allow_http: bool = _option(False, "plain http beyond loopback")  # noqa: FBT003 - a default

    @classmethod
    def resolve(cls, environ: Mapping[str, str] | None = None, **arguments: Any) -> Config:
        """Build a checked Config; an argument of None counts as not given.

        Raises: ConfigError: names the option, where it came from and what is allowed.
        """
        environ = os.environ if environ is None else environ
        known = {option.name: option for option in fields(cls)}
        for name in arguments:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}; allowed are {', '.join(known)}")
        values: dict[str, Any] = {}
        for name, option in known.items():
            found, came_from = arguments.get(name), f"argument {name}"
            if found is None:
                variable = next((v for v in option.metadata["env"] if environ.get(v)), None)
                if variable is None:
                    continue
                found, came_from = environ[variable], variable
            values[name] = checked(option, found, came_from)
            if name == "api_key" and came_from == "HH_API_KEY":
                values[name] = FromEnvironment(values[name])
            if name == "server_url":
                check_plain_http(values[name], came_from, arguments.get("allow_http"))
        return cls(**values)

    @property
    def is_local(self) -> bool:
        """Tell whether nothing leaves this machine: asked for, or neither key nor URL given."""
        return self.local or not (self.api_key or self.server_url)

    @property
    def connection(self) -> Connection:
        """Return where to send and with which key; asks for it. Raises: ConfigError."""
        return self.connection_with(self.ask_for_key())

    def connection_with(self, key: str | None) -> Connection:
        """Return where to send, with that key."""
        return Connection(self.server_url or HOSTED_URL, key, self.timeout)

    def ask_for_key(self) -> str | None:
        """Return the key as it is now: of the function given for it, or of the environment.

        Raises: ConfigError: the function failed, or what there is is no key; shows neither.
        """
        key = self.api_key
        if isinstance(key, FromEnvironment):
            return checked_key(os.environ.get("HH_API_KEY") or key, "HH_API_KEY")
        if not callable(key):
            return key
        try:
            found = cast("Any", key())
        except Exception as error:  # noqa: BLE001 - the user's function may raise anything
            # its message may hold what it was called with
            raise ConfigError(f"api_key: the function raised {type(error).__name__}") from None
        if not isinstance(found, str):
            raise ConfigError(f"api_key: the function returned {type(found).__name__}, not text")
        return checked_key(found, "api_key")

    @property
    def spool_path(self) -> Path:
        """Return the directory of the journal: `spool_dir`, else below the state directory."""
        if self.spool_dir is not None:
            return Path(self.spool_dir).expanduser()
        return state_directory() / "spool"

    @property
    def destination(self) -> str:
        """Return a fingerprint of where events may go: endpoint, and project or key.

        A journal is only ever sent to the destination it was written for. Raises: ConfigError.
        """
        return self.destination_with(None if self.is_local else self.ask_for_key())

    def destination_with(self, key: str | None) -> str:
        """Return the fingerprint of this endpoint for the project, or for that key."""
        if self.is_local:
            return LOCAL
        owner = f"project {self.project}" if self.project else f"key {key}"
        whole = f"{self.server_url or HOSTED_URL}\n{owner}"
        return sha256(whole.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Connection:
    """Where requests go: base URL without a trailing slash, key or None, seconds an attempt."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: float

    def __post_init__(self) -> None:
        # Also one made by hand: httpx quotes a header it refuses, and with it the key.
        if self.api_key is not None and checked_key(self.api_key, "api_key") != self.api_key:
            raise ConfigError("api_key: must not begin or end with white space")

    @classmethod
    def resolve(
        cls,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | None = None,
        *,
        allow_http: bool = False,
    ) -> Connection:
        """Take what is not given from the environment.

        Raises: ConfigError: also for the hosted service without a key.
        """
        try:
            found = Config.resolve(
                api_key=api_key, server_url=base_url, timeout=timeout, allow_http=allow_http
            )
        except ConfigError as error:  # here the argument has another name
            message = str(error).replace("argument server_url:", "argument base_url:", 1)
            raise ConfigError(message) from None
        if not (found.api_key or found.server_url):
            raise ConfigError(
                f"no API key: set HH_API_KEY (or pass api_key) for {HOSTED_URL}, "
                "or name another server with HH_API_URL (or base_url)"
            )
        return found.connection


def state_directory() -> Path:
    """Return where journal and collector keep what they keep, if nobody says: `$XDG_STATE_HOME`.

    Raises: RuntimeError: there is no home directory.
    """
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "tracer"


def collector_file() -> Path | None:
    """Return the file in which a local collector says where it is; None: there is no home."""
    try:
        return state_directory() / "collector.json"
    except RuntimeError:
        return None
