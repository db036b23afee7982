"""What outlives the daemon: the operator's wishes, backends added at run time, and who was up. Pure: text both ways."""

import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nftlb.compiler.shares import WHOLE
from nftlb.model.kinds import Admin


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class BackendMemory(_Part):
    """One backend. What the operator set holds until the file itself says something else than it did then."""

    endpoint: str = Field(description="whose health it is that is remembered: address and port")
    checks: tuple[bool, ...] = Field((), description="the verdicts of its checks, in their order")
    admin: Admin | None = None
    weight: Annotated[int, Field(ge=0, le=256)] | None = None
    file_admin: Admin = Field(Admin.ENABLED, description="what the file said when `admin` was set")
    file_weight: int = Field(1, description="and when `weight` was")
    agent_admin: Admin | None = Field(None, description="what its agent wants; null if it never said")
    agent_percent: Annotated[int, Field(ge=0)] = Field(WHOLE, description="the part of its weight that its agent wants")


class PoolMemory(_Part):
    """One pool."""

    backends: dict[str, BackendMemory] = {}
    added: dict[str, Any] = Field({}, description="backends added at run time, as they were written")
    removed: tuple[str, ...] = Field((), description="backends of the file that were removed at run time")

    @cached_property
    def text(self) -> str:
        """As the file has it. It is asked for again as long as the pool does not change."""
        return self.model_dump_json(exclude_defaults=True)


class Memory(_Part):
    """All pools."""

    format: Literal[1]
    table: str = "nftlb"
    pools: dict[str, PoolMemory] = {}


def write(memory: Memory) -> str:
    """The text of the file, a pool a line. Costs next to nothing where pools did not change since it was last asked."""
    head = memory.model_dump_json(exclude_defaults=True, exclude={"pools"}).removesuffix("}")
    pools = ",\n".join(f" {json.dumps(name)}: {pool.text}" for name, pool in memory.pools.items())
    return f'{head},"pools": {{\n{pools}\n}}}}\n'


def read(text: str | bytes) -> Memory:
    """The way back. Raises ValueError for a torn or foreign text, with the first reason in one line."""
    try:
        return Memory.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
