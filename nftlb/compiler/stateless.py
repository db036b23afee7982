"""`forward: stateless` and `forward: dsr`: no conntrack entries, so rules decide about every packet separately.

Each backend has a chain that counts and forwards packets. It changes only if the backend's configuration changes. The
map that leads to these chains changes with the states of backends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Family, Forward, Protocol

from . import hairpin
from .allocation import mark_owner
from .in_flight import ReplyRewrite
from .pool_rules import PoolRules, ending
from .reply_form import late_chain
from .selection import SORRY, targets
from .versions import refuse, version
from .words import WORDS, format_address, listener_name, ports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.model import IPAddress, Pool

    from .allocation import Allocation
    from .reply_form import ReplyForm
    from .selection import Selection
    from .versions import Version
    from .words import Words


class StatelessForwarding(NamedTuple):
    """`forward: stateless` or `dsr` for one pool and family.

    `many`: there are more than `MOST_MAPS` pools. `replies`: the form of the replies of `stateless`. `early`:
    prerouting rewrites replies of some pool.
    """

    pool: Pool
    family: Family
    allocation: Allocation
    many: bool
    replies: ReplyForm
    early: bool

    def entry(self, protocol: Protocol) -> str:  # noqa: ARG002 - one chain for all protocols
        """Return the name of the entry chain."""
        return f"pool/{self.pool.name}"

    def fixed_rules(self) -> PoolRules:
        """Return the chains of backends and, for `stateless`, the elements that find their replies."""
        part = PoolRules()
        pool, family, words = self.pool, self.family, WORDS[self.family]
        for target in targets(pool, family):
            if pool.forward is Forward.DSR:
                owner = mark_owner(target)
                part.chain(
                    f"backend/{target.owner}",
                    f"counter notrack meta mark set {self.allocation.marks[owner]:#010x}"
                    f'{ending(early=self.early)} comment "{owner}"',
                )
            else:
                protocols = list(
                    dict.fromkeys(listener.protocol for listener in pool.listen if listener.family == family)
                )
                if pool.hairpin:
                    hairpin.add_hairpin(part, pool, family, target)
                part.chain(
                    f"backend/{target.owner}",
                    *([hairpin.let_pass(words.ip, target.address)] if pool.hairpin else ()),
                    *_rewrite(
                        words,
                        f"counter notrack {words.ip} daddr set {target.host}",
                        "dport",
                        target.port,
                        protocols,
                    ),
                )
        if pool.forward is Forward.STATELESS:
            _add_replies(part, pool, family, words, self.replies)
        elif family is Family.IP:
            part.redirects += [_no_redirect(listener.address) for listener in pool.bound if listener.family == family]
        return part

    def version(self, selection: Selection) -> Version:
        """Return what spreads packets."""
        otherwise = refuse(selection, {listener.protocol for listener in self.pool.listen})
        name = f"pool/{self.pool.name}"
        return version(name, self.pool, self.family, selection, many=self.many, otherwise=otherwise)


def _rewrite(words: Words, first: str, which: str, port: int | None, protocols: Iterable[Protocol]) -> list[str]:
    """Return rules that do `first` with each packet, set a port if there is one, and accept the packet.

    A UDP checksum of zero means "no checksum". The kernel would update it like any other, so the rules reset it to 0.
    """
    if port is None:
        return [f"{first} accept"]
    rules = []
    for protocol in protocols:
        match = words.carries(protocol)
        if protocol is Protocol.UDP:
            rules += [
                f"{match}udp checksum != 0 udp {which} set {port} accept",
                f"{match}udp {which} set {port} udp checksum set 0 accept",
            ]
        else:
            rules.append(f"{match}{protocol} {which} set {port} accept")
    return [f"{first} {rules[0]}", *rules[1:]]


def _add_replies(part: PoolRules, pool: Pool, family: Family, words: Words, form: ReplyForm) -> None:
    """Add the rules that give a backend's replies the listener's address and port. The source identifies replies."""
    everyone = targets(pool, family)
    translated = any(target.port for target in everyone)
    for listener in pool.listen:
        if listener.family != family:
            continue
        port = listener.first_port if translated else None
        address = f"{words.ip} saddr set {format_address(listener.address)}"
        name = f"{pool.name}/{listener_name(listener)}"
        shared = late_chain(name, _rewrite(words, address, "sport", port, [listener.protocol]))
        counting = _rewrite(words, f"counter {address}", "sport", port, [listener.protocol])
        ranged = listener.first_port != listener.last_port
        for target in everyone:
            counts = pool.has_reply_counts and target.name != SORRY
            chain = late_chain(f"{name}/{target.name}", counting) if counts else shared
            key = f"{target.host} . {listener.protocol} . {target.port or ports(listener)}"
            rewrite = ReplyRewrite(words.table, key, ranged, chain, target.owner)
            if form.early:
                rewrite.add_early_to(part)
            else:
                rewrite.add_to(part)
    part.reply_forms.append(form)


def _no_redirect(address: IPAddress) -> str:
    """Return the part of a rule that drops an ICMP redirect to a client in the backends' segment.

    A redirect tells the client to send directly to one backend. The client would do so, and none of its packets would
    pass this host any more. A redirect quotes the packet: the destination is 16 bytes into the quoted header, which
    follows the 8 bytes of ICMP. (Linux 6.18 sends no such redirects over IPv6.)
    """
    return f"@th,192,32 {int(address):#x} drop"
