"""`/api/v1`: the state, and changes of it."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from aiohttp import web

from .bodies import BackendChange, NewBackend, read_body
from .large import Large
from .tokens import Admission

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pydantic import BaseModel

    from nftlb.service import Service

    from .limits import Limits
    from .shared import Shared
    from .tokens import Tokens

T = TypeVar("T")

POOL = "/api/v1/pools/{pool}"
BACKENDS = POOL + "/backends"
BACKEND = BACKENDS + "/{backend}"


class Api:
    """Reading is free; what changes something needs a token."""

    def __init__(self, service: Service, tokens: Tokens, limits: Limits, shared: Shared) -> None:
        self._service = service
        self._shared = shared
        self._admission = Admission(tokens)
        self._limits = limits
        self._changes: set[asyncio.Task[object]] = set()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/status", self.status),
            web.get("/api/v1/pools", self.pools),
            web.get(POOL, self.pool),
            web.get("/api/v1/ruleset", self.ruleset),
            web.post("/api/v1/reload", self.reload),
            web.post(BACKENDS, self.add),
            web.patch(BACKEND, self.change),
            web.delete(BACKEND, self.remove),
        ]

    async def status(self, _: web.Request) -> web.Response:
        return _large(await self._shared.get("status", self._status))

    async def pools(self, _: web.Request) -> web.Response:
        return _large(await self._shared.get("pools", self._pools))

    async def pool(self, request: web.Request) -> web.Response:
        name = request.match_info["pool"]
        return _large(await self._shared.get(f"pool {name}", partial(self._pool, name)))

    async def ruleset(self, _: web.Request) -> web.Response:
        return _large(await self._shared.get("ruleset", self._ruleset), "text/plain; charset=utf-8")

    async def reload(self, request: web.Request) -> web.Response:
        self._admission.admit(request)
        await self._whole(self._service.reload())
        return _text(json.dumps({"reloaded": True}) + "\n")

    async def add(self, request: web.Request) -> web.Response:
        self._admission.admit(request)
        body, written = await read_body(request, NewBackend, self._limits)
        pool = request.match_info["pool"]
        described = {key: value for key, value in written.items() if key != "name"}
        added = await self._whole(self._service.add(pool, body.name, described))
        place = BACKEND.format(pool=quote(pool, safe=""), backend=quote(added.name, safe=""))
        return _json(added, status=201, headers={"Location": place})

    async def change(self, request: web.Request) -> web.Response:
        self._admission.admit(request)
        body, _ = await read_body(request, BackendChange, self._limits)
        pool, backend = request.match_info["pool"], request.match_info["backend"]
        return _json(await self._whole(self._service.change(pool, backend, admin=body.admin, weight=body.weight)))

    async def remove(self, request: web.Request) -> web.Response:
        self._admission.admit(request)
        await self._whole(self._service.remove(request.match_info["pool"], request.match_info["backend"]))
        return web.Response(status=204)

    async def _status(self) -> bytes:
        pools = [pool.model_dump_json().encode() async for pool in self._service.pools()]
        rest = (await self._service.overview()).model_dump_json().removesuffix("}").encode()
        return b"".join((rest, b',"pools":[', b",".join(pools), b"]}\n"))

    async def _pools(self) -> bytes:
        pools = [pool.model_dump_json().encode() async for pool in self._service.pools()]
        return b"".join((b"[", b",".join(pools), b"]\n"))

    async def _pool(self, name: str) -> bytes:
        return f"{(await self._service.pool(name)).model_dump_json()}\n".encode()

    async def _ruleset(self) -> bytes:
        return (await self._service.ruleset()).encode()

    async def _whole(self, change: Coroutine[None, None, T]) -> T:
        """Carry a change through, whatever becomes of the request for it."""
        task = asyncio.ensure_future(change)
        self._changes.add(task)
        task.add_done_callback(self._end)
        return await asyncio.shield(task)

    def _end(self, change: asyncio.Task[object]) -> None:
        self._changes.discard(change)
        if not change.cancelled():
            change.exception()  # seen: there may be nobody left to tell


def _large(body: bytes, content_type: str = "application/json; charset=utf-8") -> web.Response:
    return web.Response(body=Large(body, content_type))


def _json(model: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return _text(model.model_dump_json() + "\n", status, headers)


def _text(json_: str, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=json_, content_type="application/json", headers=headers)
