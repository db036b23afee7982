"""Which backend a packet reaches if its key decides: the same reading of a packet as in the rules."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from nftlb.model import Balance, Protocol, server_id_places

from .explanation import Choice
from .jhash import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nftlb.compiler.selection import Selection
    from nftlb.model import Endpoint, Guard, HashKey, Pool, SourceEntry

    from .explanation import Question

_REGISTER = 4
"""The kernel puts each part of a key into registers of this many bytes, and fills them up with zeros."""


def choice_of(pool: Pool, question: Question, selection: Selection, slots: Sequence[str]) -> Choice | None:
    """Return what decides about a packet; None if only turns decide, and if no backend is left."""
    payload = question.payload
    if pool.guard and is_denied(pool.guard, question.client):
        return Choice("none: the guard drops the packets of this client, which is in `deny`", dropped=True)
    if pool.templates and payload and question.protocol is Protocol.UDP and len(selection.targets) > 1:
        kind = _templates_in(payload)
        if kind:
            return Choice(f"every backend in rotation gets this datagram, which begins with templates of {kind}")
    return _by_key(pool, question, selection, slots) if pool.balance is Balance.HASH else None


def has_source(entries: Iterable[SourceEntry], client: Endpoint) -> bool:
    """Whether a list of a guard has the address of a client."""
    return any(first <= int(client.address) <= last for entry in entries for first, last in entry.of(client.family))


def is_denied(guard: Guard, client: Endpoint) -> bool:
    """Whether a guard drops all packets of a client."""
    return has_source(guard.deny, client) and not has_source(guard.allow, client)


def _by_key(pool: Pool, question: Question, selection: Selection, slots: Sequence[str]) -> Choice | None:
    payload = question.payload
    if pool.key.places and payload is None:
        return Choice(f"{pool.key.meaning}: give the payload with --payload or --payload-file") if slots else None
    if (found := _by_server_id(pool, selection, payload or b"")) is not None:
        return found
    if not slots:
        return None
    key = key_bytes(pool.key, question.client, payload or b"")
    if key is None:
        return Choice(f"no key in this datagram ({pool.key.meaning}), so it takes the next turn")
    slot = slot_of(key, len(slots), pool.seed)
    return Choice(pool.key.meaning, slots[slot], slot)


def key_bytes(key: HashKey, client: Endpoint, payload: bytes) -> bytes | None:
    """Return the bytes that the kernel hashes; None if the datagram has no such key."""
    parts = []
    if key.address:
        network = ip_network((client.address, key.prefix(client.family)), strict=False)
        parts.append(network.network_address.packed)
    if key.port:
        parts.append(client.port.to_bytes(2, "big"))
    if key.places:
        found = next(filter(None, (place.read(payload) for place in key.places)), None)
        if found is None:
            return None
        parts.append(found)
    if len(parts) == 1:
        return parts[0]
    return b"".join(part.ljust(-(-len(part) // _REGISTER) * _REGISTER, b"\0") for part in parts)


def _templates_in(payload: bytes) -> str:
    """The protocol of the templates that a datagram begins with; empty without. The rules read the same bytes."""
    for version, begin, first, kind in ((9, 20, 0, "NetFlow v9"), (10, 16, 2, "IPFIX")):
        of, set_id = payload[:2], payload[begin : begin + 2]
        if len(set_id) == 2 and (of, int.from_bytes(set_id, "big") & 0xFFFE) == (version.to_bytes(2, "big"), first):  # noqa: PLR2004
            return kind
    return ""


def _by_server_id(pool: Pool, selection: Selection, payload: bytes) -> Choice | None:
    known = {target.server_id: target.name for target in selection.identified if target.server_id}
    for length in {len(server_id) for server_id in known}:
        for place in server_id_places(pool.quic_lb_config, length):
            found = place.read(payload)
            if found in known:
                return Choice(f"server id {found.hex()} in the connection id ({place.about})", known[found])
    return None
