"""The fast path: `stateless` and `dsr` at the ingress hook of the interfaces that the pool names.

The ingress hook is before routing, and before the kernel joins fragments. So the fast path forwards only packets for
which the packet itself is enough. The ordinary chains forward all others: fragments, IPv6 with extension headers,
packets whose TTL (hop limit) is 1, and with `stateless` also UDP without a checksum. The fast path needs the next hop
and interface of each backend. While some of them are not known, the ordinary chains forward all packets of the pool.

With `encap`, large packets take the ordinary chains too: here the kernel can't send their senders the ICMP error that
they don't fit into the tunnel, because the packets were not routed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Encap, Family, Forward
from nftlb.ruleset import Chain

from .copies import TEMPLATES
from .doors import Body
from .guard import add_guard, fast_path_scope, guard_of
from .pool_rules import PoolRules
from .selection import SORRY, targets
from .services import TO_THIS_HOST, by_words, fast_match
from .versions import Version, version, with_comment
from .words import WORDS, format_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nftlb.model import Pool, Protocol

    from .routes import Routes
    from .selection import Selection, Target


_PATH = 1280  # what every path of IPv6 carries, and practically every path of IPv4
_HEADER = {Family.IP: 20, Family.IP6: 40}
_GRE_HEADER = 4


def longest_in_tunnel(encap: Encap, family: Family) -> int:
    """Return the greatest length of a packet, with its header, that fits into a tunnel on any path."""
    return _PATH - _HEADER[family] - (_GRE_HEADER if encap is Encap.GRE else 0)


def ingress_services(family: Family, interface: str) -> str:
    """Return the name of an interface's services, which is also that of the map that may hold them."""
    return f"services-{family}-{interface}"


def has_fast_path(pool: Pool, family: Family, routes: Routes) -> bool:
    """Whether the pool asks for the fast path, and the next hop of each of its targets in the family is known."""
    if not pool.ingress or not any(listener.family is family for listener in pool.bound):
        return False
    every = targets(pool, family)
    return bool(every) and all(routes.hop(target) for target in every)


class IngressForwarding(NamedTuple):
    """The fast path of a pool for which `has_fast_path()` is true.

    `many` says whether the configuration has more than `MOST_MAPS` pools. `looked_up` are the chains that maps of
    services lead to. The rule of a service compares all that the fast path needs, but a map finds packets by address,
    protocol and port alone. So only the chains in `looked_up` compare the rest.
    """

    pool: Pool
    family: Family
    routes: Routes
    many: bool
    looked_up: frozenset[str]

    def entry(self, protocol: Protocol) -> str:  # noqa: ARG002 - one chain for all protocols
        """Return the name of the entry chain. Both families share the table, so the family is part of the name."""
        return self._entry

    def fixed_rules(self) -> PoolRules:
        """Return the chains of backends, and the services whose packets go to the first chain of the pool."""
        part = PoolRules()
        pool, family, words = self.pool, self.family, WORDS[self.family]
        protocols = self._protocols()
        for target in targets(pool, family):
            hop = self.routes.hop(target)
            if hop is None:
                raise AssertionError(f"no next hop for {target.owner}")
            forward = f'fwd {words.ip} to {format_address(hop.via)} device "{hop.device}"'
            part.chain(f"backend/{self._apart(target).owner}", *self._send(target, protocols, forward))
        add_guard(part, pool, family, self._entry, protocols, scope=fast_path_scope(pool, family))
        for listener in pool.bound:
            if listener.family == family:
                service = by_words(listener, self._first, pool.name, rewritten=self._rewrites)
                for interface in pool.ingress:
                    part.add_service(ingress_services(family, interface), service)
        return part

    def version(self, selection: Selection) -> Version:
        """Return what spreads packets. Without a target, packets go on to the ordinary chains, past the guard here.

        Packets that can't take the fast path do the same. They meet the guard of the ordinary chains, and would count
        twice otherwise.
        """
        fits = [("", "")]
        if self._first in self.looked_up:
            fits = [fast_match(self.family, protocol, rewritten=self._rewrites) for protocol in self._protocols()]
        matches = [(f"{match}{TO_THIS_HOST}", meaning) for match, meaning in fits]
        ordinary = [with_comment(f"{match}accept", meaning) for match, meaning in self._ordinary()]
        guarded = self.pool.guard is not None
        spread = version(
            self._entry,
            self.pool,
            self.family,
            selection._replace(targets=tuple((self._apart(target), weight) for target, weight in selection.targets)),
            many=self.many,
            otherwise=["accept"],
            first=() if guarded else ordinary,
            matches=[("", "")] if guarded else matches,
            before="" if guarded else TO_THIS_HOST,
            padded=self.family is Family.IP,  # no datagram over IPv6 fits into the shortest frame
        )
        return spread | self._before_guard(selection, ordinary, matches) if guarded else spread

    def _before_guard(
        self, selection: Selection, ordinary: Sequence[str], matches: Iterable[tuple[str, str]]
    ) -> Version:
        """Return the chain before the guard, which lets only packets pass that can take the fast path."""
        onward = f"goto {guard_of(self._entry)}"
        if not selection.targets:
            return Version({self._first: Chain(self._first, ("accept",))})
        rules = (*ordinary, *(with_comment(f"{match}{onward}", meaning) for match, meaning in matches))
        bodies = {} if ordinary else {self._first: Body(f"{TO_THIS_HOST}{onward}", self.pool.name)}
        return Version({self._first: Chain(self._first, rules)}, bodies=bodies)

    def _ordinary(self) -> Iterator[tuple[str, str]]:
        """Yield matches for what takes the ordinary chains, which end with a space, and what the matches mean."""
        pool, family, ip = self.pool, self.family, WORDS[self.family].ip
        if pool.hairpin:
            # A packet that a backend sends and then gets itself needs conntrack. So all packets of backends take the
            # ordinary chains. If some of them took the fast path, two cycles would spread the packets of one backend,
            # and the shares would not be equal.
            # There is a rule for each address: nft writes a set within a rule in its own order, and for one address
            # writes no set.
            source = "@nh,96,32" if family is Family.IP else "@nh,64,128"
            for address, host in dict.fromkeys((target.address, target.host) for target in targets(pool, family)):
                yield f"{source} 0x{address.packed.hex()} ", f"{ip} saddr {host}"
        if pool.encap is not Encap.NONE:
            # The length in a header of IPv6 is that of the rest of the packet.
            field, header = ("@nh,16,16", 0) if family is Family.IP else ("@nh,32,16", _HEADER[family])
            longest = longest_in_tunnel(pool.encap, family) - header
            yield f"{field} > {longest} ", f"{ip} length > {longest}"
        if pool.templates:
            # The ordinary chains copy templates to every backend.
            yield from TEMPLATES

    def _apart(self, target: Target) -> Target:
        """Return a sorry server with its family in the name of its chain: that of the other family has the same name.

        The names of backends differ, and both families share the table.
        """
        return target._replace(owner=f"{target.owner}/{self.family}") if target.name == SORRY else target

    @property
    def _entry(self) -> str:
        return f"pool/{self.pool.name}/{self.family}"

    @property
    def _first(self) -> str:
        """The name of the chain that services lead to: the chain before the guard, or without a guard the entry."""
        return f"fast/{self.pool.name}/{self.family}" if self.pool.guard else self._entry

    @property
    def _rewrites(self) -> bool:
        return self.pool.forward is not Forward.DSR

    def _protocols(self) -> list[Protocol]:
        return list(dict.fromkeys(listener.protocol for listener in self.pool.listen if listener.family == self.family))

    def _send(self, target: Target, protocols: list[Protocol], forward: str) -> list[str]:
        """Return the rules of a backend's chain."""
        if not self._rewrites:
            return [f"counter {forward}"]
        address = f"counter {WORDS[self.family].ip} daddr set {target.host}"
        if target.port is None:
            return [f"{address} {forward}"]
        carries = WORDS[self.family].carries
        rewrites = [f"{carries(protocol)}{protocol} dport set {target.port} {forward}" for protocol in protocols]
        return [f"{address} {rewrites[0]}"] if len(rewrites) == 1 else [address, *rewrites]
