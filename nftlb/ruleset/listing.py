"""What `nft list table` prints, read back as objects, with the counters told apart.

Only the shapes that nftlb writes need to survive the way there and back. Whatever else stands in a table of ours, a
hand's edit for instance, is kept as text: it then differs from what was compiled, which is all that is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .objects import Chain, Element, Set, Table, TableFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Count:
    """Datagrams and their bytes (of the network layer and above), as nft counts them."""

    packets: int
    bytes: int

    def __add__(self, other: Count) -> Count:
        return Count(self.packets + other.packets, self.bytes + other.bytes)


@dataclass(frozen=True)
class Listing:
    """A table, and what its counters stood at: by an element's comment or, for a rule, by the chain's name."""

    table: Table
    counts: Mapping[str, Count] = field(default_factory=dict)


UNREADABLE = "?"
"""What a rule begins with that the kernel holds and that has no text here; see `kernel/expressions.py`."""

_COUNTER = re.compile(r"counter packets (\d+) bytes (\d+)")
_HEXADECIMAL = re.compile(r"\b0x0*([0-9a-f]+)\b")
_ELEMENT = re.compile(
    r'(?P<key>[^"]+?)(?: (?P<counter>counter[^"]*?))?(?: comment "(?P<comment>[^"]*)")?(?: : (?P<data>.+))?'
)
_PROTOCOLS = {"6": "tcp", "17": "udp", "132": "sctp"}
"""What nft calls by name only where there is an /etc/protocols: a minimal Debian has none."""
_PROTOCOL = re.compile(r"\b(l4proto|ct protocol|nexthdr) (6|17|132)\b")
_NAT = re.compile(r"\b([ds]nat) ip6? to ")
"""nft names the family again where address and port come from one map."""
_HEADER = re.compile(r"(?P<keyword>\w+) (?P<name>\S+) \{(?: # handle \d+)?")


def canonical_rule(rule: str) -> str:
    """A rule without what differs between listings of the same rule: counts, numbers' bases and names, quotes."""
    rule = _NAT.sub(r"\1 to ", _COUNTER.sub("counter", rule))
    rule = _PROTOCOL.sub(lambda found: f"{found[1]} {_PROTOCOLS[found[2]]}", rule)
    return _HEXADECIMAL.sub(lambda found: str(int(found[1], 16)), rule).replace('"', "")


def parse_table(text: str) -> Listing:
    """Read the text of one table, as `nft list table FAMILY NAME` prints it."""
    lines = iter(text.splitlines())
    _, family, name, _ = next(line for line in lines if line.startswith("table ")).split(maxsplit=3)
    sets: dict[str, Set] = {}
    chains: dict[str, Chain] = {}
    counts: dict[str, Count] = {}
    for line in lines:
        header = _HEADER.fullmatch(line.strip())
        if header is None:
            continue
        block = _block(lines)
        if header["keyword"] in ("set", "map"):
            sets[header["name"]] = _set(header["name"], block, counts)
        elif header["keyword"] == "chain":
            chains[header["name"]] = _chain(header["name"], block, counts)
        else:
            # Something that is not ours (a counter, a flowtable): an object no compiled ruleset has.
            sets[header["name"]] = Set(header["name"], key_type=header["keyword"])
    return Listing(Table(TableFamily(family), name, sets, chains), counts)


def _block(lines: Iterator[str]) -> list[str]:
    """The lines up to the brace that closes the block, which stands after one tab."""
    block = []
    for line in lines:
        if line == "\t}":
            break
        block.append(line.strip())
    return block


def _add(counts: dict[str, Count], owner: str, counter: str | None) -> None:
    found = _COUNTER.search(counter) if counter else None
    if found and owner:
        counts[owner] = counts.get(owner, Count(0, 0)) + Count(int(found[1]), int(found[2]))


def _set(name: str, block: list[str], counts: dict[str, Count]) -> Set:
    key_type = data_type = ""
    interval = counter = False
    elements: list[Element] = []
    for number, line in enumerate(block):
        if line.startswith(("type ", "typeof ")):
            key_type, _, data_type = line.partition(" : ")
        elif line.startswith("flags "):
            interval = "interval" in line
        elif line == "counter":
            counter = True
        elif line.startswith("elements = {"):
            body = " ".join(block[number:]).removeprefix("elements = {").rstrip().removesuffix("}")
            for text in body.split(","):
                found = _ELEMENT.fullmatch(text.strip())
                if found is None:
                    elements.append(Element(text.strip()))
                    continue
                key = _named(found["key"], key_type)
                elements.append(Element(key, found["data"] or "", found["comment"] or ""))
                _add(counts, found["comment"] or "", found["counter"])
            break
    return Set(name, key_type, data_type, interval, counter, tuple(elements))


def _named(key: str, key_type: str) -> str:
    """A key with the protocols in it by name."""
    if "inet_proto" not in key_type:
        return key
    kinds = key_type.removeprefix("type ").split(" . ")
    parts = key.split(" . ")
    return " . ".join(
        _PROTOCOLS.get(part, part) if kind == "inet_proto" else part for kind, part in zip(kinds, parts, strict=False)
    )


def _chain(name: str, block: list[str], counts: dict[str, Count]) -> Chain:
    hook = ""
    rules: list[str] = []
    for line in block:
        if line.startswith("type ") and " hook " in line:
            hook = line
        else:
            rules.append(line)
            _add(counts, name, line)
    return Chain(name, tuple(rules), hook)
