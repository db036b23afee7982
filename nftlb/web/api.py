"""`/api/v1`: the state, and changes of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from aiohttp import web

from .bodies import BackendChange, NewBackend, read_body
from .tokens import admit

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pydantic import BaseModel

    from nftlb.service import Service

    from .limits import Limits
    from .tokens import Tokens

T = TypeVar("T")

POOL = "/api/v1/pools/{pool}"
BACKENDS = POOL + "/backends"
BACKEND = BACKENDS + "/{backend}"


class Api:
    """Reading is free; what changes something needs a token."""

    def __init__(self, service: Service, tokens: Tokens, limits: Limits) -> None:
        self._service = service
        self._tokens = tokens
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
        pools = await self._all_pools()
        rest = (await self._service.overview()).model_dump_json().removesuffix("}")
        return _text(f'{rest},"pools":{pools}}}\n')

    async def pools(self, _: web.Request) -> web.Response:
        return _text(f"{await self._all_pools()}\n")

    async def pool(self, request: web.Request) -> web.Response:
        return _json(await self._service.pool(request.match_info["pool"]))

    async def ruleset(self, _: web.Request) -> web.Response:
        return web.Response(text=await self._service.ruleset())

    async def reload(self, request: web.Request) -> web.Response:
        admit(request, self._tokens)
        await self._whole(self._service.reload())
        return _text(json.dumps({"reloaded": True}) + "\n")

    async def add(self, request: web.Request) -> web.Response:
        admit(request, self._tokens)
        body, written = await read_body(request, NewBackend, self._limits)
        pool = request.match_info["pool"]
        described = {key: value for key, value in written.items() if key != "name"}
        added = await self._whole(self._service.add(pool, body.name, described))
        place = BACKEND.format(pool=quote(pool, safe=""), backend=quote(added.name, safe=""))
        return _json(added, status=201, headers={"Location": place})

    async def change(self, request: web.Request) -> web.Response:
        admit(request, self._tokens)
        body, _ = await read_body(request, BackendChange, self._limits)
        pool, backend = request.match_info["pool"], request.match_info["backend"]
        return _json(await self._whole(self._service.change(pool, backend, admin=body.admin, weight=body.weight)))

    async def remove(self, request: web.Request) -> web.Response:
        admit(request, self._tokens)
        await self._whole(self._service.remove(request.match_info["pool"], request.match_info["backend"]))
        return web.Response(status=204)

    async def _all_pools(self) -> str:
        return f"[{','.join([pool.model_dump_json() async for pool in self._service.pools()])}]"

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


def _json(model: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return _text(model.model_dump_json() + "\n", status, headers)


def _text(json_: str, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=json_, content_type="application/json", headers=headers)
