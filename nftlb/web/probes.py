"""What other programs ask again and again: `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from nftlb.metrics import CONTENT_TYPE

from .errors import Refused
from .large import Large

if TYPE_CHECKING:
    from nftlb.metrics import Metrics
    from nftlb.service import Service

    from .shared import Shared


class Probes:
    """They need no token, and the first two cost nothing."""

    def __init__(self, service: Service, metrics: Metrics, shared: Shared) -> None:
        self._service = service
        self._metrics = metrics
        self._shared = shared

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
        lines = []
        for one in self._service.short():
            if pool in {None, one.pool}:
                lines += [f"{one.pool}: {what}" for what in one.lacking]
                if one.healthy < one.quorum or not one.lacking:
                    lines.append(f"{one.pool}: {one.healthy} of {one.quorum} backends that make its quorum are healthy")
        return web.Response(status=503, text="\n".join(["not ready", *lines, ""]))

    async def figures(self, _: web.Request) -> web.Response:
        """All of Prometheus' figures."""
        return web.Response(body=Large(await self._shared.get("metrics", self._figures), CONTENT_TYPE))

    async def _figures(self) -> bytes:
        page = self._metrics.page()
        async for pool in self._service.pools():
            page.add(pool)
        return page.whole(await self._service.overview())


def _only_pool(request: web.Request) -> str | None:
    """Read the query. A misspelt one must not pass for a question about all pools."""
    if unknown := set(request.query) - {"pool"}:
        raise Refused(400, f"{', '.join(sorted(unknown))} can't be asked; allowed: pool")
    pools = request.query.getall("pool", [])
    if len(pools) > 1:
        raise Refused(400, "pool is asked twice; allowed: once")
    return pools[0] if pools else None
