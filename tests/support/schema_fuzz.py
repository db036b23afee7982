"""Schemathesis sends valid and invalid requests by the API's OpenAPI document, and compares the responses with it."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from web_server import BEARER

from nftlb.web.openapi import openapi

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager
    from typing import Any

T = TypeVar("T")
Place: TypeAlias = dict[str, str]
Case: TypeAlias = tuple[str, str, GenerationMode, Place | None]

EXAMPLES = 15
DOCUMENT = openapi()
METHODS = ("get", "post", "patch", "delete")
OPERATIONS = [(path, method) for path, item in DOCUMENT["paths"].items() for method in METHODS if method in item]
TAKING = [  # operations for which invalid requests are possible
    (path, method)
    for path, method in OPERATIONS
    if {"parameters", "requestBody"} & {*DOCUMENT["paths"][path], *DOCUMENT["paths"][path][method]}
]
STREAM = "/api/v1/events", "get"  # never ends; tested in tests/web/test_web_events.py
SEVERAL = "/api/v1/backends"
UNFORESEEN = (404, 409, 503)
"""Statuses of valid requests beside success: the document can't exclude a name in use, or the last backend."""


def cases(*places: Place) -> list[Case]:
    """All operations with valid and invalid requests, for generated names and for the existing `places`."""
    bodies = [operation for operation in TAKING if "requestBody" in DOCUMENT["paths"][operation[0]][operation[1]]]
    return [
        *((*operation, GenerationMode.POSITIVE, None) for operation in OPERATIONS if operation != STREAM),
        *(
            (*operation, GenerationMode.POSITIVE, place)
            for operation in OPERATIONS
            if "{" in operation[0]
            for place in places
        ),
        *((*operation, GenerationMode.NEGATIVE, None) for operation in TAKING),
        *((*operation, GenerationMode.NEGATIVE, place) for operation in bodies for place in places),
    ]


def ask(
    url: str,
    path: str,
    method: str,
    mode: GenerationMode,
    place: Place | None,
    unforeseen: tuple[int, ...] = UNFORESEEN,
) -> set[int]:
    """Send requests, check the responses, and return their statuses.

    Hypothesis takes values from the modules that are loaded, so the requests also depend on the tests before.
    """
    config = SchemathesisConfig.from_dict({"checks": checks(unforeseen), "request-timeout": 60})
    schema = schemathesis.openapi.from_dict(DOCUMENT, config=config)
    statuses = set()

    @given(case=schema[path][method].as_strategy(mode, path_parameters=place))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def once(case: schemathesis.Case[Any]) -> None:
        # A parameter that is an empty list is not sent. Without it, a request that should be invalid may be valid.
        assume([] not in case.query.values())
        case.headers.pop("Expect", None)  # aiohttp refuses an unknown value (417) before it calls the application
        statuses.add(case.call_and_validate(base_url=url, headers=BEARER).status_code)

    once()
    return statuses


def names_exist(path: str, place: Place | None) -> bool:
    """Whether all names in requests exist: those in the path are of `place`, and those in a body are generated."""
    return path != SEVERAL and (place is not None or "{" not in path)


def checks(unforeseen: tuple[int, ...]) -> dict[str, Any]:
    return {
        # 503 is allowed: a pool without its quorum is not an error of the server.
        "not_a_server_error": {"expected-statuses": ["2xx", "4xx", 503]},
        "positive_data_acceptance": {"expected-statuses": [200, 201, 204, *unforeseen]},
        # This check removes the token, and expects a refusal also for operations that need no token.
        "ignored_auth": {"enabled": False},
    }


@contextmanager
def apart(server: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Run `server` in the event loop of another thread, since the client of schemathesis blocks its thread."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    def there(what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, loop).result(60)

    async def enter() -> T:
        return await server.__aenter__()

    async def leave() -> Any:
        await server.__aexit__(None, None, None)

    try:
        entered = there(enter())
        try:
            yield entered
        finally:
            there(leave())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
