"""The key requests are sent with: asked for at the start, and again when the server refuses it."""

from __future__ import annotations

from collections.abc import Callable

from tracer.config import Config
from tracer.errors import AuthError, ConfigError
from tracer.voice import log

__all__ = ["Key"]


class Key:
    """Hold the key of one tracer; what cannot be had is said once and waited for, never raised."""

    def __init__(self, config: Config, *, wanted: bool) -> None:
        """Ask for the key, if it is `wanted`: not where nothing is sent."""
        self._config = config
        self._said = False
        self.value: str | None = None
        self.on_change: Callable[[str | None], None] = _nobody
        if wanted:
            self.renew()

    def renew(self) -> bool:
        """Ask again; tell whether it is another key now. Runs a function of the user's."""
        try:
            found = self._config.ask_for_key()
        except ConfigError as error:
            if not self._said:
                self._said = True
                log.error("%s; events wait until there is a key", error)
            return False
        self._said = False
        changed, self.value = found != self.value, found
        if changed:
            self.on_change(found)
        return changed

    def check(self) -> None:
        """Raise AuthError where a function is to return the key and has not: nothing can be sent."""
        if callable(self._config.api_key) and self.value is None:
            raise AuthError("the function given as api_key has returned no key yet")


def _nobody(_: str | None) -> None:
    """Tell nobody: no journal is written for the key."""
