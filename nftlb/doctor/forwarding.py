"""Checks the way of packets through this host: forwarding, redirects, marks, offloads, connection tracking. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nftlb.kernel.policy_routing import PROTOCOL
from nftlb.kernel.surroundings import ALL_INTERFACES
from nftlb.model import Balance, Encap, Family, Forward, Per, Protocol
from nftlb.requirements import FORWARDING_SYSCTLS, interface_lack, no_forwarding

from .finding import Finding, error, not_known, ok, sysctl_command, warning

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from nftlb.compiler.reply_form import Obstacles
    from nftlb.kernel.rtnetlink import RoutingRule
    from nftlb.kernel.surroundings import Interface
    from nftlb.model import Backend, Config, Pool

    from .host import HostFacts


_STRICT, _LOOSE = 1, 2
_VERSIONS = {Family.IP: 4, Family.IP6: 6}
_RULES_OF_BRIDGES = {
    Family.IP: "net/bridge/bridge-nf-call-iptables",
    Family.IP6: "net/bridge/bridge-nf-call-ip6tables",
}

# Where marks could begin instead: round numbers, which are also the numbers of routing tables.
_FIRST_MARKS = range(10_000, 1_000_000, 10_000)


def check_forwarding(config: Config | None, host: HostFacts) -> Iterator[Finding]:
    """Check forwarding, reverse path filters and redirects; without a configuration, only forwarding."""
    pools = config.pools if config else ()
    families = {listener.family for pool in pools for listener in pool.listen} if config else set(Family)
    say = error if config else warning
    closed = [*_check_ipv4_forwarding(host, say)] if Family.IP in families else []
    closed += _check_ipv6_forwarding(host, say) if Family.IP6 in families else []
    unknown = [
        version for version in sorted(_VERSIONS[family] for family in families) if host.forwards(version) is None
    ]
    yield from closed
    for version in unknown:
        yield not_known("forwarding", f"the kernel does not tell whether it forwards IPv{version} packets")
    if not closed and not unknown:
        yield ok("forwarding", "is on")
    ipv4 = [pool for pool in pools if Family.IP in pool.families]
    untracked = [pool for pool in ipv4 if pool.forward is not Forward.NAT]
    if untracked:
        yield from _check_reverse_paths(untracked, host)
    steered = [pool for pool in untracked if pool.forward is Forward.DSR and pool.encap is Encap.NONE]
    if steered:
        yield from _check_redirects(steered, host)


def _check_ipv4_forwarding(host: HostFacts, say: Callable[[str, str, str], Finding]) -> Iterator[Finding]:
    if host.forwards(4) is False:
        yield say("forwarding", no_forwarding(4), sysctl_command({FORWARDING_SYSCTLS[4]: 1}))
        return
    settings = host.forwarding.get(4, {})
    closed = [
        interface.name
        for interface in _interfaces_up(host)
        if interface.index in settings and not settings[interface.index].forwarding
    ]
    if closed:
        yield warning(
            "forwarding",
            f"packets that arrive at {', '.join(closed)} are not forwarded",
            sysctl_command({f"net/ipv4/conf/{name}/forwarding": 1 for name in closed}),
        )


def _check_ipv6_forwarding(host: HostFacts, say: Callable[[str, str, str], Finding]) -> Iterator[Finding]:
    if host.forwards(6) is False:
        message = no_forwarding(6)
        values = {f"net/ipv6/conf/{name}/accept_ra": 2 for name in sorted(host.advertised)}
        if values:
            message += "; a host that forwards deletes its routes from router advertisements unless accept_ra is 2"
        yield say("forwarding", message, sysctl_command({**values, FORWARDING_SYSCTLS[6]: 1}))


def _check_reverse_paths(pools: Collection[Pool], host: HostFacts) -> Iterator[Finding]:
    filters = {index: found.rp_filter for index, found in host.forwarding.get(4, {}).items()}
    everywhere = filters.get(ALL_INTERFACES, 0)
    # The kernel takes the higher of the two.
    strict = [
        interface.name
        for interface in _interfaces_up(host)
        if max(everywhere, filters.get(interface.index, 0)) == _STRICT
    ]
    if strict:
        yield warning(
            "rp_filter",
            f"{', '.join(strict)}: the kernel drops packets if the route back to their sender leaves by another "
            f"interface; clients of {_names(pools)} may arrive at any interface",
            sysctl_command({f"net/ipv4/conf/{name}/rp_filter": _LOOSE for name in strict}),
        )


def check_hidden_settings(config: Config, host: HostFacts) -> Iterator[Finding]:
    """Name what was not examined because this process can't read /proc/sys, as the daemon in its systemd unit."""
    if not host.hides_sysctls:
        return
    modes = {(pool.forward, pool.encap) for pool in config.pools}
    things = {
        "whether this host sends ICMP redirects": (Forward.DSR, Encap.NONE) in modes,
        "the time-outs of conntrack": any(forward is Forward.NAT for forward, _ in modes),
        "the ports that Linux gives to sockets": any(forward is not Forward.NAT for forward, _ in modes),
        "whether packets pass rules in bridges": any(found.bridge for found in host.interfaces),
    }
    if any(things.values()):
        names = ", ".join(name for name, matters in things.items() if matters)
        yield not_known(
            "settings", f"this process can't read /proc/sys, so these are not known: {names}", "nftlb doctor FILE"
        )


def check_replies(obstacles: Obstacles) -> Iterator[Finding]:
    """Find the pools with `replies: prerouting` whose replies have to be rewritten in postrouting on this host."""
    for (pool, family), obstacle in obstacles.items():
        yield warning(
            f"pool {pool}",
            f"replies over {family} can't be rewritten in prerouting, so postrouting is used: {obstacle.message}",
            obstacle.fix,
        )


def _check_redirects(pools: Collection[Pool], host: HostFacts) -> Iterator[Finding]:
    """Find the interfaces from which the kernel sends ICMP redirects about packets of `forward: dsr`.

    The kernel sends a redirect where a packet leaves by the interface that it arrived at. With `dsr` the redirect
    names a backend. A client whose router is this host obeys it: of 12,000 datagrams of one socket, 11,798 then went
    to the same backend, past this host (Linux 6.18).
    """
    goals = {backend.via or backend.address for pool in pools for backend in pool.backends}
    devices = {
        device.name for goal in goals if (route := host.routes.get(goal)) and (device := host.interface_of(route))
    }
    everywhere = host.sends_redirects("all")
    redirecting = sorted(name for name in devices if everywhere or host.sends_redirects(name))
    if redirecting:
        # The kernel sends redirects if either sysctl allows it.
        names = ["all", *redirecting]
        yield warning(
            "send_redirects",
            f"{', '.join(redirecting)}: this host will send ICMP redirects for packets of {_names(pools)}, and "
            "neighbours then send directly to one backend, past this host",
            sysctl_command({f"net/ipv4/conf/{name}/send_redirects": 0 for name in names}),
        )


def check_marks(own: Collection[int], host: HostFacts) -> Iterator[Finding]:
    """Find the routing rules of other programs that use the marks or tables of `forward: dsr`."""
    if not own:
        return
    others = [rule for rule in host.rules if rule.protocol != PROTOCOL]
    clashes = [rule for rule in others if _clashes(own, rule)]
    free = next(
        (first for first in _FIRST_MARKS if not any(_clashes(range(first, first + len(own)), r) for r in others)), 0
    )
    for rule in clashes:
        yield warning(
            "marks",
            f"a routing rule of another program uses the marks or tables of nftlb, {min(own)} to {max(own)}: "
            f"{rule.command('add')}",
            f"marks: {{first: {free or '...'}}}",
        )
    if not clashes:
        yield ok("marks", f"no other routing rule uses {min(own)} to {max(own)}")


def _clashes(marks: Collection[int], rule: RoutingRule) -> bool:
    return rule.table in marks or bool(rule.mask and any(mark & rule.mask == rule.mark for mark in marks))


def _names(pools: Collection[Pool]) -> str:
    return ", ".join(pool.name for pool in pools)


def _interfaces_up(host: HostFacts) -> list[Interface]:
    """The interfaces at which packets from other hosts arrive."""
    return [interface for interface in host.interfaces if interface.up and interface.name != "lo"]


# --- interfaces -------------------------------------------------------------------------------------------------------


def check_interfaces(config: Config, host: HostFacts) -> Iterator[Finding]:
    """Check the interfaces that each pool names in `ingress` and for health checks, then the offloads of all."""
    for pool in config.pools:
        uses = [(name, "`ingress`") for name in pool.ingress]
        uses += [(health.device, "`device` under health") for health in pool.health if health.device]
        for name, use in dict.fromkeys(uses):
            if lack := interface_lack(pool, name, use, host.surroundings):
                say = error if host.interface(name) is None else warning
                yield say(lack.subject, lack.message, lack.fix)
        entrances = [found for found in map(host.interface, pool.ingress) if found]
        yield from _check_vlans(pool, entrances, host)
        yield from _check_macvlans(pool, entrances, host)
        yield from _check_bridges(pool, host)
        yield from _check_vrfs(pool, host)
        if entrances and pool.encap is Encap.NONE:
            yield from _check_fast_path(pool, entrances, host)
    for name, offloads in host.joining_offloads.items():
        yield warning(
            f"interface {name}",
            f"joins datagrams of a client on arrival ({', '.join(offloads)}): a whole batch goes to one backend",
            f"ethtool -K {name} {' '.join(f'{offload} off' for offload in offloads)}",
        )


def _check_fast_path(pool: Pool, entrances: list[Interface], host: HostFacts) -> Iterator[Finding]:
    exits: dict[str, Interface] = {}
    for backend in pool.backends:
        device = _exit(pool, backend, host)
        if device is None:
            yield warning(
                f"pool {pool.name}",
                f"does not use the fast path: the interface to {backend.name} is not known",
                f"give backend {backend.name} a `device` and, if it is behind a router, a `via`",
            )
            return
        exits[device.name] = device
    narrow = {(entrance, device) for entrance in entrances for device in exits.values() if device.mtu < entrance.mtu}
    for entrance, device in sorted(narrow, key=lambda pair: (pair[0].name, pair[1].name)):
        yield warning(
            f"interface {device.name}",
            f"has an MTU of {device.mtu}, but {entrance.name} has an MTU of {entrance.mtu}: larger packets of pool "
            f"{pool.name} are lost on the fast path, and their senders get no error",
            f"ip link set {device.name} mtu {entrance.mtu}",
        )
    slow = _bridges(entrances) if _rules_in_bridges(pool, host) else []
    names = ", ".join(
        entrance.name for entrance in entrances if entrance not in slow and not _macvlans(pool, entrance, host)
    )
    if not narrow and names:
        yield ok(f"pool {pool.name}", f"can use the fast path from {names} to {', '.join(sorted(exits))}")


def _check_vlans(pool: Pool, entrances: list[Interface], host: HostFacts) -> Iterator[Finding]:
    """Frames of a VLAN pass the ingress hook of the interface below it too, and `fwd` does not remove their tag."""
    for entrance in entrances:
        vlans = [found.name for found in host.interfaces if found.vlan_of == entrance.index]
        if vlans:
            yield warning(
                f"interface {entrance.name}",
                f"carries VLANs ({', '.join(vlans)}): the fast path of pool {pool.name} gets their frames here, and "
                "sends them to backends with the tag of the VLAN, so they are lost",
                f"in `ingress`, write the interface of the clients' VLAN in place of {entrance.name}",
            )


def _check_macvlans(pool: Pool, entrances: list[Interface], host: HostFacts) -> Iterator[Finding]:
    """Frames to the hardware address of a macvlan are to another host for the ingress hook of the interface below it.

    The macvlan of a service has the hardware address of VRRP, for instance (`use_vmac` of keepalived).
    """
    for entrance in entrances:
        if macvlans := _macvlans(pool, entrance, host):
            yield warning(
                f"interface {entrance.name}",
                f"is below a macvlan ({', '.join(macvlans)}): frames to the hardware address of the macvlan do not "
                f"take the fast path of pool {pool.name} here, but the slower path of the host",
                f"in `ingress`, add {', '.join(macvlans)} if clients of the pool send there",
            )


def _macvlans(pool: Pool, entrance: Interface, host: HostFacts) -> list[str]:
    """The macvlans above an interface that `ingress` does not name."""
    above = [found.name for found in host.interfaces if found.macvlan_of == entrance.index]
    return [name for name in above if name not in pool.ingress]


def _check_bridges(pool: Pool, host: HostFacts) -> Iterator[Finding]:
    """Where rules see the packets of bridges, they see them before the ingress hook of the bridge, and join fragments.

    With `dsr`, they leave the packet as it is, so the fast path forwards what was joined, which is too large. With
    other modes, the bridge itself sends the packet to a backend behind it, but never out of the port of its arrival.
    """
    sysctls = _rules_in_bridges(pool, host)
    if not sysctls:
        return
    settings = " and ".join(name.rpartition("/")[2] for name in sysctls)
    fix = f"if no other program needs it, set {settings} to 0"
    lost = ", and the fragments of larger packets are lost" if pool.forward is Forward.DSR else ""
    for bridge in _bridges(map(host.interface, pool.ingress)):
        yield warning(
            f"interface {bridge.name}",
            f"is a bridge whose packets pass the ordinary rules before the fast path of pool {pool.name} ({settings}): "
            f"packets are not faster{lost}",
            f"remove {bridge.name} from `ingress`; or, {fix}",
        )
    if pool.forward is not Forward.DSR:
        for bridge in _bridges(_exit(pool, backend, host) for backend in pool.backends):
            yield warning(
                f"interface {bridge.name}",
                f"is a bridge whose packets pass the ordinary rules in the bridge ({settings}): packets of pool "
                f"{pool.name} are lost if clients and backends are behind the same port of the bridge",
                fix,
            )


def _rules_in_bridges(pool: Pool, host: HostFacts) -> list[str]:
    """The sysctls by which packets of the pool pass rules of IP in bridges."""
    return [name for family, name in _RULES_OF_BRIDGES.items() if family in pool.families and host.sysctls.get(name)]


def _bridges(interfaces: Iterable[Interface | None]) -> list[Interface]:
    return list(dict.fromkeys(found for found in interfaces if found and found.bridge))


def _check_vrfs(pool: Pool, host: HostFacts) -> Iterator[Finding]:
    """Packets from interfaces of a VRF pass the prerouting hooks again, as packets of the VRF.

    With `nat` and `stateless`, they have the address of a backend by then. With `dsr` they take a second turn.
    """
    if pool.forward is not Forward.DSR or pool.balance is not Balance.ROUND_ROBIN:
        return
    names = {interface.index: interface.name for interface in host.interfaces}
    inside: dict[str, list[str]] = {}
    for interface in _interfaces_up(host):
        if interface.vrf and interface.name not in pool.ingress:
            inside.setdefault(names.get(interface.vrf, "?"), []).append(interface.name)
    for vrf, members in inside.items():
        yield warning(
            f"interface {vrf}",
            f"is a VRF: the kernel passes each packet from {', '.join(members)} to the rules twice, so the packet "
            f"takes two turns of pool {pool.name}, and of two backends only one gets packets",
            f"add {', '.join(members)} to `ingress` if clients of the pool send there",
        )


def _exit(pool: Pool, backend: Backend, host: HostFacts) -> Interface | None:
    """The interface that packets to a backend leave by; None if it is not known."""
    if backend.device:
        return host.interface(backend.device)
    goal = backend.via or backend.address
    route = host.routes.get(goal)
    if route is None or (route.gateway and pool.forward is Forward.DSR and not backend.via):
        return None
    device = host.interface_of(route)
    return None if device is None or device.name == "lo" else device


# --- connection tracking ----------------------------------------------------------------------------------------------

# Clients that send within one time-out. The default limit of 262,144 entries is enough for 26 backends.
_ENOUGH_CLIENTS = 10_000
_AMPLE_CLIENTS = 100_000
_FULL_PERCENT = 80
# In seconds. The kernel's defaults are 30 and 120. With longer time-outs, a flood from forged addresses fills the table
# sooner.
_LONG_TIMEOUTS = {"nf_conntrack_udp_timeout": 60, "nf_conntrack_udp_timeout_stream": 180}
_DEFAULT_TIMEOUTS = {"nf_conntrack_udp_timeout": 30, "nf_conntrack_udp_timeout_stream": 120}
_LAST_ZONE = 65535


def check_conntrack(config: Config, host: HostFacts) -> Iterator[Finding]:
    """Check the size of the table, time-outs and SCTP. Without a pool that uses conntrack there are no findings."""
    pools = [pool for pool in config.pools if pool.forward is Forward.NAT]
    if not pools or not host.conntrack:  # conntrack is not loaded yet; the rules will load it
        return
    yield from _check_size(pools, host.conntrack)
    yield from _check_timeouts(host)
    sctp = any(listener.protocol is Protocol.SCTP for pool in pools for listener in pool.listen)
    known = not host.hides_sysctls
    if sctp and known and "net/netfilter/nf_conntrack_sctp_timeout_established" not in host.sysctls:
        message = "the kernel's conntrack does not know SCTP, and can't translate its ports"
        yield error("conntrack", message, "use a kernel with CONFIG_NF_CT_PROTO_SCTP")
    if host.sysctls.get("net/netfilter/nf_conntrack_checksum"):
        yield ok("conntrack", "datagrams with a wrong checksum are not translated (nf_conntrack_checksum)")


def _check_size(pools: Collection[Pool], fill: Mapping[str, int]) -> Iterator[Finding]:
    count, limit = fill.get("entries", 0), fill.get("limit")  # a table may have no limit
    if limit and count * 100 >= limit * _FULL_PERCENT:
        yield warning(
            "conntrack",
            f"{count} of at most {limit} entries are in use; when the table is full, datagrams of new clients are lost",
            sysctl_command({"net/netfilter/nf_conntrack_max": 2 * limit}),
        )
    pool, entries = max(((pool, _entries_per_client(pool)) for pool in pools), key=lambda pair: pair[1])
    if limit and limit < entries * _ENOUGH_CLIENTS:
        yield warning(
            "conntrack",
            f"room for {limit} entries: {limit // entries} clients of pool {pool.name}, with {entries} entries each",
            sysctl_command({"net/netfilter/nf_conntrack_max": entries * _AMPLE_CLIENTS}),
        )
    else:
        room = f"{limit // entries} clients" if limit else "any number of clients"
        yield ok("conntrack", f"room for {room} at a time, with {entries} entries each (pool {pool.name})")


def _entries_per_client(pool: Pool) -> int:
    """One entry for each backend where packets are spread, else one in all. The sorry server is not counted."""
    if pool.per is Per.FLOW or all(listener.protocol is not Protocol.UDP for listener in pool.listen):
        return 1
    families = [backend.family for backend in pool.backends]
    return max((families.count(family) for family in set(families)), default=1)


def _check_timeouts(host: HostFacts) -> Iterator[Finding]:
    values = {name: host.sysctls.get(f"net/netfilter/{name}", 0) for name in _LONG_TIMEOUTS}
    long = [name for name, seconds in values.items() if seconds > _LONG_TIMEOUTS[name]]
    if long:
        yield warning(
            "conntrack",
            f"{', '.join(f'{name} is {values[name]} s' for name in long)}: entries of clients that "
            "stopped stay long, and the table fills sooner",
            sysctl_command({f"net/netfilter/{name}": _DEFAULT_TIMEOUTS[name] for name in long}),
        )


def check_zones(own: Collection[int], host: HostFacts) -> Iterator[Finding]:
    """Check whether other programs use the zones of nftlb, too."""
    if not own:
        return
    entries = host.shared_zones or {}
    ruled = {zone for item in host.nft.foreign for zone in _zones_set(item.get("rule", {}))}
    taken = ruled | entries.keys()
    common = sorted(taken.intersection(own))
    if not common:
        yield ok("conntrack zones", f"no other program uses {min(own)} to {max(own)}")
        return
    free = max(taken) + 1
    fits = free + len(own) <= _LAST_ZONE
    yield warning(
        "conntrack zones",
        f"{', '.join(map(str, common))}: other programs use these zones too "
        f"({sum(entries.get(zone, 0) for zone in common)} entries, {len(ruled.intersection(own))} by rules)",
        f"zones: {{first: {free}}}" if fits else "zones: {first: ...}, above the zones of other programs",
    )


def _zones_set(rule: Mapping[str, Any]) -> Iterator[int]:
    """The zones that a rule sets."""
    for expression in rule.get("expr", ()):
        mangle = expression.get("mangle", {})
        if mangle.get("key", {}).get("ct", {}).get("key") == "zone":
            value = mangle.get("value")
            if isinstance(value, int):
                yield value
            elif isinstance(value, dict) and "map" in value:
                data = value["map"].get("data")
                elements = data.get("set", []) if isinstance(data, dict) else []
                yield from (
                    element[1] for element in elements if isinstance(element, list) and isinstance(element[1], int)
                )
