"""Parses the output of `nft list table`, and separates counters from objects.

The product reads the kernel over netlink. This parser is for tests that read nft's own listings, and files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nftlb.ruleset import PROTOCOLS, Chain, Count, Element, Hook, Listing, NamedObject, Set, Table, TableFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNTER = re.compile(r"counter packets (\d+) bytes (\d+)")
_HEADER = re.compile(r"(?P<keyword>(?:ct )?\w+) (?P<name>\S+) \{(?: # handle \d+)?")
_ELEMENT = re.compile(
    r'(?P<key>[^"]+?)(?: (?P<counter>counter[^"]*?))?(?: comment "(?P<comment>[^"]*)")?(?: : (?P<data>.+))?'
)
_HOOK = re.compile(
    r"type (?P<type>\w+) hook (?P<name>\w+)(?P<devices>(?: device \"[^\"]+\")*) "
    r"priority (?P<priority>[^;]+); policy (?P<policy>\w+);"
)
_DEVICE = re.compile(r'"([^"]+)"')


def parse_table(text: str) -> Listing:
    """Parse the text of one table, as `nft list table FAMILY NAME` prints it."""
    lines = iter(text.splitlines())
    _, family, name, _ = next(line for line in lines if line.startswith("table ")).split(maxsplit=3)
    sets: dict[str, Set] = {}
    chains: dict[str, Chain] = {}
    objects: dict[str, NamedObject] = {}
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
            ours = header["keyword"].startswith("ct ")  # of others, such as a counter, kind and name suffice
            one = NamedObject(header["keyword"], header["name"], tuple(block) if ours else ())
            objects[one.key] = one
    return Listing(Table(TableFamily(family), name, sets, chains, objects), counts)


def parse_hook(text: str) -> Hook:
    """Parse the line of a base chain. Raises ValueError if `Hook` would not write such a line."""
    found = _HOOK.fullmatch(text)
    if found is None:
        raise ValueError(f"not a hook: {text}")
    return Hook(
        found["type"], found["name"], found["priority"], tuple(_DEVICE.findall(found["devices"])), found["policy"]
    )


def _block(lines: Iterator[str]) -> list[str]:
    """The lines before the brace that closes the block. A tab is before that brace."""
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
    interval = counter = dynamic = False
    size = 0
    elements: list[Element] = []
    for number, line in enumerate(block):
        if line.startswith(("type ", "typeof ")):
            key_type, _, data_type = line.partition(" : ")
        elif line.startswith("flags "):
            interval, dynamic = "interval" in line, "dynamic" in line
        elif line.startswith("size "):
            size = int(line.split()[1])
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
    # Packets fill a dynamic set, so its elements are no part of the set.
    return Set(name, key_type, data_type, interval, counter, () if dynamic else tuple(elements), size, dynamic)


def _named(key: str, key_type: str) -> str:
    """The key, with names of protocols instead of numbers."""
    if "inet_proto" not in key_type:
        return key
    kinds = key_type.removeprefix("type ").split(" . ")
    parts = key.split(" . ")
    return " . ".join(
        PROTOCOLS.get(part, part) if kind == "inet_proto" else part for kind, part in zip(kinds, parts, strict=False)
    )


def _chain(name: str, block: list[str], counts: dict[str, Count]) -> Chain:
    hook = None
    rules: list[str] = []
    for line in block:
        if line.startswith("type ") and " hook " in line:
            hook = parse_hook(line)
        else:
            rules.append(line)
            _add(counts, name, line)
    return Chain(name, tuple(rules), hook)
