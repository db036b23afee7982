"""The API against its OpenAPI document: every answer to a request of schemathesis must fit the document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fake_service import two_pools
from jsonschema import Draft202012Validator
from schema_fuzz import DOCUMENT, OPERATIONS, UNFORESEEN, apart, ask, cases, names_exist
from schemathesis.generation import GenerationMode
from web_server import run, serving

from nftlb.metrics import Metrics
from nftlb.web import application

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schema_fuzz import Place

PLACE = {"pool": "dns", "backend": "ns1"}


@pytest.fixture
def url() -> Iterator[str]:
    with apart(serving()) as api:
        yield f"http://{api.server.bound}"


@pytest.mark.parametrize(("path", "method", "mode", "place"), cases(PLACE))
def test_answers_are_as_described(url: str, path: str, method: str, mode: GenerationMode, place: Place | None) -> None:
    """Status, content type, headers and body fit the document, for good and bad requests to known and unknown paths."""
    # A pattern can't exclude all addresses that can't be a client, nor two families in one request.
    unforeseen = (*UNFORESEEN, 422) if path.endswith("/explain") else UNFORESEEN
    statuses = ask(url, path, method, mode, place, unforeseen)

    assert 500 not in statuses
    if mode is GenerationMode.POSITIVE and names_exist(path, place):
        assert statuses & {200, 201, 204}  # it was not refused each time


def operations() -> list[dict[str, Any]]:
    return [DOCUMENT["paths"][path][method] for path, method in OPERATIONS]


def test_every_route_is_described() -> None:
    """The document has every route of the application, and no other routes."""
    app = application(two_pools(), Metrics())
    routes = {
        (route.resource.canonical, route.method.lower())
        for route in app.router.routes()
        if route.resource and route.method != "HEAD"
    }

    assert routes == set(OPERATIONS)


def test_the_document_is_served() -> None:
    """The document is served as JSON, with the same content each time."""

    async def test() -> None:
        async with serving() as api:
            for _ in range(2):
                answer = await api.get("/api/v1/openapi.json")
                assert (200, DOCUMENT) == (answer.status, answer.json)

    run(test())


def test_requests_that_change_something_need_the_token() -> None:
    """Exactly the requests that change something need a token, and their refusals are described."""
    for (path, method), operation in zip(OPERATIONS, operations(), strict=True):
        guarded = method != "get"
        assert ([{"token": []}] if guarded else None) == operation.get("security"), path
        assert guarded == ({"401", "403"} <= operation["responses"].keys())
    assert DOCUMENT["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_operations_have_names() -> None:
    """Every operation has a unique name, which generated clients use for their functions."""
    names = [operation["operationId"] for operation in operations()]

    assert len(names) == len(set(names))
    assert all(operation["summary"] and operation["responses"] for operation in operations())


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(part)


def test_references_lead_to_schemas() -> None:
    """Every reference leads to a schema of the document, and every schema is valid and used."""
    schemas = DOCUMENT["components"]["schemas"]
    used = {found["$ref"] for found in walk(DOCUMENT) if "$ref" in found}

    assert {f"#/components/schemas/{name}" for name in schemas} == used
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


def test_examples_are_right() -> None:
    """Every example fits the schema beside it."""
    checked = 0
    for found in walk(DOCUMENT):
        examples = found.get("examples", [found["example"]] if "example" in found else [])
        for example in examples:
            schema = {**found.get("schema", found), "components": DOCUMENT["components"]}
            Draft202012Validator({key: value for key, value in schema.items() if key != "examples"}).validate(example)
            checked += 1
    assert checked > 50


def test_answers_fit_the_document() -> None:
    """The status fits its schema, and fields have the descriptions of the models."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.get("/api/v1/status")
            schema = {"$ref": "#/components/schemas/Status", "components": DOCUMENT["components"]}
            Draft202012Validator(schema).validate(json.loads(answer.body))

    run(test())
    backend = DOCUMENT["components"]["schemas"]["BackendStatus"]
    assert (
        backend["properties"]["share"]["description"]
        == "the part of the packets of the pool that it receives now, 0 to 1"
    )
    assert set(backend["required"]) == set(backend["properties"])
