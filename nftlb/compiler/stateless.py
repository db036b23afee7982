"""`forward: stateless` and `forward: dsr`: no conntrack entry, so every packet is decided on by itself.

Each backend has a chain that never changes while the backend doesn't: it counts, and sends the packet on its way. What
changes with membership is the map that leads there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Family, Forward, Protocol
from nftlb.ruleset import Chain

from . import hairpin
from .allocation import mark_owner
from .answers import Reply
from .membership import targets
from .part import Part
from .versions import refuse, versions
from .words import ports, write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.model import IPAddress, Listener, Pool

    from .allocation import Allocation
    from .membership import Selection
    from .words import Words


def entry(pool: Pool) -> str:
    """The chain that a listener's packets go to."""
    return f"pool/{pool.name}"


def fixed(pool: Pool, family: Family, words: Words, allocation: Allocation) -> Part:
    """What does not depend on who is up."""
    part = Part()
    for target in targets(pool, family):
        if pool.forward is Forward.DSR:
            owner = mark_owner(target)
            part.chain(
                f"backend/{target.owner}",
                f'counter notrack meta mark set {allocation.marks[owner]:#010x} comment "{owner}"',
            )
        else:
            protocols = list(dict.fromkeys(one.protocol for one in pool.listen if one.family == family))
            if pool.hairpin:
                hairpin.add(part, pool, family, target)
            part.chain(
                f"backend/{target.owner}",
                *([hairpin.let_pass(words.ip, target.address)] if pool.hairpin else ()),
                f"counter notrack {words.ip} daddr set {write(target.address)}",
                *rewrite_port("dport", target.port, protocols),
            )
    if pool.forward is Forward.STATELESS:
        _add_replies(part, pool, family, words)
    elif family is Family.IP:
        part.redirects += [_no_redirect(one.address) for one in pool.listen if one.family == family]
    return part


def current(pool: Pool, family: Family, selection: Selection, *, many: bool) -> dict[str, Chain]:
    """The chains that say who gets a packet now."""
    otherwise = refuse(selection, {one.protocol for one in pool.listen})
    return versions(entry(pool), pool, family, selection, many=many, otherwise=otherwise)


def rewrite_port(which: str, port: int | None, protocols: Iterable[Protocol], verdict: str = " accept") -> list[str]:
    """Rules that set a port, if there is one to set, and end with the verdict.

    A UDP checksum of zero says that there is none. The kernel would update it like any other; it must be put back.
    """
    if port is None:
        return [verdict.strip()] if verdict else []
    rules = []
    for protocol in protocols:
        if protocol is Protocol.UDP:
            rules += [
                f"udp checksum != 0 udp {which} set {port}{verdict}",
                f"udp {which} set {port} udp checksum set 0{verdict}",
            ]
        else:
            rules.append(f"{protocol} {which} set {port}{verdict}")
    return rules


def _add_replies(part: Part, pool: Pool, family: Family, words: Words) -> None:
    """A backend's replies, known by their source, get the listener's address and port.

    They are rewritten in postrouting: in prerouting the listener's address, one of this host's own, would be refused
    as a martian source.
    """
    everyone = targets(pool, family)
    translated = any(target.port for target in everyone)
    for listener in pool.listen:
        if listener.family != family:
            continue
        port = listener.first_port if translated else None
        rules = (
            f"{words.ip} saddr set {write(listener.address)}",
            *rewrite_port("sport", port, [listener.protocol]),
        )
        chain = Chain(_reply(pool, listener), rules)
        ranged = listener.first_port != listener.last_port
        for target in everyone:
            key = f"{write(target.address)} . {listener.protocol} . {target.port or ports(listener)}"
            Reply(words.table, key, ranged, chain, target.owner).add_to(part)


def _no_redirect(address: IPAddress) -> str:
    """Keeps the kernel from telling a client in the backends' segment that it may send to one backend straight away.

    The client would believe it, and from then on all its packets would pass us by. The error quotes the packet: its
    destination stands 16 bytes into the quoted header, which follows the 8 bytes of ICMP. (Linux 6.18 sends no such
    redirects over IPv6.)
    """
    return f"icmp type redirect @th,192,32 {int(address):#x} drop"


def _reply(pool: Pool, listener: Listener) -> str:
    """One chain a listener; IPv6's colons may not stand in a name."""
    address = write(listener.address).replace(":", "_")
    return f"reply/{pool.name}/{address}/{listener.protocol}/{ports(listener)}"
