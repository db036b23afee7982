"""The JSON Schema of the file, for editors and other tools. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema

from nftlb.config.written import WrittenConfig

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema


class _Generator(GenerateJsonSchema):
    """Leaves out titles, as a key is title enough, and allows no names but those that match."""

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        described = super().dict_schema(schema)
        return {**described, "additionalProperties": False} if "patternProperties" in described else described

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def schema() -> dict[str, Any]:
    """Describe what a file may say, as JSON Schema of draft 2020-12.

    What spans several places, such as listeners that overlap, it can't tell: `nftlb check` does.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **WrittenConfig.model_json_schema(schema_generator=_Generator),
        "title": "nftlb",
    }
