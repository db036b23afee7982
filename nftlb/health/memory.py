"""The state that survives a restart of the daemon, and its JSON text. Pure.

It has the wishes of the operator, the backends added and removed at run time, the state of each check, the
priorities that serve, and the last good answers of DNS for the names of backends.
"""

import json
from datetime import datetime
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from nftlb.model import WHOLE, BackendChange, FoundServer, HostLookup, NameAnswers
from nftlb.model.kinds import Admin, Family


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class BackendMemory(_Part):
    """One backend. A wish of the operator stays valid until the value in the file changes."""

    endpoint: str = Field(description="address and port of the server that this state is about")
    checks: tuple[bool, ...] = Field((), description="whether each check was up, in the order of the checks")
    admin: Admin | None = None
    admin_since: datetime | None = Field(None, description="when `admin` was set")
    weight: Annotated[int, Field(ge=0, le=256)] | None = None
    priority: Annotated[int, Field(ge=0, le=255)] | None = None
    file_admin: Admin = Field(Admin.ENABLED, description="the value in the file when `admin` was set")
    file_weight: int = Field(1, description="the value in the file when `weight` was set")
    file_priority: int = Field(1, description="the value in the file when `priority` was set")
    agent_admin: Admin | None = Field(None, description="the state that the agent asked for; null: none")
    agent_percent: Annotated[int, Field(ge=0)] = Field(
        WHOLE, description="the part of the weight that the agent asked for, in per cent"
    )
    kept_until: AwareDatetime | None = Field(
        None, description="until when the wishes are kept, if the backend is an address that DNS does not have"
    )

    @property
    def wish(self) -> BackendChange:
        """What the operator set."""
        return BackendChange(self.admin, self.weight, self.priority)


class PoolMemory(_Part):
    """One pool."""

    backends: dict[str, BackendMemory] = {}
    added: dict[str, Any] = Field({}, description="backends added at run time, as written in the request")
    serving: dict[Family, int] = Field({}, description="the priority that served, by address family")
    removed: tuple[str, ...] = Field((), description="backends of the file that were removed at run time")

    @cached_property
    def text(self) -> str:
        """The JSON text of the pool. Cached, because most pools do not change between two saves."""
        return self.model_dump_json(exclude_defaults=True)


class ServerMemory(_Part):
    """A server of an answer of DNS."""

    address: IPv4Address | IPv6Address
    port: int | None = None
    weight: int | None = None
    rank: int = 0


class Memory(_Part):
    """All pools, and the answers of DNS by name; `SRV ` is before the names of SRV records."""

    format: Literal[1]
    table: str = "nftlb"
    names: dict[str, tuple[ServerMemory, ...]] = {}
    pools: dict[str, PoolMemory] = {}


_SRV = "SRV "


def remember_answers(answers: NameAnswers) -> dict[str, tuple[ServerMemory, ...]]:
    """The `names` of a Memory."""
    return {
        str(lookup): tuple(
            ServerMemory(address=server.address, port=server.port, weight=server.weight, rank=server.rank)
            for server in servers
        )
        for lookup, servers in answers.items()
    }


def remembered_answers(memory: Memory) -> NameAnswers:
    """The answers of DNS that a Memory has."""
    return {
        HostLookup(name.removeprefix(_SRV), srv=name.startswith(_SRV)): tuple(
            FoundServer(server.address, server.port, server.weight, server.rank) for server in servers
        )
        for name, servers in memory.names.items()
    }


def write_memory(memory: Memory) -> str:
    """The text of the state file, with one pool per line. Pools that did not change cost almost nothing."""
    head = memory.model_dump_json(exclude_defaults=True, exclude={"pools"}).removesuffix("}")
    pools = ",\n".join(f" {json.dumps(name)}: {pool.text}" for name, pool in memory.pools.items())
    return f'{head},"pools": {{\n{pools}\n}}}}\n'


def read_memory(text: str | bytes) -> Memory:
    """Parse the text of a state file. Raises ValueError with the first reason, in one line, for any other text."""
    try:
        return Memory.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
