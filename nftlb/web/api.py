"""The handlers of requests: the state, changes to it, and monitoring. `nftlb.web.routes` has their paths."""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from aiohttp import web

from nftlb.metrics import CONTENT_TYPE
from nftlb.model import BackendChange

from .bodies import BackendChangeBody, BackendsChangeBody, NewBackend, change_of_backends, new_backend, read_body
from .query import flag, number_of, read_query
from .routes import BACKEND, MOST_CLIENTS, USUAL_CLIENTS, VERSION_HEADER
from .shared import Lane

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler
    from pydantic import BaseModel

    from nftlb.metrics import Metrics
    from nftlb.service import Service

    from .admission import Admitted
    from .connection import Limits
    from .routes import Changer
    from .shared import SharedResponses


T = TypeVar("T")


class ApiRoutes:
    """The handlers that ask the service. A handler that changes something gets the client that asks for the change."""

    def __init__(self, service: Service, limits: Limits, shared: SharedResponses) -> None:
        self._service = service
        self._shared = shared
        self._limits = limits

    def handlers(self) -> dict[str, Handler]:
        return {
            "status": self.status,
            "pools": self.pools,
            "pool": self.pool,
            "clients": self.clients,
            "ruleset": self.ruleset,
        }

    def changers(self) -> dict[str, Changer]:
        return {
            "reload": self.reload,
            "addBackend": self.add,
            "changeBackend": self.change,
            "changeBackends": self.change_several,
            "removeBackend": self.remove,
        }

    async def status(self, request: web.Request) -> web.Response:
        return await self._shared.respond(request, "status", self._status)

    async def pools(self, request: web.Request) -> web.Response:
        return await self._shared.respond(request, "pools", self._pools)

    async def pool(self, request: web.Request) -> web.Response:
        name = request.match_info["pool"]
        return await self._shared.respond(request, f"pool {name}", partial(self._pool, name), lane=Lane.SMALL)

    async def clients(self, request: web.Request) -> web.Response:
        name, most = request.match_info["pool"], _limit(request)
        return await self._shared.respond(request, f"clients {name} {most}", partial(self._clients, name, most))

    async def ruleset(self, request: web.Request) -> web.Response:
        return await self._shared.respond(request, "ruleset", self._ruleset, "text/plain; charset=utf-8")

    async def reload(self, request: web.Request, by: Admitted) -> web.Response:
        if _is_preview(request):
            return _json(await self._service.preview_reload())
        await self._service.reload(await by.actor())
        return _text(json.dumps({"reloaded": True}) + "\n")

    async def add(self, request: web.Request, by: Admitted) -> web.Response:
        preview, pool = _is_preview(request), request.match_info["pool"]
        backend = new_backend(await read_body(request, NewBackend, self._limits))
        if preview:
            return _json(await self._service.preview_add(pool, backend))
        added = await self._service.add(pool, backend, await by.actor())
        place = BACKEND.format(pool=quote(pool, safe=""), backend=quote(added.name, safe=""))
        return _json(added, status=201, headers={"Location": place})

    async def change(self, request: web.Request, by: Admitted) -> web.Response:
        preview = _is_preview(request)
        change = BackendChange(**await read_body(request, BackendChangeBody, self._limits))
        pool, backend = request.match_info["pool"], request.match_info["backend"]
        if preview:
            return _json(await self._service.preview_change(pool, backend, change))
        return _json(await self._service.change(pool, backend, change, await by.actor()))

    async def change_several(self, request: web.Request, by: Admitted) -> web.Response:
        preview = _is_preview(request)
        backends, change = change_of_backends(await read_body(request, BackendsChangeBody, self._limits, names=True))
        if preview:
            return _json(await self._service.preview_change_backends(backends, change))
        changed = await self._service.change_backends(backends, change, await by.actor())
        return _text(f"[{','.join(backend.model_dump_json() for backend in changed)}]\n")

    async def remove(self, request: web.Request, by: Admitted) -> web.Response:
        pool, backend = request.match_info["pool"], request.match_info["backend"]
        if _is_preview(request):
            return _json(await self._service.preview_remove(pool, backend))
        await self._service.remove(pool, backend, await by.actor())
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

    async def _clients(self, name: str, most: int) -> bytes:
        return f"{(await self._service.clients(name, most)).model_dump_json()}\n".encode()

    async def _ruleset(self) -> bytes:
        return (await self._service.ruleset()).encode()


def _limit(request: web.Request) -> int:
    """The number of clients in the query. RequestError 400 for other parameters."""
    given = read_query(request, "limit")
    return number_of(given, "limit", 1, MOST_CLIENTS, "a number of clients") or USUAL_CLIENTS


def _is_preview(request: web.Request) -> bool:
    """Whether the request only asks what a change would lead to."""
    return flag(read_query(request, "preview"), "preview")


def _json(model: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return _text(model.model_dump_json() + "\n", status, headers)


def _text(json_: str, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=json_, content_type="application/json", headers=headers)


# --- monitoring -------------------------------------------------------------------------------------------------------


class MonitoringRoutes:
    """The handlers of `/healthz`, `/readyz` and `/metrics`. Only `/metrics` is expensive to make."""

    def __init__(self, service: Service, metrics: Metrics, shared: SharedResponses) -> None:
        self._service = service
        self._metrics = metrics
        self._shared = shared
        self._version = version("nftlb")

    def handlers(self) -> dict[str, Handler]:
        return {"health": self.health, "readiness": self.readiness, "metrics": self.figures}

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n", headers={VERSION_HEADER: self._version})

    async def readiness(self, request: web.Request) -> web.Response:
        """Status 200 if every pool, or the pool of the query, is ready; else 503 with the reasons for each pool."""
        pool = _only_pool(request)
        if self._service.ready(pool):
            return web.Response(text="ready\n")
        lines = []
        for status in self._service.short():
            if pool in {None, status.pool}:
                lines += [f"{status.pool}: {what}" for what in status.lacking]
                if status.healthy < status.quorum or not status.lacking:
                    lines.append(f"{status.pool}: {status.healthy} usable, {status.quorum} needed")
        return web.Response(status=503, text="\n".join(["not ready", *lines, ""]))

    async def figures(self, request: web.Request) -> web.Response:
        """All metrics in Prometheus' text format."""
        return await self._shared.respond(request, "metrics", self._figures, CONTENT_TYPE)

    async def _figures(self) -> bytes:
        page = self._metrics.page()
        async for pool in self._service.pools():
            page.add(pool)
        return page.finish(await self._service.overview())


def _only_pool(request: web.Request) -> str | None:
    """The pool of the query, or None. RequestError 400 for other parameters: a typing error must not mean all pools."""
    return read_query(request, "pool").get("pool")
