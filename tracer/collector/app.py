"""The application: one request in, one answer out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tracer.collector import answers, openapi, validate
from tracer.collector.body import BodyReader
from tracer.collector.gate import Gate
from tracer.collector.query import search_request
from tracer.collector.sqlite import SqliteStore
from tracer.collector.store import RefusedError, id_text
from tracer.schema import OPERATIONS

__all__ = ["create_app"]

T = TypeVar("T")

LARGE_BODY = 1 << 20  # bytes; reading more would hold up the other requests for milliseconds


def create_app(
    store: SqliteStore, hosts: frozenset[str] | None = None, token: str | None = None
) -> Starlette:
    """Return the application over an open store.

    Args:
        hosts: names a request may be addressed to, None for any.
        token: what /v1 wants as bearer token, None for nothing.
    """
    endpoints = _Endpoints(store)
    routes = [Route(o.path, endpoints.of(o.group, o.name), methods=[o.method]) for o in OPERATIONS]
    document = answers.answer(openapi.document()).body

    async def describe(request: Request) -> Response:
        return answers.answer(bytes(document))

    app = Starlette(
        routes=[*routes, Route("/openapi.json", describe, methods=["GET"])],
        middleware=[Middleware(Gate, hosts=hosts, token=token)],
        exception_handlers={
            RefusedError: _refused,
            HTTPException: _not_routed,
            ClientDisconnect: _disconnected,
            Exception: _failed,
        },
    )
    app.router.redirect_slashes = False  # a redirected POST loses its body
    return app


class _Endpoints:
    """One method per operation of the contract, named `<group>_<name>`."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._bodies = BodyReader()

    def of(self, group: str, name: str) -> Callable[[Request], Awaitable[Response]]:
        found: Callable[[Request], Awaitable[Response]] = getattr(self, f"{group}_{name}")
        return found

    async def sessions_create(self, request: Request) -> Response:
        body = await self._bodies.read(request)
        row = await _parse(validate.session, body)
        stored = await asyncio.wrap_future(self._store.open_session(row, len(body)))
        return answers.answer(answers.session(stored))

    async def sessions_create_event_batch(self, request: Request) -> Response:
        key = validate.path_id(request.path_params["session_id"], "session_id")
        body = await self._bodies.read(request)
        rows = await _parse(validate.session_batch, body, key)
        await asyncio.wrap_future(self._store.add_to_session(key, rows, len(body)))
        return answers.answer({"success": True})

    async def events_create(self, request: Request) -> Response:
        body = await self._bodies.read(request)
        addition = await _parse(validate.event, body)
        await asyncio.wrap_future(self._store.add(addition, len(body)))
        return answers.answer({"success": True, "event_id": id_text(addition.events[0][0])})

    async def events_create_batch(self, request: Request) -> Response:
        body = await self._bodies.read(request)
        batch = await _parse(validate.event_batch, body)
        await asyncio.wrap_future(self._store.add(batch.addition, len(body)))
        content: dict[str, Any] = {"event_ids": batch.event_ids, "success": True}
        if batch.session_id is not None:
            content["session_id"] = batch.session_id
        return answers.answer(content)

    async def events_update(self, request: Request) -> Response:
        key = validate.path_id(request.path_params["event_id"], "event_id")
        body = await self._bodies.read(request)
        changes = await _parse(validate.update, body)
        await asyncio.wrap_future(self._store.update(key, changes, len(body)))
        return answers.answer({"success": True})

    async def events_get(self, request: Request) -> Response:
        key = validate.path_id(request.path_params["event_id"], "event_id")
        row = await asyncio.wrap_future(self._store.get(key))
        if row is None:
            raise RefusedError(404, f"there is no event {id_text(key)}")
        return answers.answer({"event": answers.event(row)})

    async def events_search(self, request: Request) -> Response:
        search = search_request(await self._bodies.read(request))
        return answers.answer(await asyncio.wrap_future(self._store.search(search, answers.search)))


async def _parse(parse: Callable[..., T], body: bytes, *arguments: Any) -> T:
    if len(body) < LARGE_BODY:
        return parse(body, *arguments)
    return await asyncio.to_thread(parse, body, *arguments)


async def _refused(request: Request, error: Exception) -> Response:
    return (
        answers.refused(error) if isinstance(error, RefusedError) else await _failed(request, error)
    )


async def _not_routed(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _failed(request, error)
    place = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        message = f"there is no {place}; GET /openapi.json lists what there is"
    elif error.status_code == 405:
        message = f"{place} is not allowed; GET /openapi.json lists what is"
    else:
        message = str(error.detail)
    headers = dict(error.headers) if error.headers else None
    return answers.error(error.status_code, message, headers)


async def _disconnected(request: Request, error: Exception) -> Response:
    return answers.error(
        400, "the client went away before its body was complete"
    )  # nobody reads it


async def _failed(request: Request, error: Exception) -> Response:
    # uvicorn logs the traceback; the answer says nothing of the inside.
    return answers.error(500, "the collector failed to do this; its output says why")
