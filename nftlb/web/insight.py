"""The handlers that say what happened and why: the last events, changes of the rules, one packet, and notices."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from nftlb.config.reading import Unfit, read_endpoint, read_hex, read_listener
from nftlb.model import Endpoint, EventKind, Listener
from nftlb.printable import show

from .errors import RequestError
from .query import number_of, read_query
from .routes import MOST_EVENTS, MOST_ID, USUAL_EVENTS
from .shared import Lane

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web
    from aiohttp.typedefs import Handler

    from nftlb.service import Service

    from .shared import SharedResponses

T = TypeVar("T")


class InsightRoutes:
    """The handlers. They only read, and clients that ask the same at the same time share an answer."""

    def __init__(self, service: Service, shared: SharedResponses) -> None:
        self._service = service
        self._shared = shared

    def handlers(self) -> dict[str, Handler]:
        return {
            "history": self.history,
            "rulesetChanges": self.ruleset_changes,
            "explain": self.explain,
            "notices": self.notices,
        }

    async def history(self, request: web.Request) -> web.Response:
        given = read_query(request, "pool", "backend", "kind", "limit", "before")
        wanted: dict[str, Any] = {
            "pool": given.get("pool"),
            "backend": given.get("backend"),
            "kind": _kind(given.get("kind")),
            "before": number_of(given, "before", 0, MOST_ID, "the id of an event"),
            "limit": number_of(given, "limit", 1, MOST_EVENTS, "a number of events") or USUAL_EVENTS,
        }
        return await self._shared.respond(request, f"history {wanted}", partial(self._history, wanted))

    async def ruleset_changes(self, request: web.Request) -> web.Response:
        read_query(request)
        return await self._shared.respond(request, "ruleset changes", self._ruleset_changes)

    async def explain(self, request: web.Request) -> web.Response:
        given = read_query(request, "source", "destination", "payload")
        client = _read(given, "source", read_endpoint)
        listener = _read(given, "destination", read_listener)
        payload = _read(given, "payload", read_hex) if "payload" in given else None
        if listener.host:
            message = f"{listener} is no single address; allowed: the destination address of a packet"
            raise RequestError(422, f"destination: {message}", field="destination")
        if listener.first_port != listener.last_port:
            message = f"{listener} is a range of ports; allowed: one port"
            raise RequestError(422, f"destination: {message}", field="destination")
        if client.family is not listener.family:
            message = f"{client} and {listener} belong to two address families; allowed: both IPv4, or both IPv6"
            raise RequestError(422, f"source: {message}", field="source")
        make, what = (
            partial(self._explain, client, listener, payload),
            f"explain {client} {listener} {given.get('payload')}",
        )
        return await self._shared.respond(request, what, make, lane=Lane.SLOW)

    async def notices(self, request: web.Request) -> web.Response:
        read_query(request)
        return await self._shared.respond(request, "notices", self._notices, lane=Lane.SLOW)

    async def _history(self, wanted: dict[str, Any]) -> bytes:
        return f"{self._service.history(**wanted).model_dump_json()}\n".encode()

    async def _ruleset_changes(self) -> bytes:
        return f"{(await self._service.ruleset_changes()).model_dump_json()}\n".encode()

    async def _explain(self, client: Endpoint, listener: Listener, payload: bytes | None) -> bytes:
        service = Endpoint(listener.address, listener.first_port)
        found = await self._service.explain(client, service, listener.protocol, payload)
        return f"{json.dumps(found)}\n".encode()

    async def _notices(self) -> bytes:
        return f"{(await self._service.notices()).model_dump_json()}\n".encode()


def _kind(text: str | None) -> EventKind | None:
    if text is None:
        return None
    try:
        return EventKind(text)
    except ValueError:
        message = f"{show(text)} is not a kind of event; allowed: {', '.join(EventKind)}"
        raise RequestError(400, f"kind: {message}", field="kind") from None


def _read(given: dict[str, str], name: str, read: Callable[[object], T]) -> T:
    """Read a parameter as the file's values are read. RequestError 400 if it is missing, 422 if it does not fit."""
    if name not in given:
        raise RequestError(400, f"{name} is missing in the query", field=name)
    try:
        return read(given[name])
    except Unfit as error:
        raise RequestError(422, f"{name}: {error}", field=name) from None
