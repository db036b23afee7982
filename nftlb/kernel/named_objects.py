"""Reads the named objects of a table, as the kernel reports them: conntrack time-outs and helpers. No I/O.

Of objects that only other programs make, the kind and the name suffice: they are deleted from our tables.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from nftlb.ruleset import PROTOCOLS, NamedObject

from .netlink import attributes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# include/uapi/linux/netfilter/nf_tables.h: NFTA_OBJ_*, NFTA_CT_HELPER_*, NFTA_CT_TIMEOUT_*, and NFT_OBJECT_*
_NAME, _TYPE, _DATA = 2, 3, 4
_HELPER_NAME, _HELPER_L3, _HELPER_L4 = 1, 2, 3
_TIMEOUT_L3, _TIMEOUT_L4, _TIMEOUT_POLICY = 1, 2, 3
_CT_HELPER, _CT_TIMEOUT = 3, 7
_KINDS = {
    1: "counter",
    2: "quota",
    _CT_HELPER: "ct helper",
    4: "limit",
    _CT_TIMEOUT: "ct timeout",
    8: "secmark",
    9: "ct expectation",
    10: "synproxy",
}
REFERRING = {_CT_HELPER: "ct helper", _CT_TIMEOUT: "ct timeout"}
"""By type, the words with which rules refer to an object of ours."""
# include/uapi/linux/netfilter/nfnetlink_cttimeout.h: CTA_TIMEOUT_UDP_*
_UDP_STATES = {1: "unreplied", 2: "replied"}
_UDP = 17
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
_U32, _U16 = struct.Struct("!I"), struct.Struct("!H")


def read_object(message: Mapping[int, bytes]) -> NamedObject:
    """Return an object, from the attributes of its message."""
    kind = int(_U32.unpack(message[_TYPE])[0])
    data = attributes(message.get(_DATA, b""))
    properties: tuple[str, ...] = ()
    if kind == _CT_TIMEOUT:
        properties = tuple(_timeout(data))
    elif kind == _CT_HELPER:
        properties = tuple(_helper(data))
    return NamedObject(_KINDS.get(kind, f"object of type {kind}"), _text(message[_NAME]), properties)


def _timeout(data: Mapping[int, bytes]) -> Iterator[str]:
    protocol = data[_TIMEOUT_L4][0]
    yield f"protocol {_protocol(protocol)}"
    yield f"l3proto {_family(data[_TIMEOUT_L3])}"
    states = _UDP_STATES if protocol == _UDP else {}
    policy = attributes(data.get(_TIMEOUT_POLICY, b""))
    seconds = (f"{states.get(state, state)} : {_U32.unpack(value)[0]}" for state, value in sorted(policy.items()))
    yield f"policy = {{ {', '.join(seconds)} }}"


def _helper(data: Mapping[int, bytes]) -> Iterator[str]:
    yield f'type "{_text(data[_HELPER_NAME])}" protocol {_protocol(data[_HELPER_L4][0])}'
    yield f"l3proto {_family(data[_HELPER_L3])}"


def _protocol(number: int) -> str:
    return PROTOCOLS.get(str(number), str(number))


def _family(data: bytes) -> str:
    number = int(_U16.unpack(data)[0])
    return _FAMILIES.get(number, str(number))


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="replace")
