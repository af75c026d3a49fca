"""One setting at a time: its type and bounds, and the one clear message when it is wrong."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import urlsplit

from tracer.errors import ConfigError

__all__ = ["check_plain_http", "checked", "checked_key", "is_loopback", "mask_key"]

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def checked(option: Any, found: Any, came_from: str) -> Any:
    """Return the value of an option in its type.

    Args:
        option: a field of `Config`; its type is text.
        found: what was given. came_from: the argument or variable, for the message.
    Raises: ConfigError: says what is allowed; never shows a key.
    """
    kind = option.type.removesuffix(" | None")
    if option.name == "api_key" and callable(found):
        return found
    if option.name in ("on_drop", "on_error"):
        if not callable(found):
            raise ConfigError(f"{came_from}: must be a function, not {found!r}")
        return found
    if option.name == "redact":
        if callable(found):
            return found
        kind = "bool"
    least, most = option.metadata["least"], option.metadata["most"]
    try:
        value = _converted(kind, found)
    except (TypeError, ValueError):
        allowed = {
            "bool": "1, 0, true, false, yes, no, on or off",
            "int": "a whole number",
            "float": "a number",
            "tuple[str, ...]": "a list of names",
            "tuple[str | re.Pattern[str], ...]": "a list of regular expressions",
        }
        shown = "a value that is none" if option.name == "api_key" else repr(found)
        raise ConfigError(
            f"{came_from}: must be {allowed.get(kind, 'text')}, not {shown}"
        ) from None
    if kind in ("int", "float") and not (
        (least is None or value >= least) and (most is None or value <= most)
    ):
        bounds = f"at least {least:,}" if most is None else f"from {least:,} to {most:,}"
        raise ConfigError(f"{came_from}: must be {bounds}, not {found!r}")
    if option.name == "api_key":
        return checked_key(value, came_from)
    if option.name == "server_url":
        return _checked_url(value, came_from)
    return value


def _converted(kind: str, found: Any) -> Any:
    if kind == "bool":
        text = str(found).strip().lower()
        if text not in TRUE + FALSE:
            raise ValueError
        return text in TRUE
    if kind in ("int", "float"):
        if isinstance(found, bool) or (kind == "int" and isinstance(found, float)):
            raise TypeError
        return int(found) if kind == "int" else float(found)
    if kind.startswith("tuple"):
        if isinstance(found, (str, bytes)):  # would be taken letter by letter
            raise TypeError
        return tuple(found)
    if isinstance(found, os.PathLike):
        return os.fspath(cast("os.PathLike[str]", found))
    if not isinstance(found, str):
        raise TypeError
    return found


def checked_key(key: str, came_from: str) -> str:
    """Return a key without white space around it. Raises: ConfigError: no header can hold it."""
    key = key.strip()
    wrong = re.search(r"[^\x21-\x7e]", key)  # a header value must be visible ASCII
    if wrong or not key:
        at = f"character {wrong.start() + 1} of {len(key)} is not" if wrong else "it is empty, not"
        raise ConfigError(f"{came_from}: {at} visible ASCII, as a key must be")
    return key


def _checked_url(url: str, came_from: str) -> str:
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{came_from}: {url!r} is no URL ({error})") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{came_from}: must be a http:// or https:// URL, not {url!r}")
    if parts.username or parts.password:
        raise ConfigError(f"{came_from}: must not hold a user name or password; use HH_API_KEY")
    if parts.query or parts.fragment:
        raise ConfigError(f"{came_from}: must end with the host or a path, without ? and #")
    return url.strip().rstrip("/")


def check_plain_http(url: str, came_from: str, allow_http: object) -> None:
    """Refuse to send a key where others can read it. Raises: ConfigError."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or "") and not allow_http:
        raise ConfigError(
            f"{came_from}: plain http beyond loopback would show the key to the network; "
            "use https, or pass allow_http=True"
        )


def is_loopback(host: str) -> bool:
    """Tell whether a URL's host is this machine by name or by address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def mask_key(key: str) -> str:
    """Return what may be shown of a key: its `hh_…_` prefix and the last 4 characters."""
    prefix = re.match(r"hh_(?:(?:org|ws|cp|dp)_)?", key)
    start = prefix[0] if prefix else ""
    end = key[-4:] if len(key) - len(start) >= 8 else ""
    return f"{start}…{end}"
