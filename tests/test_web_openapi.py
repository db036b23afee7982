"""The API against its own description: schemathesis asks, and every answer has to be as the document says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from asking import DOCUMENT, OPERATIONS, apart, ask, cases
from fake_service import two_pools
from jsonschema import Draft202012Validator
from schemathesis.generation import GenerationMode
from serving import run, serving

from nftlb.metrics import Metrics
from nftlb.web import application

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asking import Place

PLACE = {"pool": "dns", "backend": "ns1"}


@pytest.fixture
def url() -> Iterator[str]:
    with apart(serving()) as world:
        yield f"http://{world.server.bound}"


@pytest.mark.parametrize(("path", "method", "mode", "place"), cases(PLACE))
def test_answers_are_as_described(url: str, path: str, method: str, mode: GenerationMode, place: Place | None) -> None:
    """Whatever is asked, good or bad, of places that are there or not: a status, a type, headers and a body as said."""
    statuses = ask(url, path, method, mode, place)

    assert 500 not in statuses
    if mode is GenerationMode.POSITIVE and (place or "{" not in path):
        assert statuses & {200, 201, 204}  # it was not refused each time


def operations() -> list[dict[str, Any]]:
    return [DOCUMENT["paths"][path][method] for path, method in OPERATIONS]


def test_every_route_is_described() -> None:
    """And nothing that is not there."""
    app = application(two_pools(), Metrics())
    routes = {
        (route.resource.canonical, route.method.lower())
        for route in app.router.routes()
        if route.resource and route.method != "HEAD"
    }

    assert routes == set(OPERATIONS)


def test_it_is_served() -> None:
    """As JSON, the same each time."""

    async def test() -> None:
        async with serving() as world:
            for _ in range(2):
                answer = await world.get("/api/v1/openapi.json")
                assert (200, DOCUMENT) == (answer.status, answer.json)

    run(test())


def test_what_changes_something_needs_the_token() -> None:
    """Nothing else does; and how it is refused is described."""
    for (path, method), operation in zip(OPERATIONS, operations(), strict=True):
        guarded = method != "get"
        assert ([{"token": []}] if guarded else None) == operation.get("security"), path
        assert guarded == ({"401", "403"} <= operation["responses"].keys())
    assert DOCUMENT["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_operations_have_names() -> None:
    """Each its own: generated clients call their functions so."""
    names = [operation["operationId"] for operation in operations()]

    assert len(names) == len(set(names))
    assert all(operation["summary"] and operation["responses"] for operation in operations())


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(part)


def test_references_lead_somewhere() -> None:
    """Within the document, and every schema is one of JSON Schema and used."""
    schemas = DOCUMENT["components"]["schemas"]
    used = {found["$ref"] for found in walk(DOCUMENT) if "$ref" in found}

    assert {f"#/components/schemas/{name}" for name in schemas} == used
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


def test_examples_are_right() -> None:
    """Each fits the schema beside it."""
    checked = 0
    for found in walk(DOCUMENT):
        examples = found.get("examples", [found["example"]] if "example" in found else [])
        for example in examples:
            schema = {**found.get("schema", found), "components": DOCUMENT["components"]}
            Draft202012Validator({key: value for key, value in schema.items() if key != "examples"}).validate(example)
            checked += 1
    assert checked > 50


def test_answers_fit_the_document() -> None:
    """The real status does; fields have descriptions where the models have them."""

    async def test() -> None:
        async with serving() as world:
            answer = await world.get("/api/v1/status")
            schema = {"$ref": "#/components/schemas/Status", "components": DOCUMENT["components"]}
            Draft202012Validator(schema).validate(json.loads(answer.body))

    run(test())
    backend = DOCUMENT["components"]["schemas"]["BackendStatus"]
    assert backend["properties"]["share"]["description"] == "its part of the pool's packets now, 0 to 1"
    assert set(backend["required"]) == set(backend["properties"])
