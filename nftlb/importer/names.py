"""Names for pools and backends, which elsewhere have none. No I/O."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .draft import Draft, Server

_OTHER = re.compile(r"[^A-Za-z0-9_.-]")
Taken: TypeAlias = "dict[str, int]"
"""Names that are there already, with how many have been made of each."""
_LONGEST = 40
"""So that a number still finds room behind it."""


def pool_name(draft: Draft, taken: Taken) -> str:
    """Its group's name, or its protocol, address and port."""
    listening = draft.listen[0]
    low, high = listening.ports
    ports = str(low) if low == high else "all"
    own = _OTHER.sub("-", draft.name)
    if own and not own[0].isalpha():
        own = f"{draft.protocol}-{own}"
    return _free(own[:_LONGEST] or f"{draft.protocol}-{_text(str(listening.address))}-{ports}", taken)


def backend_names(servers: list[Server]) -> dict[int, str]:
    """The name of each by its place: its address, with the port where one address has several."""
    often = Counter(server.address for server in servers)
    taken: Taken = {}
    found = {}
    for index, server in enumerate(servers):
        port = f"-{server.port}" if often[server.address] > 1 and server.port is not None else ""
        found[index] = _free(_text(str(server.address)) + port, taken)
    return found


def _text(address: str) -> str:
    """An address without what a name can't have."""
    text = address.replace(":", "-")
    return f"0{text}" if text.startswith("-") else text


def _free(name: str, taken: Taken) -> str:
    number = taken.get(name, 0) + 1
    free = name if number == 1 else f"{name}-{number}"
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken[name] = number
    taken.setdefault(free, 1)
    return free
