"""What other programs ask again and again: `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from nftlb.metrics import CONTENT_TYPE
from nftlb.service import UnknownPool

from .errors import Refused

if TYPE_CHECKING:
    from nftlb.metrics import Metrics
    from nftlb.service import Service


class Probes:
    """They need no token, and the first two cost nothing."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics
        self._rendering = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self.health),
            web.get("/readyz", self.readiness),
            web.get("/metrics", self.figures),
        ]

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readiness(self, request: web.Request) -> web.Response:
        """200 if every pool, or the one that is asked for, is ready; else 503, and why not, pool by pool."""
        pool = _only_pool(request)
        if self._service.ready(pool):
            return web.Response(text="ready\n")
        short = [name for name in self._service.short() if pool in {None, name}]
        lines = []
        for name in short:
            with suppress(UnknownPool):  # a reload took it away meanwhile
                one = await self._service.pool(name)
                lines += [f"{name}: {what}" for what in one.lacking]
                if one.healthy < one.quorum or not one.lacking:
                    lines.append(f"{name}: {one.healthy} of {one.quorum} backends that make its quorum are healthy")
            await asyncio.sleep(0)  # thousands take a while, in which checks have to begin
        return web.Response(status=503, text="\n".join(["not ready", *lines, ""]))

    async def figures(self, _: web.Request) -> web.Response:
        """All of Prometheus' figures."""
        async with self._rendering:  # one at a time: it is the answer that takes most work and memory
            page = self._metrics.page()
            async for pool in self._service.pools():
                page.add(pool)
            content = page.whole(await self._service.overview())
        return web.Response(body=content, headers={"Content-Type": CONTENT_TYPE})


def _only_pool(request: web.Request) -> str | None:
    """Read the query. A misspelt one must not pass for a question about all pools."""
    if unknown := set(request.query) - {"pool"}:
        raise Refused(400, f"{', '.join(sorted(unknown))} can't be asked; allowed: pool")
    pools = request.query.getall("pool", [])
    if len(pools) > 1:
        raise Refused(400, "pool is asked twice; allowed: once")
    return pools[0] if pools else None
