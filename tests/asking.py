"""Schemathesis asks a server what its own document allows, and what it forbids; answers have to be as that one says."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from serving import BEARER

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
TAKING = [  # what can be asked in a wrong way
    (path, method)
    for path, method in OPERATIONS
    if {"parameters", "requestBody"} & {*DOCUMENT["paths"][path], *DOCUMENT["paths"][path][method]}
]
STREAM = "/api/v1/events", "get"  # never ends; tests/test_web_events.py has it
UNFORESEEN = (404, 409, 503)
"""What answers to good requests may be: a name that is taken, or the last backend, the document can't rule out."""


def cases(*places: Place) -> list[Case]:
    """All operations, asked well and badly: of places that are made up, and of `places`, which are there."""
    bodies = [one for one in TAKING if "requestBody" in DOCUMENT["paths"][one[0]][one[1]]]
    return [
        *((*one, GenerationMode.POSITIVE, None) for one in OPERATIONS if one != STREAM),
        *((*one, GenerationMode.POSITIVE, place) for one in OPERATIONS if "{" in one[0] for place in places),
        *((*one, GenerationMode.NEGATIVE, None) for one in TAKING),
        *((*one, GenerationMode.NEGATIVE, place) for one in bodies for place in places),
    ]


def ask(
    url: str,
    path: str,
    method: str,
    mode: GenerationMode,
    place: Place | None,
    unforeseen: tuple[int, ...] = UNFORESEEN,
) -> set[int]:
    """Ask many times, the same in each run; every answer is as described. The statuses there were."""
    config = SchemathesisConfig.from_dict({"checks": checks(unforeseen)})
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
        statuses.add(case.call_and_validate(base_url=url, headers=BEARER).status_code)

    once()
    return statuses


def checks(unforeseen: tuple[int, ...]) -> dict[str, Any]:
    return {
        # A pool without its quorum is no fault of the server.
        "not_a_server_error": {"expected-statuses": ["2xx", "4xx", 503]},
        "positive_data_acceptance": {"expected-statuses": [200, 201, 204, *unforeseen]},
        # It would take our token away, and then expect to be refused where none is needed.
        "ignored_auth": {"enabled": False},
    }


@contextmanager
def apart(world: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Have it in a loop and a thread of its own, where schemathesis' blocking client can talk to it."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    def there(what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, loop).result(20)

    async def enter() -> T:
        return await world.__aenter__()

    async def leave() -> Any:
        await world.__aexit__(None, None, None)

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
