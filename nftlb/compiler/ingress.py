"""The fast path: `stateless` and `dsr` at the ingress hook of the interfaces that the pool names.

It runs before the kernel puts fragments together and before routing. So it takes only what it can decide on by itself,
and leaves the rest to the ordinary chains: fragments, UDP without a checksum, IPv6 with extension headers, and what may
not be forwarded once more. It needs to know each backend's next hop and interface; a pool is left to the ordinary
chains while they are not known for all of its targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Family, Forward, Protocol

from .membership import targets
from .part import Part
from .versions import versions
from .words import ports, write

if TYPE_CHECKING:
    from nftlb.model import Pool
    from nftlb.ruleset import Chain

    from .membership import Selection, Target
    from .routes import Routes
    from .words import Words


def entry(pool: Pool, family: Family) -> str:
    """The chain that a listener's packets go to; both families share the table, so its name tells them apart."""
    return f"pool/{pool.name}/{family}"


def services(family: Family, interface: str, *, ranged: bool) -> str:
    """The map of an interface's listeners."""
    return f"{'service-ranges' if ranged else 'services'}-{family}-{interface}"


def possible(pool: Pool, family: Family, routes: Routes) -> bool:
    """Whether the pool wants the fast path for that family and every target's next hop is known."""
    everyone = targets(pool, family)
    return bool(pool.ingress and everyone) and all(routes.hop(target) for target in everyone)


def fixed(pool: Pool, family: Family, words: Words, routes: Routes) -> Part:
    """What does not depend on who is up, for a pool that it is possible for."""
    part = Part()
    protocols = _protocols(pool, family)
    for target in targets(pool, family):
        hop = routes.hop(target)
        if hop is None:
            raise AssertionError(f"no next hop for {target.owner}")
        forward = f'fwd {words.ip} to {write(hop.via)} device "{hop.device}"'
        part.chain(f"backend/{target.owner}", *_send(pool, target, words, protocols, forward))
    first = entry(pool, family)
    if pool.hairpin:
        first = f"hairpin/{pool.name}/{family}"
        # What falls to the backend that sent it needs conntrack. So all that backends send takes the ordinary way: with
        # a turn here and, for some packets, another one there, backends would not get equal shares.
        # A rule an address: nft writes a set within a rule in an order of its own, and none at all for one address.
        asking = dict.fromkeys(write(target.address) for target in targets(pool, family))
        part.chain(first, *(f"{words.ip} saddr {one} accept" for one in asking), f"goto {entry(pool, family)}")
    for listener in pool.listen:
        if listener.family == family:
            for interface in pool.ingress:
                part.add(
                    services(family, interface, ranged=listener.first_port != listener.last_port),
                    f"{write(listener.address)} . {listener.protocol} . {ports(listener)}",
                    f"goto {first}",
                    pool.name,
                )
    return part


def current(pool: Pool, family: Family, selection: Selection, *, many: bool) -> dict[str, Chain]:
    """The chains that say who gets a packet now; without a target the packet goes on to the ordinary chains."""
    guards = [_guard(family, protocol) for protocol in _protocols(pool, family)]
    return versions(entry(pool, family), pool, family, selection, many=many, otherwise=["accept"], guards=guards)


def _protocols(pool: Pool, family: Family) -> list[Protocol]:
    return list(dict.fromkeys(one.protocol for one in pool.listen if one.family == family))


def _send(pool: Pool, target: Target, words: Words, protocols: list[Protocol], forward: str) -> list[str]:
    """The rules of a backend's chain."""
    if pool.forward is Forward.DSR:
        return [f"counter {forward}"]
    address = f"counter {words.ip} daddr set {write(target.address)}"
    if target.port is None:
        return [f"{address} {forward}"]
    rewrites = [f"{protocol} dport set {target.port} {forward}" for protocol in protocols]
    return [f"{address} {rewrites[0]}"] if len(rewrites) == 1 else [address, *rewrites]


def _guard(family: Family, protocol: Protocol) -> str:
    """Matches what may be sent on from here; ends with a space."""
    checksum = "udp checksum != 0 " if protocol is Protocol.UDP else ""
    if family is Family.IP6:
        return f"ip6 nexthdr {protocol} ip6 hoplimit > 1 {checksum}"
    transport = "" if checksum else f"meta l4proto {protocol} "
    return f"{transport}ip frag-off & 0x3fff == 0x0 ip ttl > 1 {checksum}"
