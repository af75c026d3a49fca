"""Bodies of requests: how large one may be, how much memory all may take, how long one may last."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from tracer.collector.store import UNAVAILABLE, RefusedError

__all__ = ["MAX_BODY", "BodyReader"]

MAX_BODY = 32 << 20  # bytes; a client starts at 4 MiB a request
MAX_READING = 96 << 20  # bytes of all bodies being received, three of the largest
BODY_SECONDS = 30.0  # a client that takes longer holds memory for nothing


class BodyReader:
    """Reads bodies within the bounds; belongs to one event loop."""

    def __init__(self) -> None:
        self._held = 0

    async def read(self, request: Request) -> bytes:
        """Return the whole body. Raises: RefusedError: 413, 408, or 503 when others fill the memory."""
        try:
            return await asyncio.wait_for(self._read(request), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise RefusedError(
                408, f"the body did not arrive within {BODY_SECONDS:.0f} s"
            ) from None

    async def _read(self, request: Request) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                self._held += len(chunk)
                if size > MAX_BODY:
                    raise RefusedError(413, f"a body may have {MAX_BODY:,} bytes at most")
                if self._held > MAX_READING:
                    raise RefusedError(
                        UNAVAILABLE, "too many bodies are being received", retry_after=1
                    )
                chunks.append(chunk)
            return b"".join(chunks)
        finally:
            self._held -= size
