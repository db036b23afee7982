"""A table as read from the kernel, with its counters; and one form for rules that listings spell differently."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .objects import Table


@dataclass(frozen=True, slots=True)
class Count:
    """Datagrams and their bytes (of the network layer and above), as nft counts them."""

    packets: int
    bytes: int

    def __add__(self, other: Count) -> Count:
        return Count(self.packets + other.packets, self.bytes + other.bytes)


class ReplyCount(NamedTuple):
    """The packets that one backend got, and the packets that it sent back."""

    requests: Count
    replies: Count


OF_REPLIES = " replies"
"""The end of the owner of a counter of replies, such as `dns/ns1 replies`; elements have the owner as their comment."""


def counter_owner(chain: str) -> str:
    """Return the owner of the counter in a chain: `dns/ns1` of `backend/dns/ns1`; for a chain of replies, the replies.

    A family may follow: `backend/dns/_sorry/ip6` counts for `dns/_sorry`.
    `collector/POOL/NAME/LISTENER` counts for `collector/POOL/NAME`, `template/POOL/NAME/LISTENER` for
    `template/POOL/NAME`, and `guarded/POOL/.../REASON` for `POOL/_REASON`. For any other chain, "" is returned.
    """
    kind, _, rest = chain.partition("/")
    if kind == "backend":
        return "/".join(rest.split("/")[:2])
    if kind in ("reply", "early-reply"):
        return f"{rest.partition('/')[0]}/{rest.rpartition('/')[2]}{OF_REPLIES}"
    if kind in ("collector", "template"):
        return "/".join(chain.split("/")[:3])
    if kind == "guarded":
        return f"{rest.partition('/')[0]}/_{rest.rpartition('/')[2]}"
    return ""


@dataclass(frozen=True)
class Listing:
    """A table and its counters: of elements by their comments, of rules by the names of their chains."""

    table: Table
    counts: Mapping[str, Count] = field(default_factory=dict)


UNREADABLE = "?"
"""The first character of a rule in the kernel that `kernel/expressions.py` can't write as text."""

_COUNTER = re.compile(r"counter packets (\d+) bytes (\d+)")
_HEXADECIMAL = re.compile(r"\b0x0*([0-9a-f]+)\b")
PROTOCOLS = {"6": "tcp", "17": "udp", "132": "sctp"}
"""The names of protocols by number. Without /etc/protocols, as on a minimal Debian, nft prints numbers."""
_PROTOCOL = re.compile(r"\b(l4proto|ct protocol|nexthdr) (6|17|132)\b")
_NAT = re.compile(r"\b([ds]nat) ip6? to ")
"""nft prints the family a second time if address and port come from one map."""


def canonical_rule(rule: str) -> str:
    """Return a rule in the form that is equal for all listings of the rule.

    Listings of one rule may differ in counts, in quotes, in the base of numbers, and in names or numbers of protocols.
    """
    rule = _NAT.sub(r"\1 to ", _COUNTER.sub("counter", rule))
    rule = _PROTOCOL.sub(lambda found: f"{found[1]} {PROTOCOLS[found[2]]}", rule)
    return _HEXADECIMAL.sub(lambda found: str(int(found[1], 16)), rule).replace('"', "")
